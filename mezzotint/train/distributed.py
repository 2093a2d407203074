"""Ranks: the processes of one run, and sums that do not depend on how many there are.

    parts        0   1   2   3   4   5   6   7        micro-batches of one step
                  \\ /     \\ /     \\ /     \\ /
                   +   .   +       +   .   +          one binary tree of sums, whatever the ranks:
                    \\     /         \\     /           1 rank adds all of it, 2 ranks a half each, 4 a quarter
                       +      .      +

Floating-point sums depend on their order. Here the order is the tree over micro-batches, so a run has the same bits on 1,
2 or 4 ranks. Between ranks a gradient travels as often as in a ring: each rank receives its slice of everyone's
(all-to-all), adds the slices in the tree's order, and hands the sum to all (all-gather). The bits also depend on the kind
of processor, torch's version and the threads of a rank; those have to stay.

`shard` runs leave the sums to FSDP2, whose order depends on the ranks: exact on the same number, close on another.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mezzotint.model.denoiser import Denoiser
from mezzotint.model.parallel import is_split

TIMEOUT = 300.0  # seconds that a rank waits for the others, which may be writing a checkpoint, before it gives up


@dataclass(frozen=True)
class Ranks:
    """This process among `size`. Every method is called by all ranks at the same point, and is local where size is 1."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Does this rank speak and write for all?"""
        return self.rank == 0

    def parts(self, parts: int) -> range:
        """The micro-batches of this rank. Raises ValueError unless each rank has a whole branch of the tree."""
        share, rest = divmod(parts, self.size)
        if rest or share & (share - 1):
            allowed = [self.size << k for k in range(4)]
            raise ValueError(
                f"micro_batches is {parts} on {self.size} ranks; allowed: {', '.join(map(str, allowed))} and so on, "
                "so that each rank has 1, 2, 4, ... of them"
            )
        return range(self.rank * share, (self.rank + 1) * share)

    def gather(self, numbers: Sequence[float]) -> list[list[float]]:
        """Everyone's numbers (as many on each rank), by rank; float64."""
        if self.size == 1:
            return [list(numbers)]
        mine = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        all_of_them = mine.new_empty(self.size * len(numbers))
        _all_gather(all_of_them, mine)
        rows: list[list[float]] = all_of_them.view(self.size, -1).tolist()
        return rows

    def tell(self, what: Any) -> Any:
        """What the first rank has, on all ranks. Anything that JSON can hold."""
        if self.size == 1:
            return what
        box = [what]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def sum(self, tensors: list[Tensor], bucket: int = 1 << 24) -> list[Tensor]:
        """The sum over ranks in the tree's order, in place; every rank has `tensors` of the same shapes, float32."""
        if self.size == 1 or not tensors:
            return tensors
        flat = torch.cat([t.flatten() for t in tensors])
        for begin in range(0, len(flat), bucket):
            piece = flat[begin : begin + bucket]
            padded = torch.nn.functional.pad(piece, (0, -len(piece) % self.size))
            mine = torch.empty_like(padded)
            dist.all_to_all_single(mine, padded)  # row r: my slice of rank r's
            tree = Tree()
            for row in mine.view(self.size, -1).clone():
                tree.add([row])
            _all_gather(padded, tree.total()[0].contiguous())
            piece.copy_(padded[: len(piece)])
        begin = 0
        for t in tensors:
            t.copy_(flat[begin : begin + t.numel()].view_as(t))
            begin += t.numel()
        return tensors

    def wait(self) -> None:
        """Until all ranks are here."""
        self.gather([0.0])


ALONE = Ranks()
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)  # its name since torch 2.13


class Tree:
    """Adds lists of tensors in the order of a binary tree over their arrival, holding one list a level."""

    def __init__(self) -> None:
        self.branches: list[tuple[int, list[Tensor]]] = []  # (leaves, their sum), the larger first

    def add(self, leaf: list[Tensor]) -> None:
        """The next leaf; its tensors may be written to."""
        leaves = 1
        while self.branches and self.branches[-1][0] == leaves:
            _, left = self.branches.pop()
            torch._foreach_add_(left, leaf)
            leaf, leaves = left, 2 * leaves
        self.branches.append((leaves, leaf))

    def total(self) -> list[Tensor]:
        """The sum of all leaves. Branches of unequal size, where leaves are no power of two, are added from the left."""
        _, total = self.branches[0]
        for _, branch in self.branches[1:]:
            torch._foreach_add_(total, branch)
        self.branches = []
        return total


def tree_sum(numbers: Sequence[float]) -> float:
    """The same order for plain numbers."""
    tree = Tree()
    for number in numbers:
        tree.add([torch.tensor(number, dtype=torch.float64)])
    return float(tree.total()[0])


@contextmanager
def join(timeout: float = TIMEOUT, gpus: bool = True) -> Iterator[Ranks]:
    """The ranks that torchrun (or Slurm, Kubernetes: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) started; alone without.

    nccl where there are GPUs that may be used, gloo where not. A rank that hears nothing from the others for `timeout`
    seconds ends with an error instead of waiting for ever.
    """
    size = int(os.environ.get("WORLD_SIZE", "0"))
    cuda = gpus and torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    if size == 0:
        yield Ranks(device=device)
        return
    limit = datetime.timedelta(seconds=timeout)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=limit)
    try:
        yield Ranks(dist.get_rank(), size, device)
    finally:
        dist.destroy_process_group()


# -- sharding -------------------------------------------------------------------------------------------------------


def shard(denoiser: Denoiser, ranks: Ranks) -> None:
    """FSDP2: each block's weights and the rest are split over the ranks, gathered when computed, gradients averaged."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if not dist.is_initialized():
        raise ValueError("shard=true needs ranks: start the run with torchrun (one rank will do)")
    mesh = init_device_mesh(ranks.device.type, (ranks.size,))
    for block in denoiser.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(denoiser, mesh=mesh)


def gather_weights(denoiser: Denoiser) -> None:
    """The end of sharding: every rank holds whole weights again, as plain tensors."""
    for module in (denoiser, *denoiser.blocks):
        module.unshard()


def synchronise(denoiser: nn.Module, last: bool) -> None:
    """Should the coming backward pass of a sharded network sum gradients over ranks? Only in a rank's last part."""
    denoiser.set_requires_gradient_sync(last)  # type: ignore[operator]  # fully_shard adds it


def full(tensor: Tensor) -> Tensor:
    """A plain tensor: the whole of one that is split over ranks."""
    whole: Tensor = tensor.full_tensor() if is_split(tensor) else tensor  # type: ignore[attr-defined]  # a DTensor's
    return whole
