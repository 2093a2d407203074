"""Traces: the calls of answers that asked for it (`trace`), kept for a while, to be fetched under the answer's id.

They hold prompts and answers: only who may ask at all can fetch one, and the ids cannot be guessed.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict

from mezzotint.sampler.trace import VERSION, Trace
from mezzotint.server.errors import ApiError
from mezzotint.server.settings import MOST_FRAMES, MOST_TRACES


class Traces:
    """The latest ones, in memory."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Sequence[Trace]] = OrderedDict()

    def keep(self, id: str, rows: Sequence[Trace]) -> None:
        """rows: one a choice."""
        self._kept[id] = rows
        while len(self._kept) > 1 and (len(self._kept) > MOST_TRACES or self._frames > MOST_FRAMES):
            self._kept.popitem(last=False)

    @property
    def _frames(self) -> int:
        return sum(len(trace.frames) for rows in self._kept.values() for trace in rows)

    def lines(self, id: str, choice: int) -> str:
        """A trace as `Trace.save` writes it. Raises ApiError 404."""
        rows = self._kept.get(id, ())
        if choice >= len(rows):
            raise ApiError(404, "there is no such trace; ask for one with trace, and fetch it soon", "trace_not_found")
        trace = rows[choice]
        told = [{"mezzotint_trace": VERSION, **trace.header}, *(asdict(frame) for frame in trace.frames)]
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in told)
