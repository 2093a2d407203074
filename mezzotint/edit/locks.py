"""Locks: what of a text must not change.

    The price is £5.          characters 13:15 are locked
    The price is | £5 | .     `Source` tokenises three pieces: no token reaches across a lock's border
    A fair price: £5.         the locked piece is copied from the source, never decoded from ids

* A lock is a span of characters. Locks may overlap; an empty one holds a place: nothing is inserted there.
* A border inside a grapheme (a letter and its marks, an emoji of several parts, CR LF) moves outward; `moved` says which.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import regex

Span = tuple[int, int]
PATIENCE = 10.0  # seconds that one pattern may search for


@dataclass(frozen=True)
class Locks:
    """spans: sorted, apart, none empty; seals: places at which nothing is inserted; moved: (as given, as locked).

    Characters of one text throughout. Make them with `Locks.of`.
    """

    spans: tuple[Span, ...] = ()
    seals: frozenset[int] = frozenset()
    moved: tuple[tuple[Span, Span], ...] = ()

    @classmethod
    def of(cls, text: str, spans: Iterable[Span]) -> Locks:
        """Raises ValueError for a span outside the text."""
        graphemes, moved, seals = _Graphemes(text), [], set()
        found: list[Span] = []
        for start, end in sorted(set(spans)):
            if not 0 <= start <= end <= len(text):
                raise ValueError(f"lock {start}:{end} is outside the text's 0:{len(text)}")
            span = graphemes.before(start), graphemes.after(end)
            if span != (start, end):
                moved.append(((start, end), span))
            if span[0] == span[1]:
                seals.add(start)
            elif found and span[0] < found[-1][1]:
                found[-1] = found[-1][0], max(found[-1][1], span[1])
            else:
                found.append(span)
        return cls(tuple(found), frozenset(seals), tuple(moved))

    def allow(self, start: int, end: int) -> bool:
        """May `start:end` be replaced (an empty span: may text be inserted there)?"""
        at = bisect.bisect_left(self.spans, (end, -1))  # the locks before it begin left of `end`
        if at and self.spans[at - 1][1] > start:
            return False
        if start == end:
            return start not in self.seals
        place = bisect.bisect_right(self._places, start)
        return place == len(self._places) or self._places[place] >= end

    def cover(self, start: int, end: int) -> bool:
        """Is every character of `start:end` locked?"""
        for first, last in self._near(start, end):
            if first > start:
                break
            start = max(start, last)
        return start >= end

    def borders(self, start: int, end: int) -> list[int]:
        """Where locks begin or end, and seals, from `start` to `end`."""
        found = [border for span in self._near(start, end) for border in span if start <= border <= end]
        return sorted({*found, *self._between(start, end)})

    def free(self, length: int) -> Iterator[Span]:
        """What is not locked of a text of `length` characters; its pieces end at seals too."""
        at = 0
        for start, end in (*self.spans, (length, length)):
            cuts = [p for p in self._between(at, start) if at < p < start]
            yield from ((a, b) for a, b in itertools.pairwise([at, *cuts, start]) if a < b)
            at = end

    def _near(self, start: int, end: int) -> Iterator[Span]:
        """Locks that touch `start:end`, in order."""
        first = max(0, bisect.bisect_left(self.spans, (start, start)) - 1)
        return itertools.takewhile(lambda span: span[0] <= end, itertools.islice(self.spans, first, None))

    @cached_property
    def _places(self) -> list[int]:
        return sorted(self.seals)

    def _between(self, start: int, end: int) -> list[int]:
        return self._places[bisect.bisect_left(self._places, start) : bisect.bisect_right(self._places, end)]


class _Graphemes:
    """Borders of graphemes, found line by line: none but CR LF, at its end, crosses a line feed."""

    def __init__(self, text: str) -> None:
        self.text, self.line, self.borders = text, (0, 0), [0]

    def before(self, place: int) -> int:
        """The last border up to `place`."""
        borders = self._around(place)
        return borders[bisect.bisect_right(borders, place) - 1]

    def after(self, place: int) -> int:
        """The first border from `place` on."""
        borders = self._around(place)
        return borders[bisect.bisect_left(borders, place)]

    def _around(self, place: int) -> list[int]:
        if not self.line[0] <= place < self.line[1]:
            start = self.text.rfind("\n", 0, place) + 1
            end = self.text.find("\n", place) + 1 or len(self.text)
            ends = itertools.accumulate(map(len, regex.findall(r"\X", self.text[start:end])), initial=start)
            self.line, self.borders = (start, end), list(ends)
        return self.borders


# -- how locks are asked for ----------------------------------------------------------------------------------------


def find_locks(text: str, wanted: Sequence[str]) -> list[Span]:
    """Spans of locks written as START:END, or as a regular expression (every match, and every literal occurrence).

    `^` and `$` match at lines. Raises ValueError for a span outside the text, a pattern that is none, that occurs nowhere,
    or that is searched for longer than `PATIENCE`.
    """
    spans: list[Span] = []
    for lock in wanted:
        if match := regex.fullmatch(r"(\d+):(\d+)", lock):
            start, end = int(match[1]), int(match[2])
            if not start <= end <= len(text):
                raise ValueError(f"lock {lock!r} is outside the text's 0:{len(text)}")
            spans.append((start, end))
        elif lock:
            found = [*_matches(text, regex.escape(lock), lock), *_matches(text, lock, lock)]
            if not found:
                raise ValueError(f"lock {lock!r} does not occur in the text")
            spans += found
    return spans


def _matches(text: str, pattern: str, lock: str) -> list[Span]:
    try:
        found = regex.finditer(pattern, text, regex.MULTILINE, timeout=PATIENCE)
        return [match.span() for match in found if match[0]]
    except regex.error as error:
        if lock in text:  # it was meant literally
            return []
        raise ValueError(f"lock {lock!r} does not occur in the text and is no regular expression: {error}") from None
    except TimeoutError:
        raise ValueError(f"lock {lock!r} was searched for {PATIENCE:.0f} s; give a simpler pattern") from None


def outside_lines(text: str, lines: str) -> list[Span]:
    """Everything but lines `A-B` (or `A`, `A-`, `-B`; the first is 1). Raises ValueError for others."""
    borders = [0, *(match.end() for match in regex.finditer(r"\n", text))]
    borders += [len(text)] if borders[-1] < len(text) or len(borders) == 1 else []
    count = len(borders) - 1
    match = regex.fullmatch(r"(\d*)(-?)(\d*)", lines)
    if not match or not (match[1] or match[3]):
        raise ValueError(f"lines {lines!r} are not written as A-B, such as 3-8, 3- or 3")
    first = int(match[1] or 1)
    last = int(match[3] or count) if match[2] else first
    if not 1 <= first <= last <= count:
        raise ValueError(f"lines {lines!r} are not among the text's 1-{count}")
    start, end = borders[first - 1], borders[last]
    end -= text[start:end].endswith("\n")  # what ends the last line stays where it is
    end -= text[start:end].endswith("\r")
    return [span for span in ((0, start), (end, len(text))) if span[0] < span[1]]


def layout(text: str) -> list[Span]:
    """Line ends, indentation and trailing space: with them locked, text changes inside its lines only."""
    return [match.span() for match in regex.finditer(r"[ \t]*(?:\r\n|\r|\n)[ \t]*|^\ufeff?[ \t]+|^\ufeff", text)]


def edges(text: str) -> list[Span]:
    """A byte order mark and white space where the text begins and ends."""
    start = regex.match(r"\ufeff?\s*", text).end()
    return [(0, start), (max(start, len(text.rstrip())), len(text))]
