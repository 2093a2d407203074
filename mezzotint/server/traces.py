"""Traces: the calls of answers that asked for it (`trace`), and of all of the playground's, kept for a while under their ids.

They hold prompts and answers: only who may ask at all can fetch one, and the ids cannot be guessed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from mezzotint.engine.request import Request
from mezzotint.sampler.trace import Trace
from mezzotint.server.errors import ApiError
from mezzotint.server.settings import MOST_FRAMES, MOST_TRACES


@dataclass(frozen=True)
class Kept:
    """rows: a trace a choice, which may still grow. request: what was asked, where one can go on from it."""

    rows: Sequence[Trace]
    request: Request | None = None

    @property
    def trace(self) -> Trace:
        return self.rows[0]


class Traces:
    """The latest ones, in memory."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Kept] = OrderedDict()

    def keep(self, id: str, kept: Kept) -> None:
        self._kept[id] = kept
        while len(self._kept) > 1 and (len(self._kept) > MOST_TRACES or self._frames > MOST_FRAMES):
            self._kept.popitem(last=False)

    @property
    def _frames(self) -> int:
        return sum(len(trace.frames) for kept in self._kept.values() for trace in kept.rows)

    def get(self, id: str) -> Kept:
        """Raises ApiError 404."""
        if id not in self._kept:
            raise ApiError(404, "there is no such trace, or it is not kept any more; run it again", "trace_not_found")
        return self._kept[id]

    def lines(self, id: str, choice: int) -> str:
        """A trace as `Trace.save` writes it. Raises ApiError 404."""
        rows = self._kept[id].rows if id in self._kept else ()
        if choice >= len(rows):
            raise ApiError(404, "there is no such trace; ask for one with trace, and fetch it soon", "trace_not_found")
        return rows[choice].lines()
