"""Canvas: the text being worked on, and the only thing that changes while sampling. Draft: its frozen starting point.

    status   given      part of the prompt or locked: never written
             open       noise, still to be decided
             accepted   a token the sampler has decided on
             overwritten  decided, then decided otherwise

What is noise is said by `status`, never by "id == MASK": a user's text may hold any id, and uniform noise has no mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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
    def _new(cls, tokens: Tokens, status: Tensor, positions: Tensor, level: Level) -> Canvas:
        never = torch.full_like(tokens, -1)
        unsure = torch.full(tokens.shape, float("nan"), dtype=torch.float64)
        return cls(tokens, status, positions, torch.ones_like(tokens, dtype=torch.bool), level, never, unsure)

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

    def rows(self, index: Tensor) -> Canvas:
        """Only the rows that `index` picks (a copy)."""
        return Canvas(*(getattr(self, name)[index] for name in self.__dataclass_fields__))
