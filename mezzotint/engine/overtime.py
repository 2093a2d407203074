"""Overtime: has the time come to end an answer with the best that there is?

    asked between calls:   ....|....|....|..X        X: one more call, as long as the longest of late, would pass the deadline

Diffusion then fills what is open with the likeliest tokens of the call just made, so that a canvas is never cut in two.
"""

from __future__ import annotations

import time
from collections import deque

import torch
from torch import Tensor

from mezzotint.sampler.canvas import Canvas
from mezzotint.sampler.decoding import Proposal, Rule
from mezzotint.shapes import Level

LATE = 32  # gaps between calls that are remembered


class Overtime:
    """deadline: a time of `time.monotonic`."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self._asked: float | None = None
        self._gaps: deque[float] = deque(maxlen=LATE)

    def over(self) -> bool:
        """Once it is, it stays so."""
        now = time.monotonic()
        if self._asked is not None:
            self._gaps.append(now - self._asked)
        self._asked = now
        if now + max(self._gaps, default=0.0) >= self.deadline:
            self.deadline = now
            return True
        return False

    @property
    def rule(self) -> Rule:
        """As a rule that stops every row of a canvas."""

        def stop(proposal: Proposal, canvas: Canvas, s: Level, draws: object) -> Tensor:
            return torch.full((len(canvas.tokens),), self.over(), device=canvas.tokens.device)

        return Rule("overtime", stop)
