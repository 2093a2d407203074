"""Frames: what a call did to a canvas, for clients that asked to see it; and a canvas as text.

    {"v": 1, "seq": 7, "kind": "denoise", "block": 0, "step": 3, "start": 12, "length": 16, "keyframe": false,
     "edits": [[2, " ball", "draft"], [5, null, "mask"]], "calls": 8, "positions": 128, "elapsed_ms": 41}

edits: places of the canvas, from 0, that are not as the row's last frame of the same canvas left them; all of them in a
keyframe, which every eighth is. calls, positions: of the row so far.
"""

from __future__ import annotations

from typing import Any

from mezzotint.engine.engine import Engine
from mezzotint.sampler.canvas import ACCEPTED, GIVEN, OPEN
from mezzotint.sampler.trace import Frame

NOISE = "\u2591"  # a position that is still noise, in a snapshot
KEYFRAME = 8


class Film:
    """The frames of one row, made into what is sent."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._seq = self._calls = self._positions = 0
        self._last: tuple[int, list[list[Any]]] = (-1, [])

    def shot(self, frame: Frame) -> dict[str, Any]:
        self._calls += frame.calls
        self._positions += frame.positions if frame.calls else 0
        now = [self._place(frame, i) for i in range(len(frame.tokens))]
        start, before = self._last
        key = self._seq % KEYFRAME == 0 or start != frame.start or len(before) != len(now)
        edits = [place for i, place in enumerate(now) if key or place != before[i]]
        self._last, self._seq = (frame.start, now), self._seq + 1
        return {
            "v": 1, "seq": self._seq - 1, "kind": frame.kind, "block": frame.block, "step": frame.step, "start": frame.start,
            "length": len(now), "keyframe": key, "edits": edits, "committed": frame.committed, "calls": self._calls,
            "positions": self._positions, "elapsed_ms": round(frame.seconds * 1000),
        }  # fmt: skip

    def _place(self, frame: Frame, i: int) -> list[Any]:
        token, status = frame.tokens[i], frame.status[i]
        if status == OPEN and token == self._engine.checkpoint.facts.mask_id:
            return [i, None, "mask"]
        state = {OPEN: "noise", GIVEN: "given", ACCEPTED: "draft"}.get(status, "revised")
        text = self._engine.tokenizer.decode([token])
        return [i, text, "committed" if i < frame.committed else state]


def draft(engine: Engine, frame: Frame) -> str:
    """The canvas of a call as text; what is still mask is shown as a shaded block."""
    mask, text, run = engine.checkpoint.facts.mask_id, "", list[int]()
    for token, status in zip(frame.tokens, frame.status, strict=True):
        if status == OPEN and token == mask:
            text, run = text + engine.tokenizer.decode(run) + NOISE, []
        else:
            run.append(token)
    return text + engine.tokenizer.decode(run)
