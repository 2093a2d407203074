"""One network over several ranks: tensor and expert parallel, through PyTorch's DTensor (Megatron's way, arXiv 1909.08053).

    qkv, gate_up     rows:     each rank has some heads, and some of the MLP's inner numbers      ColwiseParallel
    out, down        columns:  what the ranks say of the same states is added                      RowwiseParallel
    embedding, head  rows:     a stretch of the vocabulary each; logits are gathered
    experts          each rank has some of them, whole; what they say is added
    norms, router    whole everywhere

A rank reads its own part and no more is kept of a tensor. Fused products keep their order on every rank (its q, k, v), so
the whole of one is in another order than one process has it. Every rank computes the same logits to the bit: sums and
gathered pieces come from the same place. So ranks that decode the same request with the same seed stay together.

Fewer heads for keys and values than ranks: each is held by several. Vocabulary and experts may be split unevenly.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mezzotint.model.config import ModelConfig

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from mezzotint.model.denoiser import Denoiser


@dataclass(frozen=True)
class Share:
    """What rank `rank` of `size` holds of a network of these sizes. Raises ValueError for sizes that cannot be split so."""

    config: ModelConfig
    rank: int
    size: int

    def __post_init__(self) -> None:
        c, n = self.config, self.size
        for layer in range(c.num_layers):
            heads, kv_heads, _ = c.heads(layer)
            if heads % n:
                raise ValueError(f"{heads} heads cannot be split over {n} ranks; take a number that divides {heads}")
            if kv_heads % n and n % kv_heads:
                raise ValueError(
                    f"layer {layer} has {kv_heads} heads for keys and values, which {n} ranks can neither split nor "
                    f"share evenly; take a number that divides {kv_heads}, or a multiple of it"
                )
        experts = None if c.variant is None else c.variant.experts
        for name, width in (("mlp_width", c.mlp_width), ("shared_width", experts.shared_width if experts else 0)):
            if width % n:
                raise ValueError(f"{name} {width} cannot be split over {n} ranks; take a number that divides it")
        if not all(len(_stretch(c.vocab_size, rank, n)) for rank in range(n)):
            raise ValueError(f"a vocabulary of {c.vocab_size} tokens leaves some of {n} ranks without any")

    @property
    def vocabulary(self) -> range:
        return _stretch(self.config.vocab_size, self.rank, self.size)

    @property
    def experts(self) -> range:
        """Of every layer that has some."""
        variant = self.config.variant
        return _stretch(
            0 if variant is None or variant.experts is None else variant.experts.count, self.rank, self.size
        )

    def kv_heads(self, count: int) -> range:
        """Which of `count` heads for keys and values: those that this rank's query heads read."""
        if count % self.size == 0:
            return _stretch(count, self.rank, self.size)
        first = self.rank * count // self.size
        return range(first, first + 1)

    @property
    def held(self) -> ModelConfig:
        """The sizes of this rank's network. Experts are all in it; which are held is told apart."""
        c, variant = self.config, self.config.variant
        if variant is not None:
            kinds = tuple(
                kind if (kv := kind.num_kv_heads) is None else replace(kind, num_kv_heads=len(self.kv_heads(kv)))
                for kind in variant.kinds
            )
            e = variant.experts
            shared = None if e is None else replace(e, shared_width=e.shared_width // self.size)
            variant = replace(variant, kinds=kinds, experts=shared)
        return replace(
            c, vocab_size=len(self.vocabulary), num_heads=c.num_heads // self.size,
            num_kv_heads=len(self.kv_heads(c.num_kv_heads)), mlp_width=c.mlp_width // self.size, variant=variant,
        )  # fmt: skip

    def parts(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Of named whole tensors what this rank holds: slices, all of some, and nothing of others' experts."""
        for name, tensor in weights:
            if (part := self.part(name, tensor)) is not None:
                yield name, part

    def part(self, name: str, tensor: Tensor) -> Tensor | None:
        if (expert := re.search(r"\.experts\.(\d+)\.", name)) is not None:
            return tensor if int(expert[1]) in self.experts else None
        if name == "model.embed_tokens.weight" or name.startswith("lm_head."):
            return _rows(tensor, self.vocabulary)
        *_, product, kind = name.split(".")
        if product in ("o_proj", "down_proj"):
            columns = _stretch(tensor.shape[-1], self.rank, self.size)
            return tensor[:, columns.start : columns.stop] if kind == "weight" else tensor
        if product in ("q_proj", "gate_proj", "up_proj"):
            return _rows(tensor, _stretch(len(tensor), self.rank, self.size))
        if product in ("k_proj", "v_proj"):
            layer = re.search(r"\.layers\.(\d+)\.", name)
            assert layer is not None, name
            _, count, size = self.config.heads(int(layer[1]))
            heads = self.kv_heads(count)
            return _rows(tensor, range(heads.start * size, heads.stop * size))
        return tensor


def _stretch(count: int, rank: int, size: int) -> range:
    """DTensor's own way to split: as many each, rounded up; the last ranks may have fewer."""
    step = -(-count // size)
    return range(min(count, rank * step), min(count, (rank + 1) * step))


def _rows(tensor: Tensor, rows: range) -> Tensor:
    return tensor[rows.start : rows.stop]


def share_of(config: ModelConfig, mesh: DeviceMesh) -> Share:
    """This process's. Raises ValueError for a mesh of more than one dimension, and for sizes that cannot be split."""
    if mesh.ndim != 1:
        raise ValueError(f"the mesh has {mesh.ndim} dimensions; a network is split along one")
    return Share(config, mesh.get_local_rank(), mesh.size())


def split(denoiser: Denoiser, share: Share, mesh: DeviceMesh) -> Denoiser:
    """Make a network of the sizes `share.held`, weights in it, the part of one that speaks for all. It only decodes."""
    from torch.distributed.tensor import DTensor, Replicate, Shard
    from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

    from mezzotint.model.layers_variant import PackedExperts

    vocabulary = share.config.vocab_size

    def put(module: nn.Module, dim: int, count: int | None = None) -> None:
        """Its tensors as what they are: parts of whole ones along `dim`. count: its size, where parts differ."""
        for name, tensor in list(module.named_parameters(recurse=False)):
            if dim == 1 and tensor.dim() == 1:
                continue  # a bias that is added once, to the sum
            shape = list(tensor.shape)
            shape[dim] = count or shape[dim] * share.size
            strides = torch.empty(shape, device="meta").stride()
            whole = DTensor.from_local(
                tensor.data, mesh, [Shard(dim)], run_check=False, shape=torch.Size(shape), stride=strides
            )
            setattr(module, name, nn.Parameter(whole, requires_grad=False))

    plan: dict[str, ParallelStyle] = {}
    for name, module in denoiser.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, PackedExperts):
            put(module, 0, module.count)
            plan[name] = _experts_summed()
        elif isinstance(module, nn.Linear) and last in ("qkv", "gate_up"):
            put(module, 0)
            plan[name] = ColwiseParallel()
        elif isinstance(module, nn.Linear) and last in ("out", "down"):
            put(module, 1)
            plan[name] = RowwiseParallel()
    put(denoiser.embedding, 0, vocabulary)
    if isinstance(denoiser.head, nn.Linear):
        put(denoiser.head, 0, vocabulary)
        plan["head"] = ColwiseParallel(output_layouts=Replicate())
    parallelize_module(denoiser, mesh, plan)
    denoiser.config, denoiser.held = share.config, share.held
    return denoiser


def _experts_summed() -> Any:
    """The style of `PackedExperts`, which computes what its own say: the sum over ranks is the answer."""
    from torch.distributed.tensor import DTensor, Partial, distribute_module
    from torch.distributed.tensor.parallel import ParallelStyle

    class ExpertParallel(ParallelStyle):
        def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
            def total(module: nn.Module, out: Any, mesh: DeviceMesh) -> Any:
                return DTensor.from_local(out, mesh, [Partial()], run_check=False).full_tensor()

            return distribute_module(module, device_mesh, lambda name, module, mesh: None, None, total)

    return ExpertParallel()


def is_split(tensor: Any) -> bool:
    """Does this rank hold a part of it only?"""
    if not isinstance(tensor, Tensor) or type(tensor) in (Tensor, nn.Parameter):
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def part_here(tensor: Any) -> Any:
    """What this rank holds of a tensor that may be split; anything else as it is."""
    return tensor.to_local() if is_split(tensor) else tensor


def beside(compute: Callable[[Tensor, Tensor], Tensor], x: Tensor, table: Tensor) -> Tensor:
    """compute(x, table), whole on every rank, for a table that may be split over them."""
    if not is_split(table):
        return compute(x, table)
    from torch.distributed.tensor import DTensor, Replicate

    assert isinstance(table, DTensor)
    mesh = table.device_mesh
    said: Any = compute(DTensor.from_local(x, mesh, [Replicate()], run_check=False), table)
    whole: Tensor = said.full_tensor()
    return whole
