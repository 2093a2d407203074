"""Parts: what a checkpoint gives to the fast runtime, packed as its file holds it where the file has packed weights."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from mezzotint.checkpoints.gguf import GGUFFile
from mezzotint.checkpoints.llama import NAMES, half_split
from mezzotint.checkpoints.load import Checkpoint
from mezzotint.model.adapter import Adapter, LayerPairs, LowRank
from mezzotint.model.config import ModelConfig
from mezzotint.runtime.graph import Pairs
from mezzotint.runtime.packed import Packed, from_q4_1, from_q8_0, joined, rounded

# Our product -> the linears of a Hugging Face Llama that it holds, in order.
PRODUCTS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"), "down": ("mlp.down_proj",),
}  # fmt: skip
UNPACK = {"Q4_1": from_q4_1, "Q8_0": from_q8_0}


@dataclass
class Parts:
    """What `FastDenoiser` is made of. linears, pairs: "3.qkv" -> of that product; norms as `blocks_graph` names them."""

    config: ModelConfig
    shift: int
    embedding: Packed
    head: Packed
    linears: dict[str, Packed]
    norms: dict[str, Tensor]
    pairs: dict[str, Pairs]
    adapter: Adapter | None = None
    canvas_role: nn.Parameter | None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Parts:
        """Raises ValueError for a checkpoint that the runtime cannot compute, and for widths that are not multiples of 32."""
        config, packed, plain = checkpoint.config, {}, {}
        unknown = {
            f"networks of the family {checkpoint.facts.family}": config.variant is not None
            or checkpoint.facts.reader is not None,
            "conditions": config.condition is not None,
        }
        if found := [name for name, there in unknown.items() if there]:
            raise ValueError(
                f"int8 products know no {found[0]}; use compute 'float32', or 'int8-weights' for {checkpoint.name}"
            )
        for name, unpack, load in _tensors(checkpoint):
            if name.endswith(("norm.weight", "layernorm.weight")) or not name.endswith(".weight"):
                plain[name] = load()
            else:
                packed[name] = unpack()
        linears, norms = {}, {"final": plain["model.norm.weight"]}
        for i in range(config.num_layers):
            at = f"model.layers.{i}."
            for product, names in PRODUCTS.items():
                linears[f"{i}.{product}"] = joined([packed.pop(f"{at}{name}.weight") for name in names])
            norms[f"{i}.attention"] = plain[at + "input_layernorm.weight"]
            norms[f"{i}.mlp"] = plain[at + "post_attention_layernorm.weight"]
        embedding = packed["model.embed_tokens.weight"]
        role = plain.get("mezzotint.canvas_role")
        parts = cls(
            config, checkpoint.facts.shift, embedding, packed.get("lm_head.weight", embedding), linears, norms, {},
            canvas_role=None if role is None else nn.Parameter(role),
        )  # fmt: skip
        if isinstance(checkpoint.stored, GGUFFile) and hasattr(mmap, "MADV_DONTNEED"):
            checkpoint.stored.data.madvise(mmap.MADV_DONTNEED)  # its pages are read; they may leave the memory
        adapter = checkpoint.new_adapter()
        if adapter is not None:
            parts.take(adapter)
        return parts

    @torch.no_grad()
    def take(self, adapter: Adapter) -> None:
        """An adapter: its pairs go into the graph, the rest of it stays a module."""
        if adapter.self_conditioning is not None:
            raise ValueError("int8 products know no self-conditioning; use compute 'float32' for this checkpoint")
        for i, layer in enumerate(adapter.layers):
            assert isinstance(layer, LayerPairs)
            for product, pair in layer.pairs.items():
                assert isinstance(pair, LowRank)
                self.pairs[f"{i}.{product}"] = _pairs(pair)
        adapter.layers = nn.ModuleList()
        self.adapter = adapter.float()


def _pairs(pair: LowRank) -> Pairs:
    """The pairs of one fused product: x a `[I, P r]`, then b `[P r, O]` with the scale in it, a block for each part.

    Between the blocks are zeros: parts of their own would be more nodes, which cost a pass of the base, too.
    """
    ups = dict(zip(pair.names, pair.b, strict=True))
    downs = dict(zip(pair.names, torch.split(pair.a, pair.rank), strict=True))
    a = [
        downs.get(name, torch.zeros(pair.rank, pair.a.shape[1])) for name in pair.sizes
    ]  # a part without a pair adds nothing
    b = [pair.scale * ups.get(name, torch.zeros(size, pair.rank)).T.float() for name, size in pair.sizes.items()]
    return Pairs(torch.cat(a).T.float().contiguous().numpy(), torch.block_diag(*b).numpy())  # type: ignore[no-untyped-call]  # torch's own


def _tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, Callable[[], Packed], Callable[[], Tensor]]]:
    """(name, packed, as it is) of every tensor, read when asked for."""
    file = checkpoint.stored
    if not isinstance(file, GGUFFile):
        for name, tensor in checkpoint.weights():
            yield name, partial(rounded, tensor), tensor.float
        return
    ours = {
        theirs.format(i): name.format(i) for theirs, name in NAMES.items() for i in range(checkpoint.config.num_layers)
    }
    for theirs in file.tensors:
        if theirs in ours:
            yield ours[theirs], partial(_packed, checkpoint, file, theirs, ours[theirs]), partial(file.tensor, theirs)


def _packed(checkpoint: Checkpoint, file: GGUFFile, theirs: str, name: str) -> Packed:
    info, config = file.tensors[theirs], checkpoint.config
    if info.type in UNPACK:
        raw = np.frombuffer(file.data, np.uint8, info.size, info.offset)
        packed = UNPACK[info.type](raw, info.shape[0])
    else:
        packed = rounded(file.tensor(theirs))
    heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}.get(name.split(".")[-2])
    if heads is None:
        return packed
    order = half_split(torch.arange(packed.outputs)[:, None], heads)[:, 0]  # a GGUF interleaves rotary pairs
    return packed.rows(order.numpy())
