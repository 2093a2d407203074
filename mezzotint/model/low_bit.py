"""Products whose weights are held in 8 or 4 bits: for every network, at a quarter or less of float32's memory.

    int8   w [N, K] ~ rows int8 [N, K] * scale [N]                     scale = max |row| / 127
    fp8    w [N, K] ~ rows float8_e4m3fn [N, K] * scale [N]            scale = max |row| / 448, the largest that it holds
    int4   w [N, K] ~ rows 0..15 [N, K] * scale [N, K/32] + least      blocks of 32, as a GGUF's Q4_1; both in float16

Weight-only: activations stay as they are, so a product is that of the rounded weights, to rounding. The one exception is
fp8 on a GPU that multiplies fp8 itself (compute capability 8.9 on), where a row of x is rounded to fp8 too. What is held so:
the linears of the blocks, experts, the head. Embeddings, norms, the experts' router, adapters and caches are not.

Rows become floats again a piece at a time, in a piece that stays in the processor's cache; for a few rows of bfloat16 torch
has a kernel that reads int8 itself (both chosen by measurement: docs/guides/low-bits.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KINDS = ("int8", "fp8", "int4")
FP8 = torch.float8_e4m3fn
TOP = {torch.int8: 127.0, FP8: 448.0}
GROUP = 32  # weights of a row that share a scale in 4 bits
PIECE = 1 << 19  # elements made float at a time
FEW = 8  # rows of x up to which the kernel for bytes wins
WIDE = 64  # and of which K must be a multiple: it reads beyond its rows at others, and the process dies
TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, eq=False)
class Rounded:
    """Weights `[..., N, K]`: part of what a `Weight` holds.

    rows: int8 or fp8 of that shape and scale float32 `[..., N]`; or with `least`, 4 bits: rows uint8 `[..., N, 16 G]`, scale
    and least float16 `[..., N, G]`, G blocks of 32, in a block the numbers i and i + 16 in one byte. width: K.
    """

    rows: Tensor
    scale: Tensor
    least: Tensor | None
    width: int

    @property
    def shape(self) -> torch.Size:
        return torch.Size((*self.rows.shape[:-1], self.width))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice | tuple[int | slice, ...] | Tensor) -> Rounded:
        """Experts or rows of it (ids of any shape); the columns of a row share its scale and are not taken apart."""
        least = None if self.least is None else self.least[index]
        return Rounded(self.rows[index], self.scale[index], least, self.width)

    @torch.no_grad()
    def copy_(self, weight: Tensor) -> None:
        """Take on a weight `[..., N, K]` of any floating dtype. Raises ValueError for numbers that cannot be rounded."""
        weight = weight.float()
        if not bool(weight.sum(-1, dtype=torch.float64).isfinite().all()):
            raise ValueError("holds numbers that are not finite, which cannot be rounded")
        if self.least is None:
            top = TOP[self.rows.dtype]
            scale = weight.abs().amax(-1) / top
            scaled = (weight / scale.clamp(min=TINY)[..., None]).clamp_(-top, top)
            self.scale.copy_(scale)
            self.rows.copy_(scaled.round_() if self.rows.dtype == torch.int8 else scaled)
            return
        blocks = F.pad(weight, (0, -self.width % GROUP))
        if spare := -self.width % GROUP:
            blocks[..., -spare:] = weight[..., -1:]  # what widens no block
        blocks = blocks.view(*blocks.shape[:-1], -1, GROUP)
        low, high = blocks.aminmax(dim=-1)
        least = low.half()
        scale = ((high - least.float()) / 15).half()
        if not bool((least.isfinite() & scale.isfinite()).all()):
            raise ValueError("holds numbers beyond what float16 does, in which 4 bits have their scale")
        steps = (blocks - least.float()[..., None]) / scale.float().clamp(min=TINY)[..., None]
        steps = steps.round_().clamp_(0, 15).to(torch.uint8)
        self.scale.copy_(scale)
        self.least.copy_(least)
        self.rows.copy_((steps[..., :16] | steps[..., 16:] << 4).flatten(-2))

    def floats(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weights that the bytes stand for."""
        if self.least is None:
            return (self.rows.float() * self.scale[..., None].float()).to(dtype)
        return self._from_four_bits(torch.float32)[..., : self.width].to(dtype)

    def _from_four_bits(self, dtype: torch.dtype) -> Tensor:
        """`[..., N, 32 G]`"""
        assert self.least is not None
        packed = self.rows.reshape(*self.scale.shape, GROUP // 2)
        out = torch.empty(*self.scale.shape, GROUP, dtype=dtype, device=packed.device)
        out[..., :16] = packed & 15
        out[..., 16:] = packed >> 4
        return out.mul_(self.scale[..., None].to(dtype)).add_(self.least[..., None].to(dtype)).flatten(-2)

    def unscaled_into(self, piece: Tensor) -> None:
        """Make floats of all rows but for what `row_scale` holds: piece `[N, K]`, of the dtype that computes."""
        if self.least is not None:
            piece.copy_(self._from_four_bits(torch.float32)[:, : self.width])
        elif self.rows.dtype == FP8 and self.rows.device.type == "cpu":
            # e4m3's bits in float16's places: the sign apart, 2^-8 of the number. 10 times as fast as torch's own
            bits = self.rows.view(torch.int8).to(torch.int16).bitwise_left_shift_(7).bitwise_and_(~0x4000)
            piece.copy_(bits.view(torch.float16))
        else:
            piece.copy_(self.rows)

    @property
    def row_scale(self) -> Tensor | None:
        """By what the rows of a product are multiplied, float32 `[N]`; None for nothing."""
        if self.least is not None:
            return None
        shifted = self.rows.dtype == FP8 and self.rows.device.type == "cpu"
        return self.scale * 256 if shifted else self.scale


class Weight(nn.Module):
    """Holds a `Rounded` `[..., N, K]` in a network, so that it moves with it; its numbers come from `copy_`."""

    def __init__(self, kind: str, *shape: int, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.width, groups = shape[-1], -(-shape[-1] // GROUP)
        stored, per_row, dtype, float_dtype = {
            "int8": (shape, shape[:-1], torch.int8, torch.float32),
            "fp8": (shape, shape[:-1], FP8, torch.float32),
            "int4": ((*shape[:-1], groups * GROUP // 2), (*shape[:-1], groups), torch.uint8, torch.float16),
        }[kind]
        self.register_buffer("rows", torch.zeros(stored, dtype=dtype, device=device))
        self.register_buffer("scale", torch.zeros(per_row, dtype=float_dtype, device=device))
        least = torch.zeros(per_row, dtype=float_dtype, device=device) if kind == "int4" else None
        self.register_buffer("least", least)
        self.rows: Tensor
        self.scale: Tensor
        self.least: Tensor | None

    @property
    def whole(self) -> Rounded:
        return Rounded(self.rows, self.scale, self.least, self.width)

    def __getitem__(self, index: int | slice | tuple[int | slice, ...]) -> Rounded:
        return self.whole[index]


class RoundedLinear(Weight):
    """An `nn.Linear` of the same sizes and bias, its weight in a few bits."""

    def __init__(self, linear: nn.Linear, kind: str) -> None:
        super().__init__(kind, linear.out_features, linear.in_features, device=linear.weight.device)
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
    if multiplies_fp8(x.device) and weight.rows.dtype == FP8 and count % 16 == width % 16 == 0:
        out = fp8_product(flat, weight)
    elif (
        weight.rows.dtype == torch.int8 and x.dtype == torch.bfloat16 and x.device.type == "cpu"
        and 0 < len(flat) <= FEW and width % WIDE == 0
    ):  # fmt: skip
        out = torch._weight_int8pack_mm(flat.contiguous(), weight.rows.contiguous(), weight.scale.to(x.dtype))
    else:
        out = flat.new_empty(len(flat), count)
        step = max(1, PIECE // width) if x.device.type == "cpu" else count
        piece = torch.empty(min(step, count), width, dtype=x.dtype, device=x.device)
        for first in range(0, count, step):
            rows = weight[first : first + step]
            floats = piece[: len(rows)]
            rows.unscaled_into(floats)
            torch.mm(flat, floats.T, out=out[:, first : first + len(rows)])
        if (scale := weight.row_scale) is not None:
            out *= scale.to(x.dtype)
    out = out.view(*x.shape[:-1], -1)
    return out if bias is None else out + bias


def multiplies_fp8(device: torch.device) -> bool:
    """Has this device products of fp8 by fp8?"""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def fp8_product(x: Tensor, weight: Rounded) -> Tensor:
    """x `[M, K]` rounded to fp8, a scale a row, times the rows of `weight` `[N, K]`, K and N multiples of 16 -> `[M, N]`."""
    scale = (x.abs().amax(-1, keepdim=True).float() / TOP[FP8]).clamp(min=TINY)
    rounded = (x.float() / scale).clamp_(-TOP[FP8], TOP[FP8]).to(FP8)
    made = torch.float32 if x.device.type == "cpu" else torch.bfloat16  # what a GPU gives with a scale a row
    out = torch._scaled_mm(
        rounded, weight.rows.T, scale_a=scale, scale_b=weight.scale[None].contiguous(), out_dtype=made
    )
    return out.to(x.dtype)


def linear(x: Tensor, weight: Tensor | Rounded) -> Tensor:
    """`F.linear` for either kind of weight."""
    return product(x, weight) if isinstance(weight, Rounded) else F.linear(x, weight)


def rows_of(weight: Tensor | Rounded, ids: Tensor) -> Tensor:
    """The rows `[..., K]` of either kind of weight `[N, K]`, ids `[...]`."""
    return weight[ids].floats() if isinstance(weight, Rounded) else F.embedding(ids, weight)


def held(module: nn.Module) -> list[tuple[str, Tensor | Rounded]]:
    """What a linear or a norm holds, by name: `nn.Module.named_parameters`, and rounded weights."""
    if not isinstance(module, RoundedLinear):
        return list(module.named_parameters())
    found: list[tuple[str, Tensor | Rounded]] = [("weight", module.weight)]
    return found if module.bias is None else [*found, ("bias", module.bias)]


def in_low_bits(blocks: nn.Module, kind: str) -> None:
    """Put rounded weights, yet without numbers, in the place of every linear in `blocks` but routers and AdaLN; and experts."""
    for module in list(blocks.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and name not in ("router", "level"):
                setattr(module, name, RoundedLinear(child, kind))
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.dim() == 3:  # experts, stacked
                delattr(module, name)
                module.add_module(name, Weight(kind, *parameter.shape, device=parameter.device))
