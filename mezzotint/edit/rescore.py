"""Editing before any weights have learnt to denoise: the causal model rescores changes of its own proposal.

    She | dont | like | apples | .      score every unit given the instruction and what stands left of it
          ^ least likely                propose there: other words, nothing, one more word
    She   doesn't  like   apples   .    keep the best if log p(whole text) rises by the margin and what the change costs

This is a noisy channel (Kernighan, Church and Gale, 1990) whose both halves are generic: the source model is the network
itself, the channel charges `channel` nats for every character changed. There are no rules and no word lists: words come
from the model's predictions and its own vocabulary. Locked text is never part of a unit that may change. The gain is the
log of the odds that the change is right, so its confidence is 1 / (1 + exp(-gain)).
"""

from __future__ import annotations

import bisect
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.edit.hunks import Edit, Hunk
from mezzotint.edit.locks import Locks
from mezzotint.edit.passages import follows, start_id
from mezzotint.engine.engine import Engine
from mezzotint.model.cache import KVCache
from mezzotint.sampler.verify import pad

_UNIT = re.compile(r"\s?[^\W_]+(?:['\u2019][^\W_]+)*|\s?[^\w\s]+|\s+|_+")
_ROWS = 16  # candidates in one forward
_TRIED = 12  # candidates of a place that are read with what stands right of them
_NEAR, _LEFT = 3, 3  # first with so many tokens of it; then so many of them with all of it
_WINDOW = 48  # tokens to the right that a candidate is scored on
_LONGEST = 800  # characters of a stretch


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance in characters."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def prefix_distance(start: str, whole: str) -> int:
    """The least distance between `start` and any beginning of `whole`: what an unfinished word has cost so far."""
    row = list(range(len(whole) + 1))
    for i, x in enumerate(start, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(whole, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return min(row)


@dataclass
class _Unit:
    text: str
    ids: list[int]
    start: int  # in the source
    end: int
    locked: bool
    score: float = 0.0


class _Words:
    """The vocabulary as texts. ids: text -> its first token."""

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        special = set(tokenizer.specials.values())
        self.ids: dict[str, int] = {}
        for token in range(size):
            if token not in special:
                try:
                    self.ids.setdefault(tokenizer.token_bytes(token).decode(), token)
                except UnicodeDecodeError:
                    continue
        self.spelling = list(self.ids)
        self.alphabet = {c: i for i, c in enumerate(sorted(set("".join(self.spelling))))}
        rows, columns, counts = [], [], []
        for i, word in enumerate(self.spelling):
            for c, n in Counter(word).items():
                rows.append(i)
                columns.append(self.alphabet[c])
                counts.append(n)
        self.letters = (np.array(rows), np.array(columns), np.array(counts))
        self.lengths = np.array([len(word) for word in self.spelling])

    def near(self, word: str, most: int) -> list[str]:
        """Vocabulary entries within `most` edits of `word`; a bag of letters rules most of them out first."""
        bag = np.zeros(len(self.alphabet) + 1)
        for c, n in Counter(word).items():
            bag[self.alphabet.get(c, -1)] += n
        rows, columns, counts = self.letters
        shared = np.bincount(rows, np.minimum(counts, bag[columns]), len(self.spelling))
        bound = np.maximum(self.lengths, len(word)) - shared
        return [
            self.spelling[i] for i in np.nonzero(bound <= most)[0] if 0 < edit_distance(self.spelling[i], word) <= most
        ]


_words = lru_cache(maxsize=4)(_Words)  # half a second for a large vocabulary


@dataclass
class _Rescorer:
    engine: Engine
    context: list[int]
    channel: float
    num_calls: int = 0

    def __post_init__(self) -> None:
        denoiser = self.engine.denoiser
        self.words = _words(self.engine.tokenizer, self.engine.checkpoint.config.vocab_size)
        self.told = denoiser.new_cache(1, len(self.context))  # read once, forked for every stretch
        denoiser.read(torch.tensor([self.context]), torch.tensor([len(self.context)]), self.told)

    def read(self, cache: KVCache, rows: Sequence[Sequence[int]]) -> Tensor:
        """Logits about the next position after each token of each row, float32 `[B, T, V]`."""
        self.num_calls += len(rows)
        return self.engine.denoiser.read(*pad(rows), cache, every=True).logits

    def scores(self, cache: KVCache, length: int, ahead: Tensor, rows: Sequence[Sequence[int]]) -> list[float]:
        """log p of each row (none empty), after the first `length` positions of `cache` (one row), `ahead` `[V]` next.

        The last token of a row is judged, not read.
        """
        out = [float(ahead[row[0]]) for row in rows]
        longer = sorted((i for i, row in enumerate(rows) if len(row) > 1), key=lambda i: len(rows[i]))
        for first in range(0, len(longer), _ROWS):
            part = longer[first : first + _ROWS]
            longest = len(rows[part[-1]]) - 1
            logits = self.read(cache.fork([0] * len(part), length, length + longest), [rows[i][:-1] for i in part])
            for i, law in zip(part, logits, strict=True):
                after = torch.tensor(rows[i][1:])
                law = law[: len(after)]
                out[i] += float((law.gather(1, after[:, None])[:, 0] - law.logsumexp(-1)).sum())
        return out

    def candidates(
        self, units: list[_Unit], at: int, cache: KVCache, length: int, ahead: Tensor, beam: int
    ) -> list[str]:
        """Texts that might stand in place of unit `at`: near in spelling, or what the model expects there."""
        old = units[at].text
        found: dict[str, float] = {}

        def offer(text: str, score: float) -> None:
            if text != old:
                found[text] = max(score, found.get(text, -1e9))

        for word in self.words.near(old, 2 if len(old) > 4 else 1):
            offer(word, float(ahead[self.words.ids[word]]) - self.channel * edit_distance(word, old))
        decode = self.engine.tokenizer.decode
        states: list[tuple[list[int], float]] = [([], 0.0)]
        for depth in range(3):
            if depth:
                fork = cache.fork([0] * len(states), length, length + depth)
                laws = self.read(fork, [ids for ids, _ in states])[:, -1].log_softmax(-1)
            else:
                laws = ahead[None]
            longer = list[tuple[float, float, str, list[int]]]()  # the best 2 * beam, worst first
            for (ids, score), law in zip(states, laws, strict=True):
                best = law.topk(min(200 if depth == 0 else 40, len(law)))
                for token, logp in zip(best.indices.tolist(), best.values.tolist(), strict=True):
                    if len(longer) == 2 * beam and score + logp <= longer[0][0]:
                        break  # a text costs nothing at best
                    text = decode([*ids, token])
                    if "\ufffd" in text or not text.strip() or len(text) > len(old) + 8:
                        continue
                    cost = self.channel * prefix_distance(text, old)
                    bisect.insort(longer, (score + logp - cost, score + logp, text, [*ids, token]))
                    del longer[: -2 * beam]
            longer.reverse()
            states = [(ids, score) for _, score, _, ids in longer[:beam]]
            for _, score, text, _ in longer:
                offer(text, score - self.channel * edit_distance(text, old))
                if depth == 0:  # as an insertion before the unit
                    offer(text + old, score - self.channel * len(text) + units[at].score)
        return ["", *sorted(found, key=lambda text: -found[text])[:_TRIED]]


def rescore(
    engine: Engine,
    text: str,
    instruction: str = "fix the grammar",
    *,
    margin: float = 3.0,
    channel: float = 1.5,
    locks: Locks | None = None,
    beam: int = 8,
    places: int = 4,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Edit:
    """Change `text` where the model finds it least likely. margin and channel in nats (see above).

    Every sentence-sized stretch (split at line ends and full stops) is scored after the instruction alone; its `places`
    least likely units are tried. report: told characters done, and how many there are. Raises ValueError when a stretch and
    the instruction exceed the model's context.
    """
    if margin < 0 or channel < 0:
        raise ValueError(f"margin {margin} and channel {channel} must be at least 0 nats")
    engine.must_read()
    locks = locks or Locks()
    rescorer = _Rescorer(engine, _context(engine, instruction), channel)
    todo = [(start, end) for start, end in _stretches(text) if not locks.cover(start, end)]
    done, total, hunks = 0, sum(end - start for start, end in todo), list[Hunk]()
    with torch.inference_mode():
        for start, end in todo:
            report(done, total)
            hunks += _revise_stretch(rescorer, _units(engine, text, start, end, locks), margin, beam, places)
            done += end - start
    report(total, total)
    return Edit(text, sorted(hunks, key=lambda hunk: hunk.start), rescorer.num_calls, "rescore")


def _context(engine: Engine, instruction: str) -> list[int]:
    """What stands before the text: the instruction as the user's message, the text as the answer to it."""
    if not follows(engine):
        return [start_id(engine)]
    content = f"{instruction.strip().capitalize()}. Reply with the corrected text."
    return engine.tokenizer.chat([{"role": "user", "content": content}])


def _stretches(text: str) -> list[tuple[int, int]]:
    """Character spans that are scored apart: sentences and lines, their closing space with the one before."""
    ends = [m.end() for m in re.finditer(r"\n+|[.!?]+(?=\s)", text)]
    spans = list[tuple[int, int]]()
    for start, end in itertools.pairwise(sorted({0, *ends, len(text)})):
        while end - start > _LONGEST:
            cut = text.rfind(" ", start + 1, start + _LONGEST)
            cut = cut if cut > 0 else start + _LONGEST
            spans.append((start, cut))
            start = cut
        spans.append((start, end))
    return spans


def _units(engine: Engine, text: str, start: int, end: int, locks: Locks) -> list[_Unit]:
    """Words with the space before them, and what stands between; a lock's border is a unit's border."""
    units = []
    for left, right in itertools.pairwise(sorted({start, end, *locks.borders(start, end)})):
        locked = locks.cover(left, right)
        for match in _UNIT.finditer(text, left, right):
            ids = engine.tokenizer.encode(match[0])
            units.append(_Unit(match[0], ids, match.start(), match.end(), locked or not match[0].strip()))
    return units


def _revise_stretch(rescorer: _Rescorer, units: list[_Unit], margin: float, beam: int, places: int) -> list[Hunk]:
    """Apply the best change of the least likely places, again and again, until none gains enough. Changes `units`."""
    hunks: list[Hunk] = []
    known: dict[tuple[str, ...], tuple[float, str]] = {}  # what a place has, among the words around it
    while True:
        flat = [token for unit in units for token in unit.ids]
        if not flat or all(unit.locked for unit in units):
            return hunks
        room = rescorer.engine.checkpoint.config.max_length - len(rescorer.context) - _WINDOW
        if len(flat) > room:
            raise ValueError(f"a sentence has {len(flat)} tokens; at most {room} fit the model beside the instruction")
        cache = rescorer.told.fork([0], capacity=len(rescorer.context) + len(flat))
        assert cache.ahead is not None
        laws = torch.cat((cache.ahead, rescorer.read(cache, [flat])[0])).log_softmax(
            -1
        )  # [T + 1, V], row i about token i
        token_scores = laws[:-1].gather(1, torch.tensor(flat)[:, None])[:, 0].tolist()
        offset, starts = 0, []
        for unit in units:
            starts.append(offset)
            unit.score = sum(token_scores[offset : offset + len(unit.ids)])
            offset += len(unit.ids)
        order = sorted((i for i, unit in enumerate(units) if not unit.locked), key=lambda i: units[i].score)
        best: tuple[float, int, str] | None = None
        for at in order[:places]:
            key = (str(units[at].start), *(unit.text for unit in units[max(0, at - 8) : at + 8]))
            if key not in known:
                known[key] = _best_candidate(rescorer, units, at, starts, flat, token_scores, laws, cache, beam)
            gain, new = known[key]
            if gain > margin and (best is None or gain > best[0]):
                best = (gain, at, new)
        if best is None:
            return hunks
        gain, at, new = best
        unit = units[at]
        sure = 1 / (1 + math.exp(-min(gain, 700)))
        hunks.append(Hunk(unit.start, unit.end, unit.text, new, sure, round(gain, 2)))
        units[at] = _Unit(new, rescorer.engine.tokenizer.encode(new), unit.start, unit.end, True)


def _best_candidate(
    rescorer: _Rescorer, units: list[_Unit], at: int, starts: list[int], flat: list[int], token_scores: list[float],
    laws: Tensor, cache: KVCache, beam: int,
) -> tuple[float, str]:  # fmt: skip
    """The candidate with the largest gain in nats over what stands there, its channel cost taken off.

    All are read with the few tokens right of them, and the best of these with all that the window holds.
    """
    unit, start = units[at], starts[at]
    length, end = len(rescorer.context) + start, start + len(unit.ids)

    def gains(texts: Sequence[str], window: int) -> dict[str, float]:
        after = flat[end : end + window]
        rows = {text: row for text in texts if (row := rescorer.engine.tokenizer.encode(text) + after)}
        scores = rescorer.scores(cache, length, laws[start], list(rows.values()))
        now = sum(token_scores[start : end + len(after)])
        return {
            text: score - now - rescorer.channel * edit_distance(text, unit.text)
            for text, score in zip(rows, scores, strict=True)
        }

    found = gains(rescorer.candidates(units, at, cache, length, laws[start], beam), _NEAR)
    if len(flat) > end + _NEAR:
        found = gains(sorted(found, key=lambda text: -found[text])[:_LEFT], _WINDOW)
    new = max(found, key=lambda text: found[text], default="")
    return found.get(new, -math.inf), new
