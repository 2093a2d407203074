"""Counted randomness: every random number is a hash of where it is used, never a stream.

    uniform(purpose, positions) = hash(seed, choice, block, step, purpose, position) / 2^53

Nothing else enters: not the row number, not the batch, not how many numbers were drawn before. So the same seed gives
the same text whatever else is in the batch, and a run resumes exactly. The hash is SplitMix64's finaliser (Steele, Lea
and Flood, 2014), chained over the six parts; it passes through `int64`, whose multiplication wraps as needed.
"""

from __future__ import annotations

import dataclasses
import zlib

import torch
from torch import Tensor

from mezzotint.shapes import Probs, Tokens

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical (not arithmetic) shift of an int64 tensor."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def _absorb(state: Tensor, word: Tensor) -> Tensor:
    return _mix((state ^ _mix(word + _GOLDEN)) + _GOLDEN)


@dataclasses.dataclass(frozen=True)
class Draws:
    """The address of a set of random numbers: one entry a row. All fields are int64 `[B]`."""

    seed: Tensor
    choice: Tensor
    block: Tensor
    step: Tensor

    @classmethod
    def of(cls, seed: int | list[int] | Tensor, rows: int | None = None) -> Draws:
        """Draws for the given seed, or one seed a row; `rows` repeats a single seed.

        Rows that repeat a seed get different numbers through `choice` (0, 1, ...), as the n answers to one request do.
        """
        seeds = torch.as_tensor(seed, dtype=torch.int64).reshape(-1)
        choice = torch.zeros_like(seeds)
        if rows is not None:
            if seeds.numel() != 1:
                raise ValueError(f"rows={rows} repeats one seed, but {seeds.numel()} seeds were given")
            seeds, choice = seeds.repeat(rows), torch.arange(rows)
        zeros = torch.zeros_like(seeds)
        return cls(seeds, choice, zeros, zeros)

    def at(self, *, block: int | Tensor | None = None, step: int | Tensor | None = None) -> Draws:
        """The same rows at another block or step (a number for all rows, or int64 `[B]`)."""

        def fill(value: int | Tensor | None, old: Tensor) -> Tensor:
            return old if value is None else torch.as_tensor(value, dtype=torch.int64).expand_as(old)

        return dataclasses.replace(self, block=fill(block, self.block), step=fill(step, self.step))

    def rows(self, index: Tensor) -> Draws:
        """Only the rows that `index` picks."""
        return Draws(self.seed[index], self.choice[index], self.block[index], self.step[index])

    def uniform(self, purpose: str, positions: Tensor) -> Tensor:
        """Uniform numbers in [0, 1): float64 `[B, L]` for int64 positions `[B, L]` (or `[L]`, the same for each row)."""
        positions = positions.expand(self.seed.shape[0], -1) if positions.dim() == 1 else positions
        state = _mix(self.seed + _GOLDEN)
        for word in (self.choice, self.block, self.step):
            state = _absorb(state, word)
        state = _absorb(state, torch.full_like(state, zlib.crc32(purpose.encode())))
        bits = _absorb(state[:, None].to(positions.device), positions)
        return _shift_right(bits, 11).to(torch.float64) * 2.0**-53


def categorical(probs: Probs, uniform: Tensor) -> Tokens:
    """One token a position by the inverse CDF: the first v whose cumulative probability exceeds `uniform`.

    probs `[B, L, V]` need not be normalised; uniform `[B, L]` in [0, 1). float64: in float32 the CDF of a vocabulary of
    50 thousand loses its tail, which lowers the temperature silently.
    """
    cdf = probs.to(torch.float64).cumsum(-1)
    target = uniform.to(torch.float64)[..., None] * cdf[..., -1:]
    index = torch.searchsorted(cdf, target, right=True)[..., 0]
    last = probs.shape[-1] - 1 - (probs > 0).flip(-1).to(torch.int8).argmax(-1)  # rounding must not pick p = 0
    return torch.minimum(index, last)
