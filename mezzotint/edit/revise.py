"""Revising: the text itself is the starting canvas, and the network says what of it should change.

    The blue horses wait in seven garden.    one pass over every window: p(current token), and what wants to change
                            ^^^^^            in doubt: to be replaced, deleted, preceded by more; or, at strength s, among
                                             the ceil(s n) least likely of the n free tokens: these start as noise
    .. horses wait in ░░░░░ garden.          later passes: small canvases around those places, nothing else
    The blue horses wait in the garden.      structural steps (`sampler/structure.py`) until nothing changes

Left of a canvas the cache holds the text as edited so far; right of it up to 64 tokens are given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from mezzotint.alignment import DELETE, SLOT
from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.draws import Draws
from mezzotint.edit.ask import Ask, Report, silent
from mezzotint.edit.passages import Passage, Reader, Sizes, edited, passages
from mezzotint.edit.source import Change, Source
from mezzotint.engine.engine import Engine
from mezzotint.sampler.canvas import Canvas
from mezzotint.sampler.decoding import Decoding, above
from mezzotint.sampler.loop import Sampler
from mezzotint.sampler.structure import Restructuring

READERS = 2  # passages whose prompts stay read: a short text is scanned and revised without reading any twice
AROUND = 8  # free tokens on both sides of a place in doubt that its canvas may change too


class Spot(NamedTuple):
    """Tokens `start:end` of a source, a canvas's worth, around places in doubt."""

    start: int
    end: int


@dataclass
class Reviser:
    """A source being revised. current float64 `[n]`: p of the token that stands there, nan where none was asked for."""

    engine: Engine
    source: Source
    ask: Ask
    report: Report = silent
    changes: list[Change] = field(default_factory=list)
    num_calls: int = 0

    def __post_init__(self) -> None:
        self.sizes = Sizes.of(self.engine, self.ask.instruction)
        self.passages = list(passages(self.source, self.sizes))
        self.current = np.full(len(self.source), np.nan)
        self.wants = np.zeros(len(self.source), dtype=bool)
        self.open = np.zeros(len(self.source), dtype=bool)
        self._readers: list[Reader] = []  # of the passages used last, newest at the end
        checkpoint, facts = self.engine.checkpoint, self.engine.checkpoint.facts
        decoding = Decoding(above(0.9), temperature=self.ask.temperature)
        sampler = Sampler(self.engine.denoiser, checkpoint.process, decoding, never_written(self.engine))
        most = max(1, math.ceil(self.ask.budget * self.source.num_free))
        self.loop = Restructuring(
            sampler, facts.control_ids, max(0.5, self.ask.sure - 0.1), self.ask.sure, self.ask.max_steps, most
        )

    def run(self) -> list[Change]:
        """All of it: the changes, in order. Nothing of the locked text is in them."""
        with torch.inference_mode():
            self.scan()
            self._choose_noise()
            spots = [(passage, spot) for passage in self.passages for spot in self.spots(passage)]
            for number, (passage, spot) in enumerate(spots):
                self.report("revising", number, len(spots))
                self._revise(passage, spot, number)
            self.report("revising", len(spots), len(spots))
        return self.changes

    def scan(self) -> None:
        """One call a window: fills `current`, and `wants` with the places that the network would change."""
        total = sum(passage.end - passage.start for passage in self.passages)
        done = 0
        for passage in self.passages:
            for start in range(passage.start, passage.end, self.sizes.window):
                self.report("reading", done, total)
                end = min(start + self.sizes.window, passage.end)
                if not all(self.source.locked[start:end]):
                    self._look(passage, Spot(start, end))
                done += end - start
        self.report("reading", total, total)

    def _look(self, passage: Passage, window: Spot) -> None:
        canvas, reader = self._canvas(passage, window)
        permitted = torch.ones(1, dtype=torch.bool)
        proposal = self.loop.propose(canvas, reader.cache, Draws.of(self.ask.seed), permitted)
        wants = self.loop.wanted(proposal, canvas)[0].numpy()
        self.num_calls += 1
        count = window.end - window.start
        free = ~np.array(self.source.locked[window.start : window.end])
        current = proposal.current[0, :count].numpy()
        self.current[window.start : window.end][free] = current[free]
        self.wants[window.start : window.end] |= wants[:count]
        if count < len(wants) and wants[count]:  # something is missing at the window's end
            self.wants[window.end - 1] = True

    def _choose_noise(self) -> None:
        """The ceil(s n) free tokens in most doubt, as far as the budget goes, start as noise."""
        n = self.source.num_free
        count = min(math.ceil(self.ask.strength * n - 1e-9), math.floor(self.ask.budget * n + 1e-9))
        order = np.argsort(np.where(np.isnan(self.current), np.inf, self.current), kind="stable")
        self.open[order[:count]] = True

    def spots(self, passage: Passage) -> Iterator[Spot]:
        """Canvases around what is to change in a passage, no longer than a window, apart."""
        places = np.flatnonzero((self.wants | self.open)[passage.start : passage.end]) + passage.start
        start = end = passage.start
        began = False
        for place in places.tolist():
            reach = min(place + 1 + AROUND, passage.end)
            if began and place - AROUND <= end and reach - start <= self.sizes.window:
                end = reach
                continue
            if began:
                yield Spot(start, end)
            start, end, began = max(end if began else passage.start, place - AROUND), reach, True
        if began:
            yield Spot(start, end)

    def _revise(self, passage: Passage, spot: Spot, number: int) -> None:
        canvas, reader = self._canvas(passage, spot)
        left = len(edited(self.source, self.changes, passage.start, spot.start)) - (spot.start - passage.start)
        body = self.sizes.body + max(left, 0)
        spare = max(0, self.sizes.room - body)
        loop = replace(self.loop, max_length=canvas.tokens.shape[1] + spare)
        gone: dict[int, float] = {}
        for step in loop.steps(canvas, reader.cache, Draws.of(self.ask.seed).at(block=number)):
            self.num_calls += 1
            for place in (step.labels[0] == DELETE).nonzero()[:, 0].tolist():
                gone[int(step.origin[0, place])] = float(step.confidence[0, place])
        self.changes += changes_of(canvas, self.source, spot, gone)

    def _canvas(self, passage: Passage, spot: Spot) -> tuple[Canvas, Reader]:
        """The canvas of a spot, its noise and what is given right of it; and the cache with all that is left of it."""
        source, reader = self.source, self._at(passage)
        start = reader.left(edited(source, self.changes, passage.lead, spot.start))
        last = min(spot.end + self.sizes.right, len(source))
        ids, process = source.ids[spot.start : last], self.engine.checkpoint.process
        noise = [i for i in range(spot.end - spot.start) if self.open[spot.start + i]]
        if process.mask_id is not None:
            for i in noise:
                ids[i] = SLOT
        given = [i for i in range(last - spot.start) if source.locked[spot.start + i] or spot.start + i >= spot.end]
        closed = [i for i in range(last - spot.start + 1) if source.closed[spot.start + i] or spot.start + i > spot.end]
        end = self.engine.tokenizer.eos_ids[0] if self.engine.tokenizer.eos_ids else 0
        slot = end if process.mask_id is None else process.mask_id
        canvas = Canvas.of_texts([ids], end, slot, torch.tensor([start]), [given], [closed])
        canvas.valid[0, -1] = last == len(source)  # elsewhere the text goes on
        if process.mask_id is None and noise:
            where = torch.zeros_like(canvas.valid)
            where[0, noise] = True
            canvas.renoise(where, process, canvas.level, Draws.of(self.ask.seed).at(block=spot.start))
        return canvas, reader

    def _at(self, passage: Passage) -> Reader:
        found = next((reader for reader in self._readers if reader.passage == passage), None)
        if found is None:
            self._readers = self._readers[1 - READERS :]  # before the next cache is made
            found = Reader(self.engine, self.source, passage, self.ask.instruction, self.sizes)
        self._readers = [*(reader for reader in self._readers if reader is not found), found]
        return found


def changes_of(canvas: Canvas, source: Source, spot: Spot, gone: dict[int, float]) -> list[Change]:
    """What has become of a spot's tokens, in order; a change ends where nothing may be inserted.

    gone: confidence of each deletion, by the token's index in the spot.
    """
    width = spot.end - spot.start
    found: list[Change] = []
    at, new, sure = 0, list[int](), list[float]()

    def close(until: int) -> None:
        nonlocal at
        if new or at < until:
            p = [*sure, *(gone[i] for i in range(at, until) if i in gone)]
            mean = math.exp(float(np.log(np.clip(p, 1e-300, 1)).mean())) if p else 0.0
            found.append(Change(spot.start + at, spot.start + until, tuple(new), mean))
        new.clear()
        sure.clear()
        at = until

    valid = canvas.valid[0]
    rows = (canvas.tokens[0, valid], canvas.origin[0, valid], canvas.confidence[0, valid])
    for token, origin, confidence in zip(*(row.tolist() for row in rows), strict=True):
        if origin >= width:
            break
        same = origin >= 0 and source.ids[spot.start + origin] == token
        if same or (origin >= 0 and source.closed[spot.start + origin]):
            close(origin)
        if same:
            at = origin + 1
        else:
            new.append(token)
            sure.append(confidence)
    close(width)
    return found


def never_written(engine: Engine) -> tuple[int, ...]:
    """Ids that no edit writes: special ones, those without a token, and zero bytes, which would make the text binary."""
    return _never_written(engine.tokenizer, engine.checkpoint.config.vocab_size)


@lru_cache(maxsize=4)
def _never_written(tokenizer: Tokenizer, size: int) -> tuple[int, ...]:
    special = set(tokenizer.specials.values())
    plain = (i for i in range(min(size, tokenizer.vocab_size)) if i not in special)
    allowed = {i for i in plain if b"\0" not in tokenizer.token_bytes(i)}
    return tuple(sorted(set(range(size)) - allowed))
