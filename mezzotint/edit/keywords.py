"""Phrases worked into sentences: infilling under lexical constraints, judged by the causal law.

    A tiny debugging utility | for Node.      every place between two words of every sentence may take the phrase
    ░ log ░                                   a hole: the phrase's tokens are given, up to two before it and one after it are
                                              the model's
    A tiny debugging utility and log for Node.

1  one pass over every sentence: p(the phrase's first token) at every place
2  where it costs least: what the model would write before it, then the phrase, then what it would write after it
3  the best holes with all of the sentence behind them: its perplexity, beside what the sentence had before

The hole that leaves the sentence least perplexing is taken. Where none keeps within `likely` times what it had, more sentences
and holes are read, twice; where none of those does, the phrase is left out and a note says so. "Lexically constrained" is meant
as by Hokamp and Liu (arXiv 1704.07138).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import regex
import torch
from torch import Tensor

from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.edit.ask import Report, silent
from mezzotint.edit.checks import OTHERS, SENTENCE
from mezzotint.edit.hunks import Edit, Hunk
from mezzotint.edit.locks import Locks
from mezzotint.edit.passages import start_id
from mezzotint.engine.engine import Engine
from mezzotint.model.cache import KVCache
from mezzotint.sampler.verify import pad

BEFORE, BRANCH = 2, 4  # tokens of the model before a phrase, and how many there are to choose from
_KEPT = 8  # sentences whose laws are held


class Width(NamedTuple):
    """How many are looked at further: sentences; of each, places, holes that are begun, and holes that are read to their end."""

    sentences: int
    places: int
    holes: int
    whole: int


WIDTHS = Width(2, 3, 6, 4), Width(8, 8, 24, 16), Width(24, 24, 96, 64)  # the next where nothing in one will do
_LEFT = regex.compile(r"[\w)\]`\"'\u2019,;%]$")  # what may stand left of a phrase
_RIGHT = regex.compile(r" |[.,;:!?)]+(?:\s|$)|$")  # and right of it
_FILLER = regex.compile(r" ?[\p{L}\p{M}'\u2019-]+|[,;]| [(&\u2013\u2014-]")
_CLOSER = regex.compile(r" \p{L}[\p{L}\p{M}'\u2019-]*|[,;]| [&\u2013\u2014-]")


class Hole(NamedTuple):
    """ids before token `place` of a sentence; nats: log p of each, after what stands left of it."""

    place: int
    ids: tuple[int, ...] = ()
    nats: tuple[float, ...] = ()


@dataclass
class _Sentence:
    """ids `[n]`, nats `[n]` of each. places: the character of the document before each token, None where nothing may be
    written. mean: nats a token at first; first `[phrases, n]`: log p of each phrase's first token at each place."""

    ids: list[int]
    places: list[int | None]
    nats: list[float]
    mean: float
    first: Tensor


class _Found(NamedTuple):
    ratio: float  # of perplexities, after to before
    sentence: int
    hole: Hole


def insert(
    engine: Engine, text: str, phrases: Sequence[str], *, likely: float = 1.5, locks: Locks | None = None,
    report: Report = silent,
) -> Edit:  # fmt: skip
    """Work each of `phrases` that the text lacks into one of its sentences.

    likely: how many times the perplexity it had a sentence may reach. Raises ValueError for less than 1.
    """
    if not likely >= 1:
        raise ValueError(f"likely is {likely}; it must be at least 1: the perplexity that a sentence has")
    engine.must_read()
    wanted = [phrase for phrase in phrases if not _holds(text, phrase)]
    hunks, notes = list[Hunk](), list[str]()
    with torch.inference_mode():
        inserter = _Inserter(engine, text, wanted, locks or Locks(), math.log(likely), report)
        for number, phrase in enumerate(wanted):
            report("placing keywords", number, len(wanted))
            found = inserter.best(number, likely)
            if found is None or found.ratio > likely:
                least = "no sentence may take it" if found is None else f"{found.ratio:.1f} times as perplexing at best"
                notes.append(f"{phrase!r} was left out: {least} ({likely:g} times may be)")
            else:
                hunks.append(inserter.put(found))
        report("placing keywords", len(wanted), len(wanted))
    return Edit(text, sorted(hunks, key=lambda hunk: hunk.start), inserter.num_calls, "insert", tuple(notes))


def _holds(text: str, phrase: str) -> bool:
    return regex.search(rf"(?<!\w){regex.escape(phrase)}(?!\w)", text, regex.IGNORECASE) is not None


class _Inserter:
    def __init__(
        self, engine: Engine, text: str, phrases: Sequence[str], locks: Locks, extra: float, report: Report
    ) -> None:
        """Reads every sentence. extra: nats a token that a sentence may cost more than it did."""
        self.engine, self.extra, self.num_calls = engine, extra, 0
        self.fillers, self.closers = _writable(engine.tokenizer, engine.checkpoint.config.vocab_size)
        self.phrases = [tuple(engine.tokenizer.encode(f" {phrase}")) for phrase in phrases]
        self.start = engine.denoiser.new_cache(1, 1)
        engine.denoiser.read(torch.tensor([[start_id(engine)]]), torch.tensor([1]), self.start)
        self.kept: OrderedDict[int, tuple[Tensor, KVCache]] = OrderedDict()
        self.sentences: list[_Sentence] = []
        for match in SENTENCE.finditer(text) if phrases else ():
            report("reading", match.start(), len(text))
            ids, places = self._places(text, match, locks)
            if any(place is not None for place in places):
                self.sentences.append(_Sentence(ids, places, [], math.nan, torch.empty(0)))
                self._read(len(self.sentences) - 1)

    def _places(self, text: str, match: regex.Match[str], locks: Locks) -> tuple[list[int], list[int | None]]:
        """A sentence's ids, and of each the character before which a phrase may stand. None at all in what is no sentence."""
        whole = match[0].strip()
        ids = self.engine.tokenizer.encode(whole)
        most = self.engine.checkpoint.config.max_length - 64
        if len(regex.findall(r"\w+", whole)) < OTHERS or len(ids) > most:
            return ids, []
        at, data, byte = match.start() + match[0].index(whole), whole.encode(), 0
        places = list[int | None]()
        for token in ids:
            left = data[:byte].decode("utf-8", "ignore")
            fits = len(left.encode()) == byte and _LEFT.search(left) and _RIGHT.match(whole, len(left))
            places.append(at + len(left) if fits and locks.allow(at + len(left), at + len(left)) else None)
            byte += len(self.engine.tokenizer.token_bytes(token))
        return ids, places

    # -- what the network says ---------------------------------------------------------------------------------------

    def _read(self, number: int) -> tuple[Tensor, KVCache]:
        """log p about each token `[n, V]`, and the cache that holds the sentence. Fills in what a sentence lacks."""
        if number in self.kept:
            self.kept.move_to_end(number)
            return self.kept[number]
        sentence = self.sentences[number]
        cache = self.start.fork([0], capacity=1 + len(sentence.ids))
        first, said = cache.ahead, self._ask(cache, [sentence.ids])
        assert first is not None
        laws = torch.cat((first, said[0, :-1])).log_softmax(-1)
        sentence.nats = laws.gather(1, torch.tensor(sentence.ids)[:, None])[:, 0].tolist()
        if math.isnan(sentence.mean):
            sentence.mean = -sum(sentence.nats) / len(sentence.nats)
        sentence.first = laws[:, [phrase[0] for phrase in self.phrases]].T.clone()
        self.kept[number] = laws, cache
        if len(self.kept) > _KEPT:
            self.kept.popitem(last=False)
        return laws, cache

    def _ask(self, cache: KVCache, rows: Sequence[Sequence[int]]) -> Tensor:
        """Logits about what follows each token of each row, `[B, T, V]`."""
        self.num_calls += len(rows)
        return self.engine.denoiser.read(*pad(rows), cache, every=True).logits

    def _after(self, number: int, holes: Sequence[Hole], more: Sequence[Sequence[int]]) -> list[Tensor]:
        """Of each hole, log p about what follows each of its ids and of `more` behind them, `[T, V]`."""
        _, cache = self._read(number)
        rows = [[*hole.ids, *after] for hole, after in zip(holes, more, strict=True)]
        longest = max(map(len, rows))
        fork = cache.fork([0] * len(rows), capacity=cache.capacity + longest)
        fork.truncate([1 + hole.place for hole in holes])
        said = self._ask(fork, rows)
        return [law[: len(row)].log_softmax(-1) for law, row in zip(said, rows, strict=True)]

    # -- the search --------------------------------------------------------------------------------------------------

    def best(self, phrase: int, likely: float) -> _Found | None:
        """The hole for a phrase that leaves its sentence least perplexing; None where no sentence has a place.

        Looks further where what is quickly found makes the sentence more than `likely` times as perplexing.
        """
        found = None
        for width in WIDTHS:
            found = self._best(phrase, width)
            if found is None or found.ratio <= likely:
                break
        return found

    def _best(self, phrase: int, width: Width) -> _Found | None:
        def promise(number: int) -> float:
            sentence = self.sentences[number]
            open_places = [i for i, place in enumerate(sentence.places) if place is not None]
            room = (len(sentence.ids) + len(self.phrases[phrase])) * self.extra
            return room + max((float(sentence.first[phrase, i]) for i in open_places), default=-math.inf)

        order = sorted(range(len(self.sentences)), key=promise, reverse=True)[: width.sentences]
        found = [one for number in order if (one := self._best_in(number, phrase, width)) is not None]
        return min(found, default=None)

    def _best_in(self, number: int, phrase: int, width: Width) -> _Found | None:
        sentence, given = self.sentences[number], self.phrases[phrase]
        laws, _ = self._read(number)
        token = sentence.mean + self.extra  # nats that one more token may cost

        def worth(hole: Hole) -> float:
            return sum(hole.nats) + len(hole.ids) * token

        openings = [Hole(i) for i, place in enumerate(sentence.places) if place is not None]
        if not openings:
            return None
        openings = sorted(openings, key=lambda hole: float(laws[hole.place, given[0]]), reverse=True)
        openings = openings[: width.places]
        begun = list[tuple[float, Hole]]()  # and what the phrase's first token costs behind it
        laws_now = [laws[hole.place] for hole in openings]
        for length in range(BEFORE + 1):
            begun += [(worth(h) + float(law[given[0]]), h) for h, law in zip(openings, laws_now, strict=True)]
            if length < BEFORE:
                openings = _longer(openings, laws_now, self.fillers)
                openings = sorted(openings, key=worth, reverse=True)[: width.places * BRANCH]
                laws_now = [law[-1] for law in self._after(number, openings, [()] * len(openings))]
        holes = [hole for _, hole in sorted(begun, key=lambda one: one[0], reverse=True)[: width.holes]]
        ended = list[tuple[float, Hole]]()  # with the phrase, and with a token of the model's behind it
        for hole, law in zip(holes, self._after(number, holes, [given] * len(holes)), strict=True):
            before = laws[hole.place] if not hole.ids else law[len(hole.ids) - 1]
            nats = [float(before[given[0]]), *(float(law[len(hole.ids) + i, t]) for i, t in enumerate(given[1:]))]
            whole = Hole(hole.place, (*hole.ids, *given), (*hole.nats, *nats))
            following = sentence.ids[hole.place]
            ended.append((worth(whole) + float(law[-1, following]), whole))
            for longer in _longer([whole], [law[-1]], self.closers):
                ended.append((worth(longer) + sentence.nats[hole.place], longer))
        holes = [hole for _, hole in sorted(ended, key=lambda one: one[0], reverse=True)[: width.whole]]
        rest = [sentence.ids[hole.place :] for hole in holes]
        found = []
        for hole, after, law in zip(holes, rest, self._after(number, holes, [r[:-1] for r in rest]), strict=True):
            tail = law[len(hole.ids) - 1 :].gather(1, torch.tensor(after)[:, None])
            nats_now = sum(sentence.nats[: hole.place]) + sum(hole.nats) + float(tail.sum())
            mean = -nats_now / (len(sentence.ids) + len(hole.ids))
            found.append(_Found(math.exp(mean - sentence.mean), number, hole))
        return min(found)

    def put(self, found: _Found) -> Hunk:
        """Write a hole's ids into its sentence: nothing else is written at that place again."""
        sentence, hole = self.sentences[found.sentence], found.hole
        place = sentence.places[hole.place]
        assert place is not None
        sentence.ids[hole.place : hole.place] = hole.ids
        sentence.places[hole.place : hole.place + 1] = [None] * (len(hole.ids) + 1)
        self.kept.pop(found.sentence, None)
        self._read(found.sentence)
        sure = math.exp(sum(hole.nats) / len(hole.nats))
        return Hunk(place, place, "", self.engine.tokenizer.decode(list(hole.ids)), min(sure, 1.0))


def _longer(holes: Sequence[Hole], laws: Sequence[Tensor], allowed: Tensor) -> list[Hole]:
    """Every hole with one more token, each of the likeliest that are allowed (bool `[V]`)."""
    found = []
    for hole, law in zip(holes, laws, strict=True):
        best = law.masked_fill(~allowed, -torch.inf).topk(BRANCH)
        for token, nats in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            if nats > -math.inf:
                found.append(Hole(hole.place, (*hole.ids, token), (*hole.nats, nats)))
    return found


@lru_cache(maxsize=4)
def _writable(tokenizer: Tokenizer, size: int) -> tuple[Tensor, Tensor]:
    """Tokens that may stand before a phrase, and behind it, bool `[V]` each: words and commas within a sentence.

    Before it they begin a word or are a mark; behind it, too, since a letter there would make the phrase another word.
    """
    before, behind = torch.zeros(size, dtype=torch.bool), torch.zeros(size, dtype=torch.bool)
    special = set(tokenizer.specials.values())
    for token in range(min(size, tokenizer.vocab_size)):
        try:
            text = tokenizer.token_bytes(token).decode()
        except UnicodeDecodeError:
            continue
        if token not in special and _FILLER.fullmatch(text):
            before[token] = True
            behind[token] = _CLOSER.fullmatch(text) is not None
    return before, behind
