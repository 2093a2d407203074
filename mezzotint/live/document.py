"""Document: an editor's text, and its positions, which are a line and so many units of an encoding into it.

    naïve 😀|x      line 0, character 8 in UTF-16, 7 in UTF-32, 11 in UTF-8; offset 7, which is how Python counts

A line ends at CR LF, LF or CR, at nothing else: a form feed does not end one for an editor, though `str.splitlines` says so.
"""

from __future__ import annotations

import bisect
import copy
from dataclasses import dataclass, field
from typing import NamedTuple

import regex

ENCODINGS = {"utf-8": 1, "utf-16": 2, "utf-32": 4}  # bytes a unit
BEFORE, AFTER = 4000, 1000  # characters around a cursor that are looked at
_BREAK = regex.compile(r"\r\n|\r|\n")


class Position(NamedTuple):
    """From 0; character in units of the document's encoding."""

    line: int
    character: int


class Change(NamedTuple):
    """start, end: what `text` takes the place of; None: all of it."""

    start: Position | None
    end: Position | None
    text: str


class Lines(NamedTuple):
    """Lines `start:end` of the old text are `now` lines."""

    start: int
    end: int
    now: int


@dataclass
class Document:
    """`text` with its `version`. encoding: utf-8, utf-16 or utf-32; others raise ValueError."""

    uri: str
    text: str
    version: int | None = None
    encoding: str = "utf-16"
    starts: list[int] = field(init=False)  # offset of every line

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            raise ValueError(f"position encoding is {self.encoding!r}; allowed: {', '.join(ENCODINGS)}")
        self._set(self.text)

    def _set(self, text: str) -> None:
        self.text = whole(text)
        self.starts = [0, *(match.end() for match in _BREAK.finditer(self.text))]

    def line(self, number: int) -> str:
        """A line without its end."""
        start = self.starts[number]
        stop = self.starts[number + 1] if number + 1 < len(self.starts) else len(self.text)
        return self.text[start:stop].rstrip("\r\n")

    def lines(self, start: int, end: int) -> str:
        """Lines `start:end` with their ends."""
        stop = self.starts[end] if end < len(self.starts) else len(self.text)
        return self.text[self.starts[start] : stop]

    def line_of(self, offset: int) -> int:
        return bisect.bisect_right(self.starts, offset) - 1

    def offset(self, position: Position) -> int:
        """Beyond a line: its end; beyond the text: its end; inside a character: its start. ValueError below 0."""
        if min(position) < 0:
            raise ValueError(f"position {position.line}:{position.character} is below 0")
        if position.line >= len(self.starts):
            return len(self.text)
        return self.starts[position.line] + self._characters(self.line(position.line), position.character)

    def position(self, offset: int) -> Position:
        line = self.line_of(offset)
        return Position(line, self._units(self.text[self.starts[line] : offset]))

    def _characters(self, text: str, units: int) -> int:
        if text.isascii() or self.encoding == "utf-32":
            return min(units, len(text))
        size = ENCODINGS[self.encoding]
        return len(text.encode(self._codec)[: units * size].decode(self._codec, "ignore"))

    def _units(self, text: str) -> int:
        return len(text) if text.isascii() else len(text.encode(self._codec)) // ENCODINGS[self.encoding]

    @property
    def _codec(self) -> str:
        return "utf-8" if self.encoding == "utf-8" else f"{self.encoding}-le"

    def apply(self, change: Change) -> tuple[Document, Lines]:
        """Change the text; -> how it was, and which of its lines became how many. ValueError for an end before its start."""
        old = copy.copy(self)
        start = 0 if change.start is None else self.offset(change.start)
        end = len(self.text) if change.end is None else self.offset(change.end)
        if end < start:
            raise ValueError(f"the change ends at {change.end}, before its start {change.start}")
        before, after = self.line_of(start), self.line_of(end)
        self._set(self.text[:start] + change.text + self.text[end:])
        return old, Lines(before, after + 1, len(self.starts) - len(old.starts) + after + 1 - before)

    @property
    def ending(self) -> str:
        """The line end that most lines have."""
        found = _BREAK.findall(self.text)
        return max(("\n", "\r\n", "\r"), key=found.count)


def whole(text: str) -> str:
    """The text with halves of characters, which JSON can hold, joined or replaced by U+FFFD."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def plain(text: str) -> str:
    """Line ends as models write them."""
    return _BREAK.sub("\n", text)


class Place(NamedTuple):
    """The text on both sides of a cursor, as much of it as is read, with line feeds as line ends."""

    left: str
    right: str


def around(text: str, offset: int, before: int = BEFORE, after: int = AFTER) -> Place:
    """The place at an offset; what is cut off of a long text is cut at the ends of lines, if one is near.

    The left side begins where it did for an offset a little before, so that what was read of it can be kept.
    """
    stride = max(1, before // 4)
    first = 0 if offset <= before else ((offset - before) // stride + 1) * stride
    last = min(len(text), offset + after)
    if first:
        line = text.find("\n", first, min(offset, first + stride))
        first = line + 1 if line >= 0 else first
    if last < len(text):
        line = text.rfind("\n", offset, last)
        last = line + 1 if line >= offset + after // 2 else last
    return Place(plain(text[first:offset]), plain(text[offset:last]))


@dataclass
class Recent:
    """A change: lines `start : start + count` of the text as it is were `before`."""

    start: int
    count: int
    before: str


@dataclass
class History:
    """The latest changes of a document, oldest first. Changes that touch are one, so a word that is typed is one change."""

    most: int = 8
    recent: list[Recent] = field(default_factory=list)

    def add(self, old: Document, lines: Lines) -> None:
        """What `Document.apply` gave."""
        touched = [r for r in self.recent if r.start <= lines.end - 1 and lines.start <= r.start + max(r.count, 1) - 1]
        first = min([lines.start, *(r.start for r in touched)])
        last = max([lines.end, *(r.start + r.count for r in touched)])
        before, at = "", first
        for r in sorted(touched, key=lambda r: r.start):
            before += old.lines(at, r.start) + r.before
            at = r.start + r.count
        before += old.lines(at, last)
        grown = lines.now - (lines.end - lines.start)
        rest = [r for r in self.recent if r not in touched]
        for r in rest:
            if r.start >= lines.end:
                r.start += grown
        self.recent = [*rest, Recent(first, last - first + grown, before)][-self.most :]

    def hunks(self, document: Document) -> list[tuple[Recent, str]]:
        """Every change that is one, with what stands there now."""
        found = ((r, document.lines(r.start, r.start + r.count)) for r in self.recent)
        return [(r, after) for r, after in found if after != r.before]
