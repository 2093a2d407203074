"""Products whose weights are held in 8 bits: for every network, at a quarter of float32's memory and half of bfloat16's.

    w [N, K]  ~  rows int8 [N, K] * scale float32 [N],      scale = max |row| / 127

Weight-only: activations stay as they are, so a product is that of the rounded weights, to rounding. What is held so: the
linears of the blocks, experts, the head. Embeddings, norms, the experts' router, adapters and caches are not.

Rows become floats again a piece at a time, in a piece that stays in the processor's cache; for a few rows of bfloat16 torch
has a kernel that reads the bytes themselves (both chosen by measurement: docs/guides/eight-bits.md).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PIECE = 1 << 19  # elements made float at a time
FEW = 8  # rows of x up to which the kernel for bytes wins
WIDE = 64  # and of which K must be a multiple: it reads beyond its rows at others, and the process dies


class Rounded:
    """Weights `[..., N, K]` as int8 of that shape and a float32 scale a row `[..., N]`: part of what a `Weight` holds."""

    def __init__(self, rows: Tensor, scale: Tensor) -> None:
        self.rows, self.scale = rows, scale

    @property
    def shape(self) -> torch.Size:
        return self.rows.shape

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice | tuple[int | slice, ...] | Tensor) -> Rounded:
        """Experts or rows of it (ids of any shape); the columns of a row share its scale and are not taken apart."""
        return Rounded(self.rows[index], self.scale[index])

    @torch.no_grad()
    def copy_(self, weight: Tensor) -> None:
        """Take on a weight `[..., N, K]` of any floating dtype. Raises ValueError for numbers that are not finite."""
        weight = weight.float()
        largest = weight.abs().amax(-1)
        if not bool(largest.isfinite().all()):
            raise ValueError("holds numbers that are not finite, which 8 bits cannot round")
        scale = largest / 127
        self.scale.copy_(scale)
        self.rows.copy_((weight / scale.clamp(min=torch.finfo(torch.float32).tiny)[..., None]).round_())

    def floats(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weights that the bytes stand for."""
        return (self.rows.float() * self.scale[..., None].float()).to(dtype)


class Weight(nn.Module):
    """Holds a `Rounded` in a network, so that it moves with it; its numbers come from `copy_`."""

    def __init__(self, *shape: int, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(shape, dtype=torch.int8, device=device))
        self.register_buffer("scale", torch.zeros(shape[:-1], dtype=torch.float32, device=device))
        self.rows: Tensor
        self.scale: Tensor

    @property
    def whole(self) -> Rounded:
        return Rounded(self.rows, self.scale)

    def __getitem__(self, index: int | slice | tuple[int | slice, ...]) -> Rounded:
        return self.whole[index]


class Int8Linear(Weight):
    """An `nn.Linear` of the same sizes and bias, its weight in 8 bits."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.out_features, linear.in_features, device=linear.weight.device)
        self.bias = linear.bias

    @property
    def weight(self) -> Rounded:
        return self.whole

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.whole, self.bias)


def product(x: Tensor, weight: Rounded, bias: Tensor | None = None) -> Tensor:
    """x `[..., K]`, weight `[N, K]` -> x w^T + bias `[..., N]`, in the dtype of x."""
    flat = x.reshape(-1, x.shape[-1])
    count, width = weight.shape
    if x.dtype == torch.bfloat16 and x.device.type == "cpu" and 0 < len(flat) <= FEW and width % WIDE == 0:
        out = torch._weight_int8pack_mm(flat.contiguous(), weight.rows.contiguous(), weight.scale.to(x.dtype))
    else:
        out = flat.new_empty(len(flat), count)
        step = max(1, PIECE // width) if x.device.type == "cpu" else count
        piece = torch.empty(min(step, count), width, dtype=x.dtype, device=x.device)
        for first in range(0, count, step):
            rows = weight.rows[first : first + step]
            torch.mm(flat, piece[: len(rows)].copy_(rows).T, out=out[:, first : first + len(rows)])
        out *= weight.scale.to(x.dtype)
    out = out.view(*x.shape[:-1], -1)
    return out if bias is None else out + bias


def linear(x: Tensor, weight: Tensor | Rounded) -> Tensor:
    """`F.linear` for either kind of weight."""
    return product(x, weight) if isinstance(weight, Rounded) else F.linear(x, weight)


def rows_of(weight: Tensor | Rounded, ids: Tensor) -> Tensor:
    """The rows `[..., K]` of either kind of weight `[N, K]`, ids `[...]`."""
    return weight[ids].floats() if isinstance(weight, Rounded) else F.embedding(ids, weight)


def held(module: nn.Module) -> list[tuple[str, Tensor | Rounded]]:
    """What a linear or a norm holds, by name: `nn.Module.named_parameters`, and weights in 8 bits."""
    if not isinstance(module, Int8Linear):
        return list(module.named_parameters())
    found: list[tuple[str, Tensor | Rounded]] = [("weight", module.weight)]
    return found if module.bias is None else [*found, ("bias", module.bias)]


def in_eight_bits(blocks: nn.Module) -> None:
    """Put weights in 8 bits, yet without numbers, in the place of every linear in `blocks` but routers, and of experts."""
    for module in list(blocks.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and name != "router":
                setattr(module, name, Int8Linear(child))
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.dim() == 3:  # experts, stacked
                delattr(module, name)
                module.add_module(name, Weight(*parameter.shape, device=parameter.device))
