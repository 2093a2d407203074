"""Batch: what a step learns from. It says where its tokens stand and what each should have said.

    batches(step, part, parts) -> tokens, places, target, weight          a part of the step's global batch

A batch is a pure function of the recipe's seed and these numbers, so a run repeats exactly and resumes without a data
loader's state, on any number of ranks. What is trained (denoising, AR, edit labels) is decided by who makes the batches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mezzotint.model.visibility import Places
from mezzotint.shapes import Tokens


class Batch(NamedTuple):
    """tokens, target int64 `[B, T]`; weight float32 `[B, T]`, 0 where nothing is learnt."""

    tokens: Tokens
    places: Places
    target: Tokens
    weight: Tensor

    def rows(self, begin: int, end: int) -> Batch:
        """Only these rows (views)."""
        places = Places(*(x[begin:end] for x in self.places))
        return Batch(self.tokens[begin:end], places, self.target[begin:end], self.weight[begin:end])

    def part(self, index: int, parts: int) -> Batch:
        """The rows of one of `parts` parts as even as can be; a part of fewer rows than parts may be empty."""
        count = self.tokens.shape[0]
        return self.rows(index * count // parts, (index + 1) * count // parts)

    def to(self, device: torch.device) -> Batch:
        places = Places(*(x.to(device, non_blocking=True) for x in self.places))
        return Batch(
            self.tokens.to(device, non_blocking=True), places,
            self.target.to(device, non_blocking=True), self.weight.to(device, non_blocking=True),
        )  # fmt: skip


class Batches(Protocol):
    """Makes part `part` of `parts` of the global batch of a step; the whole of it by default."""

    def __call__(self, step: int, part: int = 0, parts: int = 1, /) -> Batch: ...


def by_rows(whole: Callable[[int], Batch]) -> Batches:
    """Batches from a function of the step alone: a part is a share of the whole batch's rows.

    Every rank makes the whole batch, which costs nothing where batches are cheap to make; the data are then the same
    however many parts they are cut into.
    """

    def batches(step: int, part: int = 0, parts: int = 1, /) -> Batch:
        return whole(step).part(part, parts)

    return batches
