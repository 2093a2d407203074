"""Memory: how many bytes of keys and values there may be, and what of texts read before is remembered.

    take      a segment, if it fits; remembered texts that nobody reads make room, the one longest unused first
    remember  ids -> the segments that hold them, found again by a hash of every 32nd beginning
    recall    the longest beginning of a text that is remembered; its segments are shared, never copied

Accounting is exact: a lane is charged what it may come to need when it begins, so a running text never runs out.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mezzotint.model.lanes import Lane, Path, Segment

CHUNK = 32  # positions: beginnings of multiples of it can be found again


@dataclass(eq=False)
class _Entry:
    """A remembered text: its path, the last segment its own, and the hashes under which its beginnings are found."""

    path: Path
    keys: list[bytes]


class Memory:
    """limit: bytes. make: a segment of that many positions, of `per_position` bytes each."""

    def __init__(self, limit: int, make: Callable[[int], Segment], per_position: int) -> None:
        self.limit, self.make, self.per_position = limit, make, per_position
        self.used = 0
        self._entries: OrderedDict[_Entry, None] = OrderedDict()  # the one longest unused first
        self._found: dict[bytes, _Entry] = {}

    # -- segments ----------------------------------------------------------------------------------------------------

    def make_room(self, positions: int) -> bool:
        """Can so many be taken now? What is remembered and not read is forgotten as far as that helps."""
        needed = positions * self.per_position
        if needed > self.limit:
            return False
        for entry in list(self._entries):
            if self.used + needed <= self.limit:
                break
            if entry.path[-1][0].users == 1:
                self._forget(entry)
        return self.used + needed <= self.limit

    def take(self, positions: int) -> Segment:
        """Call `make_room` first."""
        segment = self.make(positions)
        segment.users = 1
        self.used += segment.bytes
        assert self.used <= self.limit, f"{self.used} bytes are taken of {self.limit}"
        return segment

    def share(self, path: Path) -> None:
        """One more user of each segment."""
        for segment, _ in path:
            segment.users += 1

    def drop(self, path: Path) -> None:
        """One user fewer of each segment; the bytes of one without users are free."""
        for segment, _ in path:
            segment.users -= 1
            if segment.users == 0:
                self.used -= segment.bytes

    # -- lanes -------------------------------------------------------------------------------------------------------

    def release(self, lane: Lane) -> None:
        """Give back all that the lane holds; it is empty then. Again is no harm."""
        own = [(segment, 0) for segment in (lane.own, lane.after) if segment is not None]
        self.drop([*lane.shared, *own])
        lane.ids, lane.shared, lane.own, lane.after, lane.kept, lane.ahead = [], [], None, None, 0, None

    def grow(self, lane: Lane, positions: int) -> None:
        """A larger segment of its own, what is kept copied. Call `make_room` first."""
        larger = self.take(positions)
        if lane.own is not None:
            larger.copy(lane.own, lane.kept)
            self.drop([(lane.own, 0)])
        lane.own = larger

    def freeze(self, lane: Lane) -> None:
        """Nothing is written any more into what is kept: it can be shared."""
        if lane.own is not None and lane.kept:
            lane.shared.append((lane.own, lane.kept))
            lane.own, lane.after, lane.kept = lane.after, None, 0

    def truncate(self, lane: Lane, length: int) -> None:
        """Take the lane back to `length` if it is longer."""
        if length >= lane.length:
            return
        lane.ids, lane.ahead = lane.ids[:length], None
        before = sum(count for _, count in lane.shared)
        lane.kept = max(0, length - before)
        if length < before:
            path = shorter(lane.shared, length)
            self.drop(lane.shared[len(path) :])
            lane.shared = path

    def fork(self, lane: Lane, length: int | None = None) -> Lane:
        """Another lane of the same text, or of its first `length` positions."""
        self.freeze(lane)
        other = Lane(lane.condition)
        other.ids = lane.ids[:length]
        other.shared = shorter(lane.shared, other.length)
        self.share(other.shared)
        other.ahead = lane.ahead if other.length == lane.length else None
        return other

    # -- what was read before ----------------------------------------------------------------------------------------

    def recall(self, ids: Sequence[int], salt: str = "") -> Path:
        """Segments of the longest remembered beginning of `ids`, short of all of them, with the caller as a user."""
        best: tuple[_Entry, int] | None = None
        for length, key in _beginnings(ids[:-1], salt):
            if key in self._found:
                best = self._found[key], length
        if best is None:
            return []
        entry, length = best
        self._entries.move_to_end(entry)
        path = shorter(entry.path, length)
        self.share(path)
        return path

    def remember(self, ids: Sequence[int], path: Path, salt: str = "") -> None:
        """`path` holds the keys and values of `ids`; its last segment has not been remembered yet. salt: what else they
        depend on, the condition. Where all beginnings are known already, nothing is."""
        new = [key for _, key in _beginnings(ids, salt) if key not in self._found]
        if not new:
            return
        entry = _Entry(list(path), new)
        self.share(path)
        self._entries[entry] = None
        self._found.update((key, entry) for key in entry.keys)

    def remember_prompt(self, lane: Lane) -> None:
        """The lane has read its prompt into a segment of just that size."""
        self.freeze(lane)
        self.remember(lane.ids, lane.shared, repr(lane.condition))

    def remember_answer(self, lane: Lane) -> None:
        """The lane will not be used any more: what it kept behind its prompt is copied, where there is room."""
        if lane.kept < CHUNK or self.used + lane.kept * self.per_position > self.limit:
            return
        assert lane.own is not None
        copy = self.take(lane.kept)
        copy.copy(lane.own, lane.kept)
        self.drop([(lane.own, 0)])
        lane.own = copy
        self.freeze(lane)
        self.remember(lane.ids, lane.shared, repr(lane.condition))

    def forget(self) -> None:
        """All that nobody reads."""
        for entry in reversed(list(self._entries)):
            if entry.path[-1][0].users == 1:
                self._forget(entry)

    @property
    def num_remembered(self) -> int:
        return len(self._entries)

    def _forget(self, entry: _Entry) -> None:
        del self._entries[entry]
        for key in entry.keys:
            del self._found[key]
        self.drop(entry.path)


def shorter(path: Path, length: int) -> Path:
    """The part of a path that holds the first `length` positions."""
    found: Path = []
    for segment, count in path:
        if length > 0:
            found.append((segment, min(count, length)))
            length -= count
    return found


def _beginnings(ids: Sequence[int], salt: str) -> Iterator[tuple[int, bytes]]:
    """Lengths of the whole chunks of a text, each with the hash of all ids up to there."""
    digest = hashlib.blake2b(salt.encode(), digest_size=16)
    for end in range(CHUNK, len(ids) + 1, CHUNK):
        digest.update(array("q", ids[end - CHUNK : end]).tobytes())
        yield end, digest.digest()
