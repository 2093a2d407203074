"""Trace: every call of a generation, replayable, drawable, countable. Saved as JSON lines: a header, then one frame a call.

    {"mezzotint_trace": 1, "prompt": [...], "decode": "diffusion", "seed": 0, ...}
    {"kind": "denoise", "step": 0, "start": 41, "tokens": [...], "status": [...], "calls": 1, "positions": 16, ...}

A frame holds the whole canvas after the call, so a replay is a loop over frames and any frame can be drawn alone.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mezzotint.sampler.canvas import ACCEPTED, OPEN, STATUS_NAMES

VERSION = 1
KINDS = ("read", "decode", "verify", "denoise", "commit")


@dataclass(frozen=True)
class Frame:
    """One row's part in one call. `tokens` and `status` cover positions `start`, `start + 1`, ... of the text.

    kind: read (the prompt; not counted as a call), decode (one AR token), verify (a draft checked), denoise (a canvas
    worked on), commit (a finished canvas read into the cache). committed: how many of the tokens can no longer change.
    """

    kind: str
    row: int
    block: int
    step: int
    start: int
    tokens: list[int]
    status: list[int]
    committed: int
    calls: int
    positions: int  # positions computed by the call
    seconds: float = 0.0  # since the row's first frame


@dataclass
class Trace:
    """Frames of one row in order, under a header that says what they were made with."""

    header: dict[str, Any] = field(default_factory=dict)
    frames: list[Frame] = field(default_factory=list)

    def add(self, frame: Frame) -> None:
        self.frames.append(frame)

    @property
    def num_calls(self) -> int:
        """Calls of the network after the prompt was read, verifying and committing included."""
        return sum(frame.calls for frame in self.frames)

    @property
    def num_positions(self) -> int:
        """Positions computed by those calls."""
        return sum(frame.positions for frame in self.frames if frame.calls)

    @property
    def num_tokens(self) -> int:
        return sum(frame.committed for frame in self.frames)

    @property
    def tokens_per_call(self) -> float:
        return self.num_tokens / self.num_calls if self.num_calls else 0.0

    @property
    def accepted_per_round(self) -> float | None:
        """Mean draft tokens accepted by a verifying call; None when nothing was verified."""
        verified = [frame.committed - 1 for frame in self.frames if frame.kind == "verify"]
        return sum(verified) / len(verified) if verified else None

    def replay(self) -> list[int]:
        """The committed ids, rebuilt from the frames alone. Raises ValueError when frames leave a gap."""
        ids: list[int] = []
        origin: int | None = None
        for number, frame in enumerate(self.frames):
            if not frame.committed:
                continue
            origin = frame.start if origin is None else origin
            if frame.start != origin + len(ids):
                raise ValueError(f"frame {number} commits position {frame.start}, but {origin + len(ids)} is next")
            ids.extend(frame.tokens[: frame.committed])
        return ids

    def views(self) -> Iterator[tuple[Frame, list[int], list[int]]]:
        """For every frame: the frame, the ids that stand after it (committed, then the canvas), and their status."""
        done: list[int] = []
        for frame in self.frames:
            yield frame, done + frame.tokens, [ACCEPTED] * len(done) + frame.status
            done = done + frame.tokens[: frame.committed]

    def lines(self) -> str:
        """As JSON lines: what `save` writes and `parse` reads."""
        records = [{"mezzotint_trace": VERSION, **self.header}, *(asdict(frame) for frame in self.frames)]
        return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)

    def save(self, path: str | Path) -> None:
        """Write as JSON lines, atomically: an interrupted save leaves what was there before."""
        path = Path(path)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(self.lines())
            os.replace(part, path)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read a saved trace. Raises ValueError naming the line that is not a trace's."""
        try:
            return cls.parse(Path(path).read_text(encoding="utf-8"), str(path))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not a trace: byte {error.start} is not UTF-8 text") from None

    @classmethod
    def parse(cls, text: str, name: str = "the text") -> Trace:
        """A saved trace's lines. name: what errors call them. Raises as `load`."""
        trace, lines = cls(), text.splitlines()
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                if number == 1:
                    if record.pop("mezzotint_trace") != VERSION:
                        raise ValueError(f"its version is not {VERSION}")
                    trace.header = record
                else:
                    frame = Frame(**record)
                    _check(frame)
                    trace.add(frame)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise ValueError(f"{name}, line {number} is not a trace's: {error}") from None
        if not lines:
            raise ValueError(f"{name} is empty; a trace has a header line and one line a call")
        return trace


def _check(frame: Frame) -> None:
    if frame.kind not in KINDS:
        raise ValueError(f"kind is {frame.kind!r}; allowed: {', '.join(KINDS)}")
    if len(frame.tokens) != len(frame.status):
        raise ValueError(f"{len(frame.tokens)} tokens but {len(frame.status)} status values")
    if not all(isinstance(t, int) and t >= 0 for t in frame.tokens):
        raise ValueError("tokens must be numbers from 0 up")
    if not all(s in range(len(STATUS_NAMES)) for s in frame.status):
        raise ValueError(f"status must lie between {0} and {len(STATUS_NAMES) - 1}")
    if not 0 <= frame.committed <= len(frame.tokens):
        raise ValueError(f"committed is {frame.committed} of {len(frame.tokens)} tokens")
    if OPEN in frame.status[: frame.committed]:
        raise ValueError("a committed position is still open")
