"""Rows of one length from documents of any: several in a row, and none of them sees another.

    row    [ a a a a a a a | b b b b | c c c . ]
    document 0 0 0 0 0 0 0   1 1 1 1   2 2 2 -1      position 0 1 2 3 4 5 6   0 1 2 3   0 1 2 0

* Best fit, decreasing (Ding et al., arXiv 2404.10830): a document is cut only if it is longer than a row.
* An epoch holds every document of a source `weight` times (0.5: a half of them, the other half in the next epoch).
* Row n of a run depends on the corpus, the seed and n alone: no loader state, any number of ranks.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mezzotint.draws import Draws
from mezzotint.model.visibility import CLEAN, Places
from mezzotint.shapes import Tokens, Where
from mezzotint.train.corpus import Corpus

WINDOW = 2048  # pieces that are packed together
KEPT = 2  # epochs whose plan stays in memory


class Packed(NamedTuple):
    """Rows of documents. tokens, document (-1: padding), position in its document: int64 `[B, L]`; learnt: bool `[B, L]`."""

    tokens: Tokens
    document: Tensor
    position: Tensor
    learnt: Where  # may carry a loss

    @property
    def real(self) -> Where:
        """False for padding. `[B, L]`"""
        return self.document >= 0

    def places(self, role: int = CLEAN, start: Tensor | None = None) -> Places:
        """Where the tokens stand; on a canvas that is all of their document, unless `start` `[B, L]` says otherwise."""
        if start is None:
            start = self.position if role == CLEAN else torch.zeros_like(self.position)
        return Places(self.position, torch.full_like(self.position, role), start, self.document, self.real)

    def canvas_starts(self, size: int, offset: Tensor) -> Tensor:
        """First position of each token's canvas of `size`, int64 `[B, L]`.

        offset int64 `[B, L]`: canvases of its document start at positions congruent to it; the first may be shorter.
        """
        shift = offset % size
        return ((self.position - shift) // size * size + shift).clamp(min=0)

    def first_learnt(self) -> Tensor:
        """Position of the first token that its document learns, int64 `[B, L]`; 0 where there is none."""
        row = torch.arange(len(self.tokens))[:, None].expand_as(self.document)
        slot = row * self.tokens.shape[1] + self.document.clamp(min=0)
        far = torch.iinfo(torch.int64).max
        where = torch.where(self.learnt & self.real, self.position, far).flatten()
        first = torch.full((self.tokens.numel(),), far).scatter_reduce(0, slot.flatten(), where, "amin")[slot]
        return torch.where(first == far, 0, first)


class _Plan(NamedTuple):
    """An epoch: pieces (document, first token, tokens), row after row; row r has pieces `rows[r]` to `rows[r + 1]`."""

    document: NDArray[np.int64]
    start: NDArray[np.int64]
    size: NDArray[np.int64]
    rows: NDArray[np.int64]


class Packing:
    """A corpus as rows of `length`. weights: source -> how often an epoch holds its documents, 1 for those not named.

    Raises ValueError for a length under 2, an unknown source, a weight that is not finite or negative, or nothing left.
    """

    def __init__(self, corpus: Corpus, length: int, seed: int = 0, weights: Mapping[str, float] | None = None) -> None:
        if length < 2:
            raise ValueError(f"a row of {length} tokens teaches nothing; length must be at least 2")
        for name, weight in (weights or {}).items():
            if name not in corpus.sources:
                raise ValueError(f"unknown source {name!r}; this corpus has {', '.join(corpus.sources)}")
            if not 0 <= weight < float("inf"):
                raise ValueError(f"the weight of {name} is {weight}; it must be a number of at least 0")
        self.corpus, self.length, self.seed = corpus, length, seed
        self.weights = {name: (weights or {}).get(name, 1.0) for name in corpus.sources}
        if not any(weight and len(corpus.sources[name]) for name, weight in self.weights.items()):
            raise ValueError("no source has documents and a weight above 0")
        self._plans: dict[int, _Plan] = {}
        self._ends: list[int] = []  # rows up to the end of each epoch seen so far

    # -- which documents, in which row ---------------------------------------------------------------------------------

    def _uniform(self, purpose: str, epoch: int, count: int) -> NDArray[np.float64]:
        draws = Draws.of(self.seed).at(block=epoch)
        return draws.uniform(f"packing {purpose}", torch.arange(count))[0].numpy()

    def _documents(self, epoch: int) -> NDArray[np.int64]:
        """The documents of an epoch: of each source, the next ones of an endless row of shuffles."""
        found = []
        for name, weight in self.weights.items():
            numbers = self.corpus.sources[name]
            begin, end = (int(round(e * weight * len(numbers), 6)) for e in (epoch, epoch + 1))
            while begin < end:
                cycle, inside = divmod(begin, len(numbers))
                count = min(end - begin, len(numbers) - inside)
                order = np.argsort(self._uniform(name, cycle, len(numbers)), kind="stable")
                found.append(numbers.start + order[inside : inside + count])
                begin += count
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    def _plan(self, epoch: int) -> _Plan:
        if epoch in self._plans:
            return self._plans[epoch]
        documents = self._documents(epoch)
        lengths = self.corpus.lengths[documents]
        count = -(-lengths // self.length)  # pieces of each
        document = np.repeat(documents, count)
        number = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        start = number * self.length
        size = np.minimum(self.length, np.repeat(lengths, count) - start)
        mixed = np.argsort(self._uniform("order", epoch, len(size)), kind="stable")
        rows = list(self._fit(size, mixed))
        rows = [rows[i] for i in np.argsort(self._uniform("rows", epoch, len(rows)), kind="stable")]
        order = np.fromiter((piece for row in rows for piece in row), np.int64, len(size))
        ends = np.cumsum([0, *map(len, rows)])
        plan = _Plan(document[order], start[order], size[order], ends)
        self._plans[epoch] = plan
        for old in sorted(self._plans, key=lambda e: abs(e - epoch))[KEPT:]:
            del self._plans[old]
        return plan

    def _fit(self, size: NDArray[np.int64], order: NDArray[np.int64]) -> Iterator[list[int]]:
        """Rows of pieces: each, from the longest on, goes where it leaves the least room."""
        for begin in range(0, len(order), WINDOW):
            window = order[begin : begin + WINDOW]
            rows: list[list[int]] = []
            room: list[tuple[int, int]] = []  # (tokens left, row), sorted
            for piece in window[np.argsort(-size[window], kind="stable")].tolist():
                need = int(size[piece])
                at = bisect_left(room, (need, -1))
                left, row = room.pop(at) if at < len(room) else (self.length, len(rows))
                if row == len(rows):
                    rows.append([])
                rows[row].append(piece)
                if left > need:
                    insort(room, (left - need, row))
            yield from rows

    def _find(self, row: int) -> tuple[_Plan, int]:
        """The epoch of a row, and its number there."""
        while not self._ends or self._ends[-1] <= row:
            rows = len(self._plan(len(self._ends)).rows) - 1
            if not rows and len(self._ends) > 1000:
                raise ValueError("the weights are so small that a thousand epochs hold no document")
            self._ends.append((self._ends[-1] if self._ends else 0) + rows)
        epoch = bisect_right(self._ends, row)
        return self._plan(epoch), row - (self._ends[epoch - 1] if epoch else 0)

    def rows_of_epoch(self, epoch: int = 0) -> int:
        """How many rows an epoch has."""
        return len(self._plan(epoch).rows) - 1

    def fill(self, epoch: int = 0) -> float:
        """The share of an epoch's places that hold a token."""
        plan = self._plan(epoch)
        return float(plan.size.sum() / (self.length * max(len(plan.rows) - 1, 1)))

    # -- rows --------------------------------------------------------------------------------------------------------

    def rows(self, first: int, count: int) -> Packed:
        """Rows `first` to `first + count` of the run, epoch after epoch."""
        shape = (count, self.length)
        tokens, position = (torch.zeros(shape, dtype=torch.int64) for _ in range(2))
        document, learnt = torch.full(shape, -1), torch.zeros(shape, dtype=torch.bool)
        for index in range(count):
            plan, row = self._find(first + index)
            at = 0
            for number, piece in enumerate(range(plan.rows[row], plan.rows[row + 1])):
                size = int(plan.size[piece])
                read = self.corpus.read(int(plan.document[piece]), int(plan.start[piece]), size)
                here = slice(at, at + size)
                tokens[index, here] = torch.from_numpy(read.ids.astype(np.int64))
                learnt[index, here] = torch.from_numpy(read.learnt)
                document[index, here] = number
                position[index, here] = torch.arange(size)
                at += size
        return Packed(tokens, document, position, learnt)

    def draw(self, step: int, count: int, part: int = 0, parts: int = 1) -> Packed:
        """The rows of part `part` of `parts` of a step's global batch of `count` rows. Raises ValueError if they don't divide."""
        if count % parts or not 0 <= part < parts:
            raise ValueError(f"part {part} of {parts} of a batch of {count} rows: the parts must be equal")
        share = count // parts
        return self.rows(step * count + part * share, share)
