"""From clean rows to batches: what is hidden, what is wrong, and what each position should say.

    whole canvas   [ the [M] sat on dog mat . <end> ]              one bidirectional canvas a row
    two streams    [ the [M] | sat [M] | the mat ][ the cat sat on the mat ]   canvases of one size, and the clean text
    causal         [ the cat sat on the mat ]                      AR: each row speaks about the next token

Every canvas position carries a loss: masks and wrong tokens with weight 1, right ones with `keep`, so that the logits at
a visible token become a trained "should this change, and to what". Corruption is a mixture: hybrid noise of a level, holes
(spans hidden, the rest clean), and errors alone. Errors are ids drawn evenly, or tokens of other rows.
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
from mezzotint.train.batch import Batch


def pad_rows(rows: Sequence[Sequence[int]], fill: int) -> tuple[Tokens, Where]:
    """Right-padded tokens `[B, L]` and which of them are real `[B, L]`."""
    length = max(map(len, rows))
    tokens = torch.full((len(rows), length), fill, dtype=torch.int64)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.as_tensor(row, dtype=torch.int64)
    return tokens, torch.arange(length) < torch.tensor([len(row) for row in rows])[:, None]


@dataclass(frozen=True)
class Corruption:
    """How a row is spoiled. Shares of rows: `holes`, `errors`, the rest noise of `process`. keep: weight of right tokens."""

    process: NoiseProcess
    holes: float = 0.3
    errors: float = 0.2
    max_error_rate: float = 0.2
    max_hole: int = 12
    keep: float = 0.1

    def __post_init__(self) -> None:
        if min(self.holes, self.errors) < 0 or self.holes + self.errors > 1:
            raise ValueError(
                f"shares of holes and errors are {self.holes} and {self.errors}; each at least 0, their sum at most 1"
            )

    def levels(self, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Levels for noise rows: even over [0.02, 1], low-discrepancy over rows, and 1 in every eighth draw. float64."""
        rows, blocks = shape
        shift = torch.rand((1, blocks), generator=generator, dtype=torch.float64)
        order = torch.stack([torch.randperm(rows, generator=generator) for _ in range(blocks)], 1)
        t = 0.02 + 0.98 * ((shift + order / rows) % 1)
        return torch.where(torch.rand(shape, generator=generator) < 0.125, 1.0, t)

    def whole(self, rows: Sequence[Sequence[int]], fill: int, draws: Draws, generator: torch.Generator) -> Batch:
        """One canvas a row, from position 0; `fill` pads."""
        clean, real = pad_rows(rows, fill)
        kind = torch.rand(len(rows), 1, generator=generator)
        level = self.levels((len(rows), 1), generator).expand_as(clean)
        noisy = self.process.corrupt(clean, level, real, draws)
        hidden = self._spans(real, generator)
        wrong = self._errors(clean, real, generator)
        assert self.process.mask_id is not None
        holed = torch.where(hidden, self.process.mask_id, torch.where(kind < self.holes / 2, clean, wrong))
        spoiled = torch.where(kind < self.holes, holed, torch.where(kind < self.holes + self.errors, wrong, noisy))
        position = torch.arange(clean.shape[1]).expand_as(clean)
        places = Places.of(position, torch.full_like(position, CANVAS), torch.zeros_like(position), valid=real)
        return Batch(spoiled, places, clean, self._weight(spoiled, clean, real))

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
