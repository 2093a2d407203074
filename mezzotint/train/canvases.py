"""Canvases over text: the batches from which an AR network learns to denoise.

    row      [ canvas: the [M] | [M] on  | mat ][ clean: the cat sat on mat ]      blocks of a size, from an offset
    loss     masks and wrong tokens 1, right ones `keep`

- Blocks are relative: in running text they begin anywhere, in an answer at its first token, as canvases do in decoding.
  A block in which the text ends is filled up with end tokens, which carry no loss.
- Complement: a row and its twin, masked exactly where the row is not, so that every token is learnt once from one clean
  pass (Fast-dLLM v2, arXiv 2509.26328). Later positions are masked more often, the less so the higher the level
  (Efficient-DLM, arXiv 2512.14067).
- Edits: the canvas holds a draft, and each position says what `alignment.labels` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from mezzotint.alignment import SLOT, label_ids, labels, rounds
from mezzotint.model.visibility import CANVAS, CLEAN, Places
from mezzotint.shapes import Tokens, Where
from mezzotint.train.batch import Batch, Batches, by_rows
from mezzotint.train.corruption import pad_rows
from mezzotint.train.data import neighbours


@dataclass(frozen=True)
class Example:
    """A text to learn: ids that are only read, then ids that canvases hold.

    free: blocks may begin anywhere in it (running text). ends: an end token follows. draft: an edit begins with these ids
    (SLOT: open) instead of noise, and becomes `text`. Raises ValueError for an empty text.
    """

    context: Sequence[int]
    text: Sequence[int]
    free: bool = False
    ends: bool = False
    draft: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if not self.text and self.draft is None:
            raise ValueError("an example has no text to learn")

    def __len__(self) -> int:
        return len(self.context) + max(len(self.text), len(self.draft or ()))


@dataclass(frozen=True)
class Ids:
    """The ids that a batch is made with. support: what random errors are drawn from. control: as in a checkpoint's facts."""

    mask: int
    end: int
    support: Tensor
    control: Mapping[str, int] = field(default_factory=dict)
    shift: int = 0


@dataclass(frozen=True)
class Stage:
    """How texts are spoiled during a `share` of the run.

    sizes: block size -> its part of the batches; 0 is the whole text. Levels have a bell's density on [low, high], and are 1
    in `at_one` of the blocks. bias: times Efficient-DLM's slope. errors: the largest rate of wrong visible tokens, 0 in two
    fifths of the blocks. edits: share of batches that are edits. keep: weight of right tokens, at which nothing changes.
    anywhere: blocks begin anywhere in answers too, as drafts for a verifying call do. copies: times that each text is noised,
    each with an offset of its own; it is read once.
    """

    share: float = 1.0
    sizes: Mapping[int, float] = field(default_factory=lambda: {16: 1.0})
    low: float = 0.05
    high: float = 1.0
    at_one: float = 0.1
    bias: float = 1.0
    errors: float = 0.0
    edits: float = 0.0
    keep: float = 0.1
    complement: bool = True
    anywhere: bool = False
    copies: int = 1

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 0 or min(self.sizes.values()) <= 0:
            raise ValueError(f"sizes are {dict(self.sizes)}; name block sizes from 0 with positive parts")
        if self.copies < 1:
            raise ValueError(f"copies is {self.copies}; it must be at least 1")
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"levels from {self.low} to {self.high}; they must lie between 0 and 1, in this order")
        for name in ("share", "at_one", "errors", "edits", "keep"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"{name} is {value}; it must lie between 0 and 1")


def stage_at(stages: Sequence[Stage], step: int, total: int | None) -> Stage:
    """The stage of a step of a run of `total` steps; the first while they are not yet known. Shares are of their sum."""
    if total is None:
        return stages[0]
    ends = list(accumulate(stage.share for stage in stages))
    return next((stage for stage, end in zip(stages, ends, strict=True) if step < end / ends[-1] * total), stages[-1])


# -- batches -----------------------------------------------------------------------------------------------------------


def make_batches(
    examples: Sequence[Example], stages: Sequence[Stage], ids: Ids, total: Callable[[], int | None], count: int,
    seed: int = 0, ar: float = 0.0,
) -> Batches:  # fmt: skip
    """Batches of `count` texts (twice as many rows under complement), neighbours in length so that little is padding.

    A function of the seed and the step. total: steps of the run, which place the stages; None while they are not yet known,
    in the first stage. ar: weight of the causal loss on the clean stream, for full fine-tuning. Raises ValueError when a
    stage has nothing to draw from.
    """
    texts = sorted((e for e in examples if e.draft is None), key=len)
    edits = sorted((e for e in examples if e.draft is not None), key=len)
    for name, found, wanted in (
        ("text", texts, any(s.edits < 1 for s in stages)), ("edit", edits, any(s.edits > 0 for s in stages)),
    ):  # fmt: skip
        if wanted and not found:
            raise ValueError(
                f"a stage draws {name}s, but there is no {name} among the {len(examples)} examples; `mezzotint data examples` "
                "makes both"
            )

    def batch(step: int) -> Batch:
        generator = torch.Generator().manual_seed((seed << 32) + step)
        stage = stage_at(stages, step, total())
        if _uniform(generator) < stage.edits:
            return edit_batch(neighbours(edits, count, generator), ids, generator, stage.keep, ar)
        parts = torch.tensor(list(stage.sizes.values()))
        size = list(stage.sizes)[int(torch.multinomial(parts, 1, generator=generator))]
        return text_batch(neighbours(texts, count, generator), size, stage, ids, generator, ar)

    return by_rows(batch)


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def text_batch(
    examples: Sequence[Example], size: int, stage: Stage, ids: Ids, generator: torch.Generator, ar: float = 0.0
) -> Batch:
    """Canvases over every text, one level a block. `[B, C + L]`: canvas columns, then the clean ones."""
    examples = [e for e in examples for _ in range(stage.copies)]
    size = size or max(len(e.text) for e in examples) + 1
    text, real = pad_rows([[*e.text, *[ids.end] * e.ends] for e in examples], ids.end)
    ends = torch.tensor([e.ends for e in examples])[:, None]
    last = real.sum(-1, keepdim=True) - 1
    text = F.pad(text, (0, size - 1), value=ids.end)  # room for the block in which a text ends
    real = F.pad(real, (0, size - 1), value=False)
    place = torch.arange(text.shape[1])
    free = torch.tensor([e.free or stage.anywhere for e in examples])[:, None]
    offset = torch.where(free, torch.randint(size, (len(examples), 1), generator=generator), 0)
    start = ((place - offset).div(size, rounding_mode="floor") * size + offset).clamp(min=0)
    shown = real | (ends & (start <= last))
    width = int(shown.sum(-1).max())
    text, real, start, shown = (x[:, :width] for x in (text, real, start, shown))
    block = (start + size - 1) // size

    level = _levels((len(examples), int(block.max()) + 1), stage, generator).gather(1, block)
    hidden = _masks(level, block, place[:width] - start, size, shown, stage.bias, generator)
    twins = [hidden, shown & ~hidden] if stage.complement else [hidden]
    rows = [_errors(text, real & ~twin, block, stage.errors, ids, generator) for twin in twins]
    tokens = torch.stack([torch.where(twin, ids.mask, row) for twin, row in zip(twins, rows, strict=True)], 1)
    right = torch.stack([~twin & (row == text) for twin, row in zip(twins, rows, strict=True)], 1)
    copies = len(twins)
    text, start, shown, real = (x.repeat_interleave(copies, 0) for x in (text, start, shown, real))
    weight = torch.where(right.flatten(0, 1), stage.keep, 1.0) * real
    examples = [e for e in examples for _ in range(copies)]
    return _batch(examples, tokens.flatten(0, 1), start, shown, text, weight, ids, ar / copies / stage.copies)


def edit_batch(
    examples: Sequence[Example], ids: Ids, generator: torch.Generator, keep: float = 0.1, ar: float = 0.0
) -> Batch:
    """One canvas a row that holds a draft and the end of the text; every position says what the next label round does.

    The draft is where some round of the way from the example's draft to its text begins; in half of the rows a random share
    of it is opened besides (a strength, as in revising). A draft that is right already keeps three times the weight.
    """
    texts: list[list[int]] = []
    says: list[list[int]] = []
    keeps: list[float] = []
    for e in examples:
        states = [list(e.draft or ()), *rounds(list(e.draft or ()), list(e.text))]
        state = states[int(torch.randint(max(1, len(states) - 1), (), generator=generator))]
        if _uniform(generator) < 0.5:
            opened = torch.rand(len(state), generator=generator) < _uniform(generator)
            state = [SLOT if open_ else token for token, open_ in zip(state, opened.tolist(), strict=True)]
        texts.append([*(ids.mask if token == SLOT else token for token in state), ids.end])
        told = label_ids(state, labels(state, e.text), ids.end, ids.control)
        says.append([ids.mask if token == SLOT else token for token in told])
        keeps.append(3 * keep if len(states) == 1 else keep)
    tokens, shown = pad_rows(texts, ids.end)
    said, _ = pad_rows(says, ids.end)
    weight = torch.where(said == tokens, torch.tensor(keeps)[:, None], torch.ones(())) * shown
    bare = [Example(e.context, (), draft=()) for e in examples]  # the text itself is not read
    return _batch(bare, tokens, torch.zeros_like(tokens), shown, said, weight, ids, ar)


def _batch(
    examples: Sequence[Example], tokens: Tokens, start: Tensor, shown: Where, said: Tokens, weight: Tensor, ids: Ids,
    ar: float,
) -> Batch:  # fmt: skip
    """Canvas columns (all arguments `[B, C]`, `start` counted from the context's end) and the clean columns beside them."""
    before = torch.tensor([len(e.context) for e in examples])[:, None]
    place = before + torch.arange(tokens.shape[1])
    canvas = Places.of(
        torch.where(shown, place, 0), torch.full_like(place, CANVAS), torch.where(shown, before + start, 0), valid=shown
    )
    if ids.shift:  # row i speaks about i + 1, and nobody about the first of a block: the clean stream does
        same = F.pad(start[:, 1:] == start[:, :-1], (0, 1), value=False)
        said, weight = said.roll(-1, 1), torch.where(same, weight.roll(-1, 1), 0.0)
    clean, read = pad_rows([[*e.context, *e.text] or [ids.end] for e in examples], ids.end)
    read &= torch.tensor([len(e.context) + len(e.text) > 0 for e in examples])[:, None]
    column = torch.arange(clean.shape[1]).expand_as(clean)
    places = canvas.cat(Places.of(column, torch.full_like(column, CLEAN), valid=read))
    after = F.pad(read[:, 1:], (0, 1), value=False) & (column + 1 >= before)
    return Batch(
        torch.cat((tokens, clean), 1), places, torch.cat((said, clean.roll(-1, 1)), 1),
        torch.cat((weight, ar * after), 1).float(),
    )  # fmt: skip


def _levels(shape: tuple[int, int], stage: Stage, generator: torch.Generator) -> Tensor:
    """float64 `[B, blocks]`: evenly spaced numbers in random order through the inverse CDF of Beta(2, 2), stretched."""
    count = shape[0] * shape[1]
    u = (torch.randperm(count, generator=generator) + torch.rand((), generator=generator)) / count
    bell = 0.5 - torch.sin(torch.asin(1 - 2 * u.double()) / 3)
    t = (stage.low + (stage.high - stage.low) * bell).reshape(shape)
    return torch.where(torch.rand(shape, generator=generator) < stage.at_one, 1.0, t)


def _masks(
    level: Tensor, block: Tensor, place: Tensor, size: int, shown: Where, bias: float, generator: torch.Generator
) -> Where:
    """Of n shown places of a block t n, rounded at random, at least one: the largest of log w + Gumbel noise."""
    zeros = torch.zeros(block.shape, dtype=torch.float64)
    n = zeros.scatter_add(1, block, shown.double()).gather(1, block)
    lot = torch.rand(block.shape, generator=generator, dtype=torch.float64).gather(1, block)  # one a block
    k = (level * n + lot).floor().clamp(min=1)
    slope = bias * math.log(2) / (0.25 * size) * (1 - level)
    uniform = torch.rand(block.shape, generator=generator, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
    score = slope * place - torch.log(-torch.log(uniform))
    key = torch.where(shown, block * 1e6 - score, torch.inf)  # by block, the largest score first
    order = key.argsort(-1).argsort(-1)
    first = torch.zeros_like(block).scatter_reduce(1, block, order, "amin", include_self=False).gather(1, block)
    return shown & (order - first < k)


def _errors(text: Tokens, visible: Where, block: Tensor, most: float, ids: Ids, generator: torch.Generator) -> Tokens:
    """Visible tokens replaced at a rate up to `most`, one a block, 0 in two fifths of them; half evenly drawn, half usual."""
    if most == 0:
        return text
    lot = torch.rand((2, *text.shape), generator=generator)
    rate = torch.where(lot[0] < 0.4, 0.0, most * lot[1]).gather(1, block)
    pool = text[visible] if bool(visible.any()) else text.flatten()
    even = ids.support[torch.randint(len(ids.support), text.shape, generator=generator)]
    usual = pool[torch.randint(len(pool), text.shape, generator=generator)]
    token = torch.where(torch.rand(text.shape, generator=generator) < 0.5, even, usual)
    return torch.where(visible & (torch.rand(text.shape, generator=generator) < rate), token, text)


def columns(batch: Batch, part: slice) -> Batch:
    """Only these columns (views)."""
    places = Places(*(x[:, part] for x in batch.places))
    return Batch(batch.tokens[:, part], places, batch.target[:, part], batch.weight[:, part])
