"""Canvas: the text being worked on, and the only thing that changes while sampling. Draft: its frozen starting point.

    status   given      part of the prompt or locked: never written
             open       noise, still to be decided
             accepted   a token the sampler has decided on
             overwritten  decided, then decided otherwise

What is noise is said by `status`, never by "id == MASK": a user's text may hold any id, and uniform noise has no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mezzotint.alignment import DELETE, EXPAND, INSERT, KEEP, SLOT
from mezzotint.draws import Draws
from mezzotint.noise import NoiseProcess
from mezzotint.shapes import Level, Tokens, Where

GIVEN, OPEN, ACCEPTED, OVERWRITTEN = 0, 1, 2, 3
STATUS_NAMES = ("given", "open", "accepted", "overwritten")


@dataclass(frozen=True)
class Draft:
    """Where a canvas starts: ids `[B, C]`, which of them may change, and the level `[B]` they start at.

    Level 1 rewrites the editable positions from nothing; 0.4 returns 40% of them, drawn by count, to noise.
    """

    tokens: Tokens
    editable: Where
    level: Level

    def __post_init__(self) -> None:
        if self.tokens.shape != self.editable.shape:
            raise ValueError(
                f"tokens {tuple(self.tokens.shape)} and editable {tuple(self.editable.shape)} differ in shape"
            )
        if bool(((self.level < 0) | (self.level > 1)).any()):
            raise ValueError(f"draft level {self.level.tolist()} must lie between 0 (clean) and 1 (noise)")


@dataclass
class Canvas:
    """One canvas a row, all `[B, C]`: tokens, status, absolute positions, valid (False: padding of a shorter row)."""

    tokens: Tokens
    status: Tensor
    positions: Tensor
    valid: Where
    level: Level  # [B]: the level that the next step starts from
    accepted_at: Tensor  # step at which a position was last written, -1 before
    confidence: Tensor  # float64: confidence when it was accepted, nan before
    origin: Tensor  # int64: its index on the canvas as it started, -1 if opened since
    closed: Where  # nothing opens before it

    @classmethod
    def blank(
        cls, process: NoiseProcess, starts: Tensor, length: int, draws: Draws, forced: Tokens | None = None
    ) -> Canvas:
        """Nothing but noise, except `forced` `[B, C]` (ids, -1 where free), which are given. starts int64 `[B]`."""
        positions = starts[:, None] + torch.arange(length)
        tokens = process.prior(positions.shape, draws, positions)
        status = torch.full_like(tokens, OPEN)
        if forced is not None:
            tokens = torch.where(forced >= 0, forced, tokens)
            status = torch.where(forced >= 0, GIVEN, status)
        return cls._new(tokens, status, positions, torch.ones(len(starts), dtype=torch.float64))

    @classmethod
    def from_draft(cls, draft: Draft, process: NoiseProcess, starts: Tensor, draws: Draws) -> Canvas:
        """The draft's text, with the share of its editable positions that its level says returned to noise."""
        positions = starts[:, None] + torch.arange(draft.tokens.shape[1])
        noisy = draft.editable & (draws.uniform("draft-level", positions) < draft.level[:, None])
        tokens = process.renoise(draft.tokens, noisy, torch.ones_like(draft.level), draws, positions)
        status = torch.where(noisy, OPEN, torch.where(draft.editable, ACCEPTED, GIVEN))
        return cls._new(tokens, status, positions, draft.level.to(torch.float64))

    @classmethod
    def of_texts(
        cls, texts: Sequence[Sequence[int]], end_id: int, slot_id: int, starts: Tensor | None = None,
        locked: Sequence[Sequence[int]] | None = None, closed: Sequence[Sequence[int]] | None = None,
    ) -> Canvas:  # fmt: skip
        """Texts to be edited, SLOT where they are open, each closed by a given `end_id` before which text can grow.

        starts int64 `[B]`: positions of the first tokens (0 by default). locked: per row, the positions that are given;
        closed: those before which nothing opens (the end's is the text's length).
        Raises ValueError for a lock on a slot or outside its text.
        """
        width = max(map(len, texts)) + 1
        tokens = torch.tensor([[*text, end_id] + [slot_id] * (width - len(text) - 1) for text in texts])
        lengths = torch.tensor([len(text) for text in texts])[:, None]
        where = torch.arange(width).expand(len(texts), -1)
        given = where == lengths
        for row, places in enumerate(locked or []):
            if wrong := [i for i in places if not 0 <= i < len(texts[row]) or texts[row][i] == SLOT]:
                raise ValueError(f"locked positions {wrong} of text {row} are open or outside its {len(texts[row])}")
            given[row, list(places)] = True
        status = torch.where(given, GIVEN, torch.where(tokens == SLOT, OPEN, ACCEPTED))
        positions = where + (0 if starts is None else starts[:, None])
        tokens = torch.where(tokens == SLOT, slot_id, tokens)
        made = cls._new(tokens, status, positions, torch.ones(len(texts), dtype=torch.float64))
        made.valid = where <= lengths
        for row, places in enumerate(closed or []):
            made.closed[row, list(places)] = True
        return made

    @classmethod
    def _new(cls, tokens: Tokens, status: Tensor, positions: Tensor, level: Level) -> Canvas:
        never = torch.full_like(tokens, -1)
        unsure = torch.full(tokens.shape, float("nan"), dtype=torch.float64)
        every = torch.ones_like(tokens, dtype=torch.bool)
        origin = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        return cls(tokens, status, positions, every, level, never, unsure, origin, torch.zeros_like(every))

    @property
    def open(self) -> Where:
        return (self.status == OPEN) & self.valid

    @property
    def editable(self) -> Where:
        return (self.status != GIVEN) & self.valid

    def done(self) -> Tensor:
        """bool `[B]`: nothing is open."""
        return ~self.open.any(-1)

    def accept(self, tokens: Tokens, where: Where, confidence: Tensor, step: int) -> None:
        """Keep the proposed tokens at `where` (given positions are left out); a decided token that differs is overwritten."""
        where = where & self.editable
        changed = where & (self.status != OPEN) & (tokens != self.tokens)
        self.tokens = torch.where(where, tokens, self.tokens)
        self.status = torch.where(
            changed, OVERWRITTEN, torch.where(where & (self.status == OPEN), ACCEPTED, self.status)
        )
        self.accepted_at = torch.where(where, step, self.accepted_at)
        self.confidence = torch.where(where, confidence, self.confidence)

    def renoise(self, where: Where, process: NoiseProcess, level: Level, draws: Draws) -> None:
        """Return editable positions to noise at `level` `[B]`."""
        where = where & self.editable
        self.tokens = process.renoise(self.tokens, where, level, draws, self.positions)
        self.status = torch.where(where, OPEN, self.status)

    def reopen(self, where: Where) -> None:
        """Mark editable positions as open, their tokens (noise drawn elsewhere) untouched."""
        self.status = torch.where(where & self.editable, OPEN, self.status)

    def legal(self, ops: Tensor, most: Tensor | None = None) -> Tensor:
        """The DELETE, INSERT and EXPAND in `ops` `[B, C]` that may be applied, KEEP elsewhere.

        DELETE needs an editable position, EXPAND an open one, INSERT one that is not closed. most `[B]`: how long a row
        may become; the leftmost grow first.
        """
        delete = (ops == DELETE) & self.editable
        grow = ((ops == INSERT) & self.valid & ~self.closed) | ((ops == EXPAND) & self.open)
        if most is not None:
            room = most - self.valid.sum(-1) + delete.sum(-1)
            grow &= grow.cumsum(-1) <= room[:, None]
        return torch.where(delete | grow, ops, KEEP)

    def structure(self, ops: Tensor, slot_id: int, most: Tensor | None = None) -> Tensor:
        """Apply the legal DELETE, INSERT and EXPAND of `ops` `[B, C]`; rows are re-packed and renumbered from their start.

        A fresh position is open and holds `slot_id`. Returns int64 `[B, C']`: where each stood before, -1 if nowhere.
        """
        ops = self.legal(ops, most)
        grow = (ops == INSERT) | (ops == EXPAND)
        copies = self.valid.to(torch.int64) + grow.to(torch.int64) - (ops == DELETE).to(torch.int64)
        ends, lengths = copies.cumsum(-1), copies.sum(-1, keepdim=True)
        out = torch.arange(int(lengths.max()), device=ops.device).expand(len(ops), -1).contiguous()
        before = torch.searchsorted(ends, out, right=True).clamp(max=ops.shape[1] - 1)
        first = out == (ends - copies).gather(-1, before)
        op = ops.gather(-1, before)
        fresh = ((op == INSERT) & first) | ((op == EXPAND) & ~first)
        valid = out < lengths
        for name, blank in (
            ("tokens", slot_id), ("status", OPEN), ("accepted_at", -1), ("confidence", float("nan")), ("origin", -1),
            ("closed", False),
        ):  # fmt: skip
            old: Tensor = getattr(self, name)
            setattr(self, name, torch.where(fresh | ~valid, blank, old.gather(-1, before)))
        self.positions, self.valid = self.positions[:, :1] + out, valid
        return torch.where(fresh | ~valid, -1, before)

    def rows(self, index: Tensor) -> Canvas:
        """Only the rows that `index` picks (a copy)."""
        return Canvas(*(getattr(self, name)[index] for name in self.__dataclass_fields__))
