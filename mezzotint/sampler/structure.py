"""Structural steps: edits that change the length of the canvas while it is sampled.

    the cat sat [end]    ->  DELETE, INSERT, EXPAND where the network says so, tokens elsewhere   (a structural step)
    the [ ] sat [end]    ->  tokens only                                                          (a token step)
    the dog sat [end]    ->  ...                                                until it has nothing more to change

- One call a step, like the plain loop: the sampler proposes, its rule accepts at open positions. Besides, a visible token is
  overwritten when another is likelier than `overwrite`, and the structure changes where a control token is likelier than
  `threshold`.
- The step after a change of structure is a token step: control tokens are forbidden there. A position opened by the change is
  filled only after a later structural step has asked it whether it wants to EXPAND, or go.
- It ends: a canvas that was there before is entered only if its weakest change was (else the row may only fill what is open),
  changes have a budget, the length a cap, and the last call fills what is open and replaces control tokens in the text.

The policy is that of LLaDA2.2 with DreamOn's EXPAND; thresholds as in LLaDA2.1 (arXiv 2602.08676). Rows do not meet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mezzotint.alignment import DELETE, EXPAND, INSERT, KEEP, SLOT, apply, growth_cap
from mezzotint.draws import Draws
from mezzotint.sampler.canvas import GIVEN, Canvas
from mezzotint.sampler.decoding import Proposal, _best
from mezzotint.sampler.loop import CanvasDenoiser, Sampler
from mezzotint.shapes import Logits, Tokens, Where

OPS = {"DELETE": DELETE, "INSERT": INSERT, "EXPAND": EXPAND}


class Hunk(NamedTuple):
    """One contiguous change: tokens `start:end` of the source, which were `before`, became `after`."""

    start: int
    end: int
    before: list[int]
    after: list[int]


class StructuralStep(NamedTuple):
    """One call and what followed. `labels` `[B, C]` is what was applied to the canvas before it: ids, KEEP or structure.

    confidence float64 `[B, C]`: of what was proposed there. origin int64 `[B, C]`: that canvas's.
    """

    number: int
    canvas: Canvas
    labels: Tensor
    confidence: Tensor
    origin: Tensor
    running: Tensor  # bool [B]: the rows that took part


def texts(canvas: Canvas) -> list[list[int]]:
    """The valid tokens of every row, SLOT where a position is open."""
    tokens = torch.where(canvas.open, SLOT, canvas.tokens)
    return [row[valid].tolist() for row, valid in zip(tokens, canvas.valid, strict=True)]


def hunks(canvas: Canvas, sources: Sequence[Sequence[int]]) -> list[list[Hunk]]:
    """Per row, what has changed against the text that the canvas started from (its closing end token left out)."""
    out = []
    for row, (text, source) in enumerate(zip(texts(canvas), sources, strict=True)):
        origin = canvas.origin[row][canvas.valid[row]].tolist()
        kept = [(o, i) for i, o in enumerate(origin) if 0 <= o < len(source) and source[o] == text[i]]
        last = next((i for i, o in enumerate(origin) if o == len(source)), len(text))
        borders = pairwise([(-1, -1), *kept, (len(source), last)])
        found = (Hunk(o + 1, p, list(source[o + 1 : p]), text[i + 1 : j]) for (o, i), (p, j) in borders)
        out.append([hunk for hunk in found if hunk.before or hunk.after])
    return out


@dataclass(frozen=True)
class _Permitted:
    """A denoiser whose control tokens are impossible where they are `forbidden` (bool `[B, C, len(ids)]`)."""

    denoiser: CanvasDenoiser
    ids: list[int]
    forbidden: Tensor

    def denoise(self, tokens: Tokens, positions: Tensor, valid: Where, cache: Any) -> Logits:
        logits = self.denoiser.denoise(tokens, positions, valid, cache).clone()
        logits[..., self.ids] = logits[..., self.ids].masked_fill(self.forbidden, -torch.inf)
        return logits


@dataclass
class _Progress:
    """What is remembered between steps, per row."""

    most: Tensor  # int64 [B]: how long it may become
    budget: Tensor  # int64 [B]: changes left
    seen: list[set[tuple[int, ...]]]  # every text it has been
    settled: Where  # bool [B, C]: open, asked by a structural step, and in need of nothing but a token
    resting: Tensor  # bool [B]: this step is a token step
    looping: Tensor  # bool [B]: it went in a circle; only open positions are filled from now on
    running: Tensor  # bool [B]


@dataclass(frozen=True)
class Restructuring:
    """Run a sampler on a canvas whose length may change.

    control_ids: MASK, DELETE, INSERT, EXPAND -> id, as in a checkpoint's facts; of one that has none of the last three, only
    tokens change. threshold: how likely a control token must be. overwrite: how likely another token must be to replace a
    visible one. max_steps: calls a row. max_changes: changes a row, fillings of open positions not counted. max_length: what
    no row outgrows, beside its growth cap. Of the sampler's policy the accept rule and the temperature are used.
    """

    sampler: Sampler
    control_ids: Mapping[str, int] = field(repr=False)
    threshold: float = 0.7
    overwrite: float = 0.8
    max_steps: int = 64
    max_changes: int = 256
    max_length: int | None = None

    def __post_init__(self) -> None:
        missing = {"MASK", *OPS} - set(self.control_ids)
        if missing and self.ops:
            raise ValueError(f"control_ids lack {', '.join(sorted(missing))}; this checkpoint cannot change lengths")
        if self.ops and self.sampler.process.mask_id != self.control_ids["MASK"]:
            raise ValueError(
                f"the noise masks with id {self.sampler.process.mask_id}, but MASK is {self.control_ids['MASK']}"
            )
        if self.sampler.decoding.accept.from_posterior:
            raise ValueError(
                f"accept rule {self.sampler.decoding.accept.name} draws whole canvases; choose one that accepts"
            )
        for name in ("threshold", "overwrite"):
            if not 0.5 <= (share := getattr(self, name)) <= 1:
                raise ValueError(f"{name} is {share}; it must lie between 0.5 (more likely than not) and 1")
        for name, least in (("max_steps", 1), ("max_changes", 0)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}")

    @property
    def ops(self) -> dict[str, int]:
        """The changes of structure that these weights have tokens for: name -> label."""
        return {name: op for name, op in OPS.items() if name in self.control_ids}

    def run(self, canvas: Canvas, cache: Any, draws: Draws) -> Canvas:
        """All the steps; the canvas is returned finished."""
        for _ in self.steps(canvas, cache, draws):
            pass
        return canvas

    def steps(self, canvas: Canvas, cache: Any, draws: Draws) -> Iterator[StructuralStep]:
        """Work on `canvas` in place, one denoiser call a step. The cache needs room for `growth_cap(C)` positions.

        Raises ValueError for a row without a given position.
        """
        if not bool((canvas.valid & ~canvas.editable).any(-1).all()):
            raise ValueError("a row has no given position; close it with an end token (Canvas.of_texts does)")
        start, length = canvas.level, canvas.valid.sum(-1)
        no = torch.zeros_like(length, dtype=torch.bool)
        most = growth_cap(length) if self.max_length is None else growth_cap(length).clamp(max=self.max_length)
        budget = torch.full_like(length, self.max_changes)
        seen = [{tuple(text)} for text in texts(canvas)]
        now = _Progress(most, budget, seen, torch.zeros_like(canvas.open), no, no, ~no)
        grid = self.sampler.process.schedule.grid(self.max_steps)
        for index in range(self.max_steps - 1):
            if not bool(now.running.any()):
                break
            canvas.level = torch.where(now.running, start * float(grid[index + 1]), canvas.level)
            running, origin = now.running, canvas.origin
            labels, confidence = self._step(canvas, cache, draws.at(step=index), now, index)
            yield StructuralStep(index, canvas, labels, confidence, origin, running)
        else:
            index = self.max_steps - 1
        unfinished = self._unfinished(canvas)
        if bool(unfinished.any()):
            labels, confidence = self._scrub(canvas, cache, draws, index)
            yield StructuralStep(index, canvas, labels, confidence, canvas.origin, unfinished.any(-1))

    def propose(self, canvas: Canvas, cache: Any, draws: Draws, permitted: Tensor) -> Proposal:
        """One call; control tokens are possible in `permitted` rows `[B]`, where they mean something."""
        where = {
            "DELETE": canvas.editable, "INSERT": canvas.valid & ~canvas.open & ~canvas.closed, "EXPAND": canvas.open,
        }  # fmt: skip
        if not self.ops:
            return self.sampler.propose(canvas, cache, draws, canvas.level, None)
        legal = torch.stack([where[name] for name in self.ops], -1) & permitted[:, None, None]
        ids = [self.control_ids[name] for name in self.ops]
        sampler = dataclasses.replace(
            self.sampler,
            denoiser=_Permitted(self.sampler.denoiser, ids, ~legal),
            banned=tuple(set(self.sampler.banned) - set(ids)),
        )
        return sampler.propose(canvas, cache, draws, canvas.level, None)

    def _step(self, canvas: Canvas, cache: Any, draws: Draws, now: _Progress, index: int) -> tuple[Tensor, Tensor]:
        """One call and its changes. Returns the labels applied and the confidence of the proposals, `[B, C]` each."""
        permitted = now.running & ~now.resting & ~now.looping
        proposal = self.propose(canvas, cache, draws, permitted)
        ops = self._ops(proposal, now.running)
        overwrite = self._overwrites(proposal, canvas, now.running & ~now.looping)
        within = _best(proposal.confidence, (ops != KEEP) | overwrite, now.budget)
        ops = canvas.legal(torch.where(within, ops, KEEP), now.most)
        settled = torch.where(permitted[:, None], ops == KEEP, now.settled | now.looping[:, None]) & canvas.open
        fill = self._fills(proposal, canvas, settled, draws) & now.running[:, None]
        labels = torch.where(fill | (overwrite & within), proposal.tokens, ops)
        labels = self._break_loops(canvas, labels, proposal.confidence, now)
        ops = canvas.legal(labels, now.most)
        labels = torch.where(labels >= 0, labels, ops)
        now.budget = now.budget - ((labels != KEEP) & ~canvas.open | (ops != KEEP)).sum(-1)
        canvas.accept(proposal.tokens, labels >= 0, proposal.confidence, index)
        before = canvas.structure(ops, self.control_ids.get("MASK", 0), now.most)
        now.settled = settled.gather(-1, before.clamp(min=0)) & (before >= 0) & canvas.open
        changed, restructured = (labels != KEEP).any(-1), (ops != KEEP).any(-1)
        now.running = now.running & ~((permitted | now.looping) & ~changed & canvas.done())
        now.resting = restructured | (permitted & ~changed)
        return labels, proposal.confidence

    def wanted(self, proposal: Proposal, canvas: Canvas) -> Where:
        """Where a first call would change what stands there, bool `[B, C]`."""
        rows = torch.ones_like(canvas.done())
        changes = canvas.legal(self._ops(proposal, rows)) != KEEP
        return changes | self._overwrites(proposal, canvas, rows)

    def _ops(self, proposal: Proposal, rows: Tensor) -> Tensor:
        """DELETE, INSERT, EXPAND where their control token is likelier than the threshold, KEEP elsewhere."""
        ops = torch.full_like(proposal.tokens, KEEP)
        for name, op in self.ops.items():
            ops[proposal.tokens == self.control_ids[name]] = op
        return torch.where((proposal.confidence > self.threshold) & rows[:, None], ops, KEEP)

    def _is_control(self, tokens: Tokens) -> Where:
        return torch.isin(tokens, torch.tensor(list(self.control_ids.values()), device=tokens.device))

    def _overwrites(self, proposal: Proposal, canvas: Canvas, rows: Tensor) -> Where:
        """Visible tokens that the network doubts enough to name another."""
        other = (proposal.tokens != canvas.tokens) & ~self._is_control(proposal.tokens)
        return other & (proposal.confidence > self.overwrite) & canvas.editable & ~canvas.open & rows[:, None]

    def _fills(self, proposal: Proposal, canvas: Canvas, settled: Where, draws: Draws) -> Where:
        """What the policy accepts, when all that may be filled are the settled positions."""
        view = dataclasses.replace(canvas, status=torch.where(canvas.open & ~settled, GIVEN, canvas.status))
        accept = self.sampler.decoding.accept(proposal, view, canvas.level, draws)
        return accept & settled & ~self._is_control(proposal.tokens)

    def _break_loops(self, canvas: Canvas, labels: Tensor, confidence: Tensor, now: _Progress) -> Tensor:
        """Where the labels lead to a text that was there before, the weakest is dropped; if that is no way out, all are."""
        labels, before = labels.clone(), texts(canvas)
        for row in (now.running & ~now.looping & (labels != KEEP).any(-1)).nonzero()[:, 0].tolist():
            valid, most = canvas.valid[row], int(now.most[row])

            def after(row: int = row, valid: Tensor = valid, most: int = most) -> tuple[int, ...]:
                return tuple(apply(before[row], [*labels[row][valid].tolist(), KEEP], most))

            if after() in now.seen[row]:
                labels[row, confidence[row].masked_fill(labels[row] == KEEP, torch.inf).argmin()] = KEEP
            if (text := after()) in now.seen[row]:
                labels[row] = KEEP
                now.looping = now.looping | (torch.arange(len(labels), device=labels.device) == row)
            now.seen[row].add(text)
        return labels

    def _unfinished(self, canvas: Canvas) -> Where:
        """Open positions, and editable ones that hold a control token."""
        return canvas.open | (canvas.editable & self._is_control(canvas.tokens))

    def _scrub(self, canvas: Canvas, cache: Any, draws: Draws, index: int) -> tuple[Tensor, Tensor]:
        """The last call: no control token is legal, and whatever is unfinished is written."""
        proposal = self.propose(canvas, cache, draws.at(step=index), torch.zeros_like(canvas.done()))
        where = self._unfinished(canvas)
        canvas.accept(proposal.argmax, where, proposal.confidence, index)
        canvas.level = torch.zeros_like(canvas.level)
        return torch.where(where, proposal.argmax, KEEP), proposal.confidence
