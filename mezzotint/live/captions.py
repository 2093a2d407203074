"""Captions: what of a translation that is still being revised is settled, and how much of the rest may be shown.

    draft 1   The cat
    draft 2   The cat sat on       agreement of two: "The cat" is committed, since both drafts begin with it
    draft 3   The cat is black     "is black" is shown as a draft; " sat on" was taken back: 7 characters erased
              committed| draft

* Committed text never changes: later drafts are decoded behind it.
* A limit on flicker holds whatever comes: what is shown as a draft is cut so that all of it could be taken back at the next
  update within the limit. So nothing that is settled ever waits for the limit, and it cannot be passed at the end either.
* Words are the unit: a space, punctuation or a character of a script without spaces begins one. Half a character never does.

Nothing here knows a model. The rules are local agreement (Liu et al., arXiv 2005.11185), stability and probability.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

KEPT = 64  # drafts that a rule can look back at
MOST = 16  # of them that a rule may ask for
_INSIDE = frozenset(b"'-_")  # punctuation inside a word


@dataclass(frozen=True)
class Word:
    """text: with the space before it. p: the least probability among its tokens."""

    text: str
    ids: tuple[int, ...] = ()
    p: float = 1.0


@dataclass(frozen=True)
class Draft:
    """A whole translation of `source`, committed words first. checked: how many of its words were decoded for this source;
    the others stand as they were before. times: updates that said exactly this, one after the other."""

    words: tuple[Word, ...]
    source: str
    checked: int
    times: int = 1


def words_of(ids: Iterable[int], chances: Iterable[float], spell: Callable[[int], bytes], first: bool) -> list[Word]:
    """Ids and their probabilities as words. first: white space at the beginning is left out of the first word's text."""
    groups: list[tuple[list[int], bytes, float]] = []
    for token, p in zip(ids, chances, strict=True):
        raw = spell(token)
        if groups and not (_begins(raw) and groups[-1][1].strip() and _whole(groups[-1][1])):
            known, before, least = groups[-1]
            groups[-1] = ([*known, token], before + raw, min(least, p))
        else:
            groups.append(([token], raw, p))
    texts = [raw.decode("utf-8", "replace") for _, raw, _ in groups]
    if first and texts:
        texts[0] = texts[0].lstrip()
    return [Word(text, tuple(known), p) for text, (known, _, p) in zip(texts, groups, strict=True)]


def _begins(raw: bytes) -> bool:
    """Does a word begin with these bytes? From 0xe0 on: scripts written without spaces, and others that lose nothing."""
    return bool(raw) and (raw[0] >= 0xE0 or (raw[0] < 0x80 and not raw[:1].isalnum() and raw[0] not in _INSIDE))


def _whole(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


# -- when a word is committed ---------------------------------------------------------------------------------------

Rule = Callable[[Sequence[Draft], int], int]  # drafts, the newest last; committed words -> words that may be committed


def agreement(n: int = 2) -> Rule:
    """What the drafts of the last `n` different sources all begin with (LA-n). A source that is sent again proves nothing."""

    def count(drafts: Sequence[Draft], done: int) -> int:
        differing = [drafts[-1]]
        for draft in reversed(drafts):
            if draft.source != differing[-1].source:
                differing.append(draft)
        return _common(differing[:n], done) if len(differing) >= n else done

    return count


def stability(n: int = 2) -> Rule:
    """What has not changed for `n` updates, whatever was sent: a speaker's pause settles words too."""

    def count(drafts: Sequence[Draft], done: int) -> int:
        seen, looked = list[Draft](), 0
        for draft in reversed(drafts):
            seen.append(draft)
            looked += draft.times
            if looked > n:
                return _common(seen, done)
        return done

    return count


def probability(threshold: float = 0.9) -> Rule:
    """Words of the newest draft from the left, as long as no token of them is less likely than the threshold."""

    def count(drafts: Sequence[Draft], done: int) -> int:
        words = drafts[-1].words[: drafts[-1].checked]
        return next((i for i in range(done, len(words)) if words[i].p < threshold), max(done, len(words)))

    return count


RULES: dict[str, Callable[[Any], Rule]] = {"agreement": agreement, "stability": stability, "probability": probability}


def _common(drafts: Sequence[Draft], done: int) -> int:
    """Words from the left that all drafts have, each of them checked; committed ones need no agreement."""
    least = min(draft.checked for draft in drafts)
    same = (len({draft.words[i].text for draft in drafts}) == 1 for i in range(done, least))
    return next((done + n for n, equal in enumerate(same) if not equal), max(done, least))


# -- what is shown --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limit:
    """How much shown text may be taken back. erasure: characters of all updates together, as a share of the final text's;
    replaced: characters an update. None: as much as there is. Raises ValueError for less than 0."""

    erasure: float | None = None
    replaced: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("max_erasure", self.erasure), ("max_replaced", self.replaced)):
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}; it must be at least 0, or left out for no limit")

    def allows(self, erased: int, draft: int, committed: int) -> bool:
        """Can `draft` characters be shown, once `erased` have been taken back and `committed` are settled?

        The final text is at least as long as what is committed now, so a share of that is a share of it.
        """
        return (self.replaced is None or draft <= self.replaced) and (
            self.erasure is None or erased + draft <= self.erasure * committed + 1e-9
        )


@dataclass(frozen=True)
class Shown:
    """What a reader sees after an update. confidence: p of each word of the draft; erased: characters taken back by it."""

    committed: str
    draft: str
    confidence: tuple[float, ...]
    erased: int


@dataclass
class Captions:
    """A translation's committed words, its latest drafts, and what is shown. erased: characters taken back so far.

    hold: words at a draft's end that are neither shown nor committed before the end.
    """

    rule: Rule
    limit: Limit = Limit()
    hold: int = 0
    committed: list[Word] = field(default_factory=list)
    drafts: deque[Draft] = field(default_factory=lambda: deque(maxlen=KEPT))
    shown: Shown = Shown("", "", (), 0)
    erased: int = 0

    @property
    def ids(self) -> list[int]:
        """Of the committed words."""
        return [token for word in self.committed for token in word.ids]

    @property
    def rest(self) -> list[int]:
        """Ids of the newest draft behind the committed words, whether shown or not."""
        words = self.drafts[-1].words[len(self.committed) :] if self.drafts else ()
        return [token for word in words for token in word.ids]

    def take(self, draft: Draft, final: bool = False) -> Shown:
        """Settle what the rule allows of a draft, all of it at the end, and show what the limit allows of the rest."""
        done = len(self.committed)
        assert [w.text for w in draft.words[:done]] == [w.text for w in self.committed], (
            "a draft left what is committed"
        )
        last = self.drafts[-1] if self.drafts else None
        if last is not None and (last.words, last.source, last.checked) == (draft.words, draft.source, draft.checked):
            self.drafts[-1] = Draft(draft.words, draft.source, draft.checked, last.times + 1)
        else:
            self.drafts.append(draft)
        there = len(draft.words) if final else max(done, len(draft.words) - self.hold)
        count = there if final else max(done, min(self.rule(list(self.drafts), done), there))
        self.committed = list(draft.words[:count])
        new = "".join(word.text for word in draft.words[done:count])
        text, before = self.shown.committed + new, self.shown.draft
        for end in range(there, count - 1, -1):
            open_words = draft.words[count:end]
            after = "".join(word.text for word in open_words)
            erased = len(before) - _same(before, new + after)
            if end == count or self.limit.allows(self.erased + erased, len(after), len(text)):
                break
        self.erased += erased
        self.shown = Shown(text, after, tuple(round(word.p, 4) for word in open_words), erased)
        return self.shown


def _same(a: str, b: str) -> int:
    """Characters that both begin with."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
