"""An edit: what becomes of a text, hunk by hunk.

    She dont like apples.
        4:8  dont -> don't   0.97      accepted or rejected alone: `edit.reject(0)`

* Everything outside the hunks is the source's own characters. With no hunk left the text is the source, byte for byte.
* Offsets are in characters (code points); `places` gives bytes and UTF-16 units too, which is how editors count.
"""

from __future__ import annotations

import bisect
import difflib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import regex

_NO_NEWLINE = "\\ No newline at end of file\n"


@dataclass(frozen=True)
class Hunk:
    """One contiguous change: characters `start:end` of the source, which are `before`, became `after`.

    confidence: how sure the model is of it, 0 to 1. gain: nats by which the whole text became likelier, where that was
    measured.
    """

    start: int
    end: int
    before: str
    after: str
    confidence: float = 1.0
    gain: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end or len(self.before) != self.end - self.start:
            raise ValueError(
                f"hunk {self.start}:{self.end} does not hold the {len(self.before)} characters it replaces"
            )

    @cached_property
    def common(self) -> tuple[int, int]:
        """How many characters both sides begin with, and how many of the rest they end with."""
        start = _common(self.before, self.after)
        return start, _common(self.before[start:][::-1], self.after[start:][::-1])

    @property
    def size(self) -> int:
        """Characters changed: of both sides the longer, what they have in common left out."""
        return max(len(self.before), len(self.after)) - sum(self.common)


class Place(NamedTuple):
    """Where a hunk begins or ends in the source. line and character are those of LSP: from 0, in UTF-16 units."""

    code_point: int
    byte: int
    utf16: int
    line: int
    character: int


@dataclass(frozen=True)
class Edit:
    """A finished edit: `before`, and the hunks that make it `after`.

    way: how it was made (diffusion, verified, rescore, repair); num_calls: what it cost; notes: what a user should know.
    Raises ValueError for hunks that overlap, are out of order or are not the source's.
    """

    before: str
    hunks: Sequence[Hunk]
    num_calls: int = 0
    way: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        last = 0
        for hunk in self.hunks:
            if hunk.start < last or self.before[hunk.start : hunk.end] != hunk.before:
                raise ValueError(f"hunk {hunk.start}:{hunk.end} overlaps another or is not of this text")
            last = hunk.end

    @cached_property
    def after(self) -> str:
        pieces, at = [], 0
        for hunk in self.hunks:
            pieces += [self.before[at : hunk.start], hunk.after]
            at = hunk.end
        return "".join([*pieces, self.before[at:]])

    # -- choosing among hunks --------------------------------------------------------------------------------------

    def accept(self, *numbers: int) -> Edit:
        """Only these hunks. Raises ValueError for numbers that no hunk has."""
        self._check(numbers)
        return replace(self, hunks=[hunk for n, hunk in enumerate(self.hunks) if n in numbers])

    def reject(self, *numbers: int) -> Edit:
        """All but these hunks. `editor.resolve` has the model work on the rest again. ValueError as in `accept`."""
        self._check(numbers)
        return self.accept(*set(range(len(self.hunks))) - set(numbers))

    def within(self, budget: float, free: int) -> Edit:
        """The surest hunks whose sizes together are at most `budget` of `free` characters, those that may change."""
        room, kept = math.floor(budget * free + 1e-9), list[int]()
        for n in sorted(range(len(self.hunks)), key=lambda n: (-self.hunks[n].confidence, n)):
            if self.hunks[n].size <= room:
                room -= self.hunks[n].size
                kept.append(n)
        return self.accept(*kept)

    def _check(self, numbers: Iterable[int]) -> None:
        if wrong := [n for n in numbers if not 0 <= n < len(self.hunks)]:
            raise ValueError(f"there is no hunk {wrong[0]}; this edit has {len(self.hunks)}, counted from 0")

    # -- for people and programs ------------------------------------------------------------------------------------

    def diff(self, name: str = "text") -> str:
        """Unified diff of lines, as git writes and `patch` reads it; empty when nothing changed."""
        lines = difflib.unified_diff(_lines(self.before), _lines(self.after), f"a/{name}", f"b/{name}")
        return "".join(line if line.endswith("\n") else f"{line}\n{_NO_NEWLINE}" for line in lines)

    def places(self) -> Iterator[tuple[Place, Place]]:
        """Start and end of every hunk, counted in each way."""
        starts = [0, *(match.end() for match in regex.finditer(r"\r\n|\r|\n", self.before))]
        at = byte = utf16 = 0

        def place(code_point: int) -> Place:
            nonlocal at, byte, utf16
            passed = self.before[at:code_point]
            at, byte, utf16 = code_point, byte + len(passed.encode()), utf16 + _utf16(passed)
            line = bisect.bisect_right(starts, code_point) - 1
            return Place(code_point, byte, utf16, line, _utf16(self.before[starts[line] : code_point]))

        for hunk in self.hunks:
            yield place(hunk.start), place(hunk.end)

    def lsp(self) -> list[dict[str, Any]]:
        """The hunks as TextEdits of the Language Server Protocol."""
        return [
            {
                "range": {
                    name: {"line": at.line, "character": at.character} for name, at in (("start", start), ("end", end))
                },
                "newText": hunk.after,
            }
            for hunk, (start, end) in zip(self.hunks, self.places(), strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        hunks = []
        for hunk, (start, end) in zip(self.hunks, self.places(), strict=True):
            table = {**asdict(hunk), "bytes": [start.byte, end.byte], "utf16": [start.utf16, end.utf16]}
            hunks.append({key: value for key, value in table.items() if value is not None})
        return {
            "text": self.after, "changed": self.before != self.after, "hunks": hunks, "calls": self.num_calls,
            "way": self.way, "notes": list(self.notes), "lsp": self.lsp(),
        }  # fmt: skip


def _common(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _lines(text: str) -> list[str]:
    return regex.findall(r"[^\n]*\n|[^\n]+", text)


def _utf16(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2
