"""Source: a text as ids cut at the borders of its locks, and the way from changed ids back to changed characters.

    She | dont | like        tokens, and the byte at which each begins
          do n't             ids that take the place of token 1
    4:8  dont -> don't       a hunk: whole characters, everything around them copied from the source

* What the tokenizer has no token for is locked: it could not be written again.
* The space before a locked word is locked with it: vocabularies join them, and a lone space would ask for another word.
* A token may hold half a character, so a change reaches out to whole ones. One that is not UTF-8 is dropped.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.edit.hunks import Hunk
from mezzotint.edit.locks import Locks, Span


class Change(NamedTuple):
    """Tokens `start:end` of a source became `ids`. confidence: how sure the network was of them, 0 to 1."""

    start: int
    end: int
    ids: Sequence[int]
    confidence: float


@dataclass(frozen=True)
class Source:
    """starts: the byte at which each token begins, and last the text's length in bytes; where a locked piece holds what no
    token spells, all of its tokens begin with it. locked, closed: of each token, whether it stays, and whether nothing may
    be inserted before it (closed has one more, for the end).
    """

    text: str
    data: bytes
    locks: Locks
    ids: list[int]
    starts: list[int]
    locked: list[bool]
    closed: list[bool]

    @classmethod
    def of(cls, text: str, locks: Locks, tokenizer: Tokenizer) -> Source:
        """Raises ValueError for text with lone surrogates."""
        locks = _with_spaces(text, _with_unspelled(text, locks, tokenizer))
        free, cuts = set(locks.free(len(text))), {0, len(text), *locks.seals}
        cuts |= {border for span in locks.spans for border in span}
        ids: list[int] = []
        starts: list[int] = []
        locked: list[bool] = []
        closed: list[bool] = []
        at = 0
        for start, end in itertools.pairwise(sorted(cuts)):
            piece, stays = text[start:end], (start, end) not in free
            tokens = tokenizer.encode(piece)
            inside = not locks.allow(start, start)  # a lock that a seal cuts goes on
            starts += _starts(tokens, tokenizer, at, at + len(piece.encode()))
            closed += [inside if n == 0 else stays for n in range(len(tokens))]
            locked += [stays] * len(tokens)
            ids += tokens
            at += len(piece.encode())
        return cls(
            text, text.encode(), locks, ids, [*starts, at], locked, [*closed, not locks.allow(len(text), len(text))]
        )

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def num_free(self) -> int:
        """Tokens that may change."""
        return self.locked.count(False)

    def hunks(self, changes: Iterable[Change], tokenizer: Tokenizer) -> list[Hunk]:
        """Changes (sorted, apart) as hunks of characters; those that are not UTF-8 or that a lock forbids are left out."""
        found: list[Hunk] = []
        at = place = 0  # the same place in bytes and characters
        for start, end, new, confidence in self._whole(changes, tokenizer):
            at, place = start, place + len(self.data[at:start].decode())
            before = self.data[start:end].decode()
            try:
                after = new.decode()
            except UnicodeDecodeError:
                continue
            if before != after and self.locks.allow(place, place + len(before)):
                found.append(Hunk(place, place + len(before), before, after, confidence))
        return found

    def _whole(self, changes: Iterable[Change], tokenizer: Tokenizer) -> Iterable[tuple[int, int, bytes, float]]:
        """Changes in bytes, reaching out to the borders of characters; those that meet there are one."""
        last: tuple[int, int, bytes, float] | None = None
        for change in changes:
            start, end = self.starts[change.start], self.starts[change.end]
            new = tokenizer.decode_bytes(change.ids)
            if last is not None and not any(map(self._is_border, range(last[1], start + 1))):
                new = last[2] + self.data[last[1] : start] + new
                last = last[0], end, new, min(last[3], change.confidence)
                continue
            if last is not None:
                yield self._stretched(last)
            last = start, end, new, change.confidence
        if last is not None:
            yield self._stretched(last)

    def _stretched(self, change: tuple[int, int, bytes, float]) -> tuple[int, int, bytes, float]:
        start, end, new, confidence = change
        first = next(i for i in range(start, -1, -1) if self._is_border(i))
        last = next(i for i in range(end, len(self.data) + 1) if self._is_border(i))
        return first, last, self.data[first:start] + new + self.data[end:last], confidence

    def _is_border(self, byte: int) -> bool:
        """Does a character begin here (the text end, too)? CR LF counts as one."""
        if not 0 < byte < len(self.data):
            return True
        return self.data[byte] & 0xC0 != 0x80 and self.data[byte - 1 : byte + 1] != b"\r\n"


def _starts(tokens: Sequence[int], tokenizer: Tokenizer, start: int, end: int) -> list[int]:
    starts = list(itertools.accumulate((len(tokenizer.token_bytes(t)) for t in tokens), initial=start))
    return starts[:-1] if starts[-1] == end else [start] * len(tokens)


def _with_spaces(text: str, locks: Locks) -> Locks:
    spans = [(a - (a > 0 and text[a - 1] == " " and text[a].isalnum()), b) for a, b in locks.spans]
    return _again(text, locks, spans)


def _again(text: str, locks: Locks, spans: Iterable[Span]) -> Locks:
    """Locks with other spans, their seals kept."""
    made = Locks.of(text, [*spans, *((place, place) for place in locks.seals)])
    return Locks(made.spans, made.seals, locks.moved)


def _with_unspelled(text: str, locks: Locks, tokenizer: Tokenizer) -> Locks:
    if not tokenizer.exact:
        raise ValueError(
            "this checkpoint's tokenizer changes texts (spaces, capitals, forms), so it cannot edit one in place"
        )
    if tokenizer.can_spell(text):
        return locks
    tokenizer.encode(text)  # says what is wrong with a lone surrogate
    more = [(i, i + 1) for i, character in enumerate(text) if not tokenizer.can_spell(character)]
    return _again(text, locks, [*locks.spans, *more])
