"""Packed weights: groups of 32 numbers of 4 or 8 bits, as a GGUF file holds them and `MatMulNBits` multiplies them.

Q4_1   w = d q + m          4 bits, kept exactly: d (q - 8), and m + 8 d apart
Q8_0   w = d q              8 bits, kept exactly
other  w ~ d q              rounded to 8 bits: d = the largest of the group / 127
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GROUP = 32  # weights that share a scale
FINER = 1 / 16  # what the second digit of a folded offset counts


@dataclass(frozen=True)
class Packed:
    """A weight `[O, I]`: values uint8 `[O, I/32, 32 * bits / 8]`, low half first, the zero point in the middle;
    scales `[O, I/32]`; offsets `[I/32, O]`, what each group has on top, None for nothing."""

    bits: int
    values: NDArray[np.uint8]
    scales: NDArray[np.float32]
    offsets: NDArray[np.float32] | None = None

    @property
    def outputs(self) -> int:
        return int(self.values.shape[0])

    @property
    def inputs(self) -> int:
        return int(self.values.shape[1]) * GROUP

    def rows(self, order: NDArray[np.int64]) -> Packed:
        """These rows, in this order."""
        offsets = None if self.offsets is None else self.offsets[:, order]
        return Packed(self.bits, self.values[order], self.scales[order], offsets)

    def folded(self) -> tuple[Packed, int]:
        """The same with its offsets as more inputs: so many copies of the means of x over each group `[I/32]`, one after another.

        An offset is two digits of 4 bits, so rounded to 1/240 of the row's largest. Two copies have digits, each in groups
        of their own, whose scales say what a digit counts.
        """
        assert self.offsets is not None and self.bits == 4
        offsets, count = self.offsets.T * np.float32(GROUP), self.inputs // GROUP
        unit = np.abs(offsets).max(1, keepdims=True) / np.float32(7)
        safe = np.where(unit > 0, unit, 1)
        first = np.rint(offsets / safe).clip(-8, 7)
        second = np.rint((offsets / safe - first) / FINER).clip(-8, 7)
        coarse = -(-count // GROUP)  # groups
        copies = -(-(coarse * GROUP + count) // count)
        digits = np.zeros((self.outputs, -(-copies * count // GROUP) * GROUP), np.float32)
        digits[:, :count] = first
        at = np.arange(coarse * GROUP, coarse * GROUP + count)
        digits[:, at] = second[:, at % count]
        nibbles = (digits + 8).astype(np.uint8).reshape(self.outputs, -1, GROUP)
        scales = np.broadcast_to(unit, nibbles.shape[:2]).astype(np.float32).copy()
        scales[:, coarse:] *= FINER
        values = nibbles[..., ::2] | nibbles[..., 1::2] << 4
        return Packed(4, np.concatenate((self.values, values), 1), np.concatenate((self.scales, scales), 1)), copies

    def weight(self) -> Tensor:
        """The weight that this stands for, float32 `[O, I]`."""
        values = self.values
        if self.bits == 4:
            values = np.stack((values & 15, values >> 4), -1).reshape(self.outputs, -1, GROUP)
        weight = (values.astype(np.float32) - (1 << self.bits - 1)) * self.scales[..., None]
        if self.offsets is not None:
            weight += self.offsets.T[..., None]
        return torch.from_numpy(weight.reshape(self.outputs, self.inputs))


def from_q4_1(raw: NDArray[np.uint8], outputs: int) -> Packed:
    """Blocks of 20 bytes: d and m as float16, then q_i | q_(i+16) << 4."""
    blocks = raw.reshape(outputs, -1, 20)
    d, m = (blocks[..., at : at + 2].copy().view(np.float16)[..., 0].astype(np.float32) for at in (0, 2))
    halves = blocks[..., 4:]
    q = np.concatenate((halves & 15, halves >> 4), -1)  # in order
    return Packed(4, q[..., ::2] | q[..., 1::2] << 4, d, np.ascontiguousarray((m + 8 * d).T))


def from_q8_0(raw: NDArray[np.uint8], outputs: int) -> Packed:
    """Blocks of 34 bytes: d as float16, then 32 int8."""
    blocks = raw.reshape(outputs, -1, 34)
    d = blocks[..., :2].copy().view(np.float16)[..., 0].astype(np.float32)
    return Packed(8, blocks[..., 2:] ^ np.uint8(128), d)  # int8 + 128


def rounded(weight: Tensor) -> Packed:
    """Any weight `[O, I]` in 8 bits. Raises ValueError unless I is a multiple of 32."""
    if weight.shape[1] % GROUP:
        raise ValueError(f"a weight has {weight.shape[1]} inputs; packed ones have a multiple of {GROUP}")
    groups = weight.float().numpy().reshape(weight.shape[0], -1, GROUP)
    scales = np.abs(groups).max(-1) / np.float32(127)
    safe = np.where(scales > 0, scales, 1)[..., None]
    return Packed(8, (np.rint(groups / safe) + 128).astype(np.uint8), scales.astype(np.float32))


def joined(parts: list[Packed]) -> Packed:
    """Products with the same input as one. Parts of other widths are widened to 8 bits, which rounds those with offsets."""
    if len({(part.bits, part.offsets is None) for part in parts}) > 1:
        parts = [part if part.bits == 8 and part.offsets is None else rounded(part.weight()) for part in parts]
    offsets = (
        None if parts[0].offsets is None else np.concatenate([p.offsets for p in parts if p.offsets is not None], 1)
    )
    return Packed(
        parts[0].bits, np.concatenate([p.values for p in parts]), np.concatenate([p.scales for p in parts]), offsets
    )
