"""From clean rows to batches: what is hidden, what is wrong, and what each position should say.

    whole canvas   [ the [M] sat on dog mat . <end> ]              one bidirectional canvas a row
    two streams    [ the [M] | sat [M] | the mat ][ the cat sat on the mat ]   canvases of one size, and the clean text
    causal         [ the cat sat on the mat ]                      AR: each row speaks about the next token

Every canvas position carries a loss: masks and wrong tokens with weight 1, right ones with `keep`, so that the logits at
a visible token become a trained "should this change, and to what". Corruption is a mixture: hybrid noise of a level, holes
(spans hidden, the rest clean), and errors alone. Errors are ids drawn evenly, or tokens of other rows. Some rows have a
hole of the wrong size, labelled as `alignment.py` would: surplus masks say DELETE, the last of too few say EXPAND.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mezzotint.draws import Draws
from mezzotint.model.visibility import CANVAS, CLEAN, Places, two_stream_places
from mezzotint.noise import NoiseProcess
from mezzotint.shapes import Tokens, Where
from mezzotint.train.trainer import Batch


def pad_rows(rows: Sequence[Sequence[int]], fill: int) -> tuple[Tokens, Where]:
    """Right-padded tokens `[B, L]` and which of them are real `[B, L]`."""
    length = max(map(len, rows))
    tokens = torch.full((len(rows), length), fill, dtype=torch.int64)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.as_tensor(row, dtype=torch.int64)
    return tokens, torch.arange(length) < torch.tensor([len(row) for row in rows])[:, None]


@dataclass(frozen=True)
class Corruption:
    """How a row is spoiled. Shares of rows: `sized`, `holes`, `errors`, the rest noise of `process`.

    keep: weight of right tokens; delete, expand: ids of the two labels.
    """

    process: NoiseProcess
    delete: int
    expand: int
    sized: float = 0.2
    holes: float = 0.2
    errors: float = 0.2
    max_error_rate: float = 0.2
    max_hole: int = 12
    keep: float = 0.1

    def __post_init__(self) -> None:
        shares = (self.sized, self.holes, self.errors)
        if min(shares) < 0 or sum(shares) > 1:
            raise ValueError(f"shares of sized, holes and errors are {shares}; each at least 0, their sum at most 1")

    def levels(self, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Levels for noise rows: even over [0.02, 1], low-discrepancy over rows, and 1 in every eighth draw. float64."""
        rows, blocks = shape
        shift = torch.rand((1, blocks), generator=generator, dtype=torch.float64)
        order = torch.stack([torch.randperm(rows, generator=generator) for _ in range(blocks)], 1)
        t = 0.02 + 0.98 * ((shift + order / rows) % 1)
        return torch.where(torch.rand(shape, generator=generator) < 0.125, 1.0, t)

    def whole(self, rows: Sequence[Sequence[int]], fill: int, draws: Draws, generator: torch.Generator) -> Batch:
        """One canvas a row, from position 0; `fill` pads."""
        kind = torch.rand(len(rows), 1, generator=generator)
        sized = [
            self._sized(row, generator) if k < self.sized else (row, row) for row, k in zip(rows, kind, strict=True)
        ]
        canvas, real = pad_rows([spoiled for spoiled, _ in sized], fill)
        target, _ = pad_rows([labels for _, labels in sized], fill)
        level = self.levels((len(rows), 1), generator).expand_as(canvas)
        noisy = self.process.corrupt(canvas, level, real, draws)
        hidden = self._spans(real, generator)
        wrong = self._errors(canvas, real, generator)
        assert self.process.mask_id is not None
        kind = kind - self.sized
        holed = torch.where(hidden, self.process.mask_id, torch.where(kind < self.holes / 2, canvas, wrong))
        spoiled = torch.where(kind < self.holes, holed, torch.where(kind < self.holes + self.errors, wrong, noisy))
        spoiled = torch.where(kind < 0, canvas, spoiled)
        position = torch.arange(canvas.shape[1]).expand_as(canvas)
        places = Places.of(position, torch.full_like(position, CANVAS), torch.zeros_like(position), valid=real)
        return Batch(spoiled, places, target, self._weight(spoiled, target, real))

    def _sized(self, row: Sequence[int], generator: torch.Generator) -> tuple[list[int], list[int]]:
        """A row with one hole that has 1 to `max_hole` masks for 1 to `max_hole` tokens, and its labels, as long."""
        low, high = 1, max(2, min(self.max_hole, len(row) - 2) + 1)
        need, have = (int(torch.randint(low, high, (), generator=generator)) for _ in range(2))
        start = int(torch.randint(1, max(2, len(row) - need), (), generator=generator))
        truth = list(row[start : start + need])
        assert self.process.mask_id is not None
        missing = max(0, len(truth) - have)
        growing = min(missing, have)  # the last slots double, those before take their tokens
        said = truth[: have - growing] + [self.expand] * growing
        said += [self.delete] * (have - len(said))
        left, right = list(row[:start]), list(row[start + need :])
        return [*left, *([self.process.mask_id] * have), *right], [*left, *said, *right]

    def blocks(
        self, rows: Sequence[Sequence[int]], end: int, size: int, draws: Draws, generator: torch.Generator, ar: float
    ) -> Batch:
        """Two streams: canvases of `size` at a random offset a row, one level each, and the clean text. ar: AR's weight.

        The canvas that holds a row's last token goes on to its full size in `end` tokens: so a text may end anywhere in a
        canvas, and what stands behind its end is learnt too.
        """
        clean, real = pad_rows([[*row, *[end] * (size - 1)] for row in rows], end)
        length = clean.shape[1]
        last = torch.tensor([len(row) - 1 for row in rows])[:, None]
        offset = torch.randint(size, (len(rows),), generator=generator)
        places = two_stream_places(length, size, len(rows), offset)
        start = places.start[:, :length]
        on_canvas, read = real & (start <= last), torch.arange(length) <= last
        block = (start + size - 1) // size  # a number of its own for each canvas of a row
        level = self.levels((len(rows), int(block.max()) + 1), generator).gather(1, block)
        noisy = self.process.corrupt(clean, level, on_canvas, draws)
        causal = causal_batch(clean, read)
        return Batch(
            torch.cat((noisy, clean), 1), places._replace(valid=torch.cat((on_canvas, read), 1)),
            torch.cat((clean, causal.target), 1), torch.cat((self._weight(noisy, clean, on_canvas), ar * causal.weight), 1),
        )  # fmt: skip

    def _weight(self, spoiled: Tokens, clean: Tokens, real: Where) -> Tensor:
        return torch.where(spoiled == clean, self.keep, 1.0) * real

    def _spans(self, real: Where, generator: torch.Generator) -> Where:
        """One to three holes of 1 to `max_hole` positions a row."""
        rows, length = real.shape
        position = torch.arange(length)
        hidden = torch.zeros(rows, length, dtype=torch.bool)
        count = torch.randint(1, 4, (rows, 1), generator=generator)
        for hole in range(3):
            size = torch.randint(1, self.max_hole + 1, (rows, 1), generator=generator)
            start = (torch.rand(rows, 1, generator=generator) * real.sum(-1, keepdim=True)).to(torch.int64)
            hidden |= (position >= start) & (position < start + size) & (hole < count)
        return hidden & real

    def _errors(self, clean: Tokens, real: Where, generator: torch.Generator) -> Tokens:
        """Rows with 1% to `max_error_rate` of their tokens replaced: half of those evenly, half by tokens of other rows."""
        rate = 0.01 + (self.max_error_rate - 0.01) * torch.rand(clean.shape[0], 1, generator=generator)
        support = torch.tensor(self.process.support)
        even = support[torch.randint(len(support), clean.shape, generator=generator)]
        pool = clean[real]
        usual = pool[torch.randint(len(pool), clean.shape, generator=generator)]
        token = torch.where(torch.rand(clean.shape, generator=generator) < 0.5, even, usual)
        return torch.where((torch.rand(clean.shape, generator=generator) < rate) & real, token, clean)


def causal_batch(clean: Tokens, real: Where) -> Batch:
    """AR: position i is about token i + 1."""
    position = torch.arange(clean.shape[1]).expand(clean.shape[0], -1)
    places = Places.of(position, torch.full_like(position, CLEAN), valid=real)
    target = torch.cat((clean[:, 1:], clean[:, :1]), 1)
    weight = torch.cat((real[:, 1:], torch.zeros_like(real[:, :1])), 1).float()
    return Batch(clean, places, target, weight)
