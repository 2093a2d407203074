"""Rewriting left to right, with the source as the draft: for any checkpoint that follows instructions, trained canvas or not.

    read   [ user: instruction, passage ][ assistant: ]
    write  Our | flight | was | delayed ...      the source is the draft: a call keeps all of it that the model agrees with
    locked £5                                    read as it stands, never written
    write  .                                     and on, until the model comes to the next locked text by itself

A free region ends where the model writes what is locked next (or its end-of-text, where only white space is left). Where it
comes to neither, the region stays as it was, and a note says so. Without locks the text is that of `ar`; of an answer that puts
code in a fence where the source has none, it is what the fence holds.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import regex
import torch

from mezzotint.alignment import growth_cap
from mezzotint.draws import Draws
from mezzotint.edit.ask import Ask, Report, silent
from mezzotint.edit.hunks import Hunk
from mezzotint.edit.passages import Passage, Reader, Sizes, passages
from mezzotint.edit.revise import never_written
from mezzotint.edit.source import Source
from mezzotint.engine.engine import Engine
from mezzotint.sampler.verify import GivenText, Verified

DRAFT = 16  # source tokens checked a call
ANCHOR = 8  # bytes by which what follows a region is known; a line end suffices
_WORD = regex.compile(r"\w+|\s+|[^\w\s]")
_FENCED = regex.compile(
    rb"\s*(?:[^\n]*:\s*\n)?\s*```[^\n`]*\n(.*?)\s*```", regex.DOTALL
)  # perhaps after "Here is the code:"


@dataclass
class Rewriter:
    """A source being rewritten. kept: free regions that stayed, since the model did not come back to the locked text."""

    engine: Engine
    source: Source
    ask: Ask
    report: Report = silent
    hunks: list[Hunk] = field(default_factory=list)
    num_calls: int = 0
    kept: int = 0

    def __post_init__(self) -> None:
        self.sizes = Sizes.of(self.engine, self.ask.instruction)
        self.banned = tuple(set(never_written(self.engine)) - set(self.engine.tokenizer.eos_ids))

    def run(self) -> list[Hunk]:
        """All of it: the hunks, in order."""
        todo = list(passages(self.source, self.sizes))
        done, total = 0, sum(passage.end - passage.start for passage in todo)
        with torch.inference_mode():
            for number, passage in enumerate(todo):
                self.report("rewriting", done, total)
                self.hunks += self._passage(passage, number)
                done += passage.end - passage.start
        self.report("rewriting", total, total)
        return self.hunks

    def _passage(self, passage: Passage, number: int) -> list[Hunk]:
        reader = Reader(self.engine, self.source, passage, self.ask.instruction, self.sizes)
        written = self.source.ids[passage.lead : passage.start]
        pieces = list[tuple[int, int, list[int]]]()  # a region of the source, and the ids that took its place
        room = self.sizes.room
        for start, end, free in self._regions(passage):
            new = self._region(reader, passage, start, end, written, room, number) if free else None
            self.kept += free and new is None
            ids = self.source.ids[start:end] if new is None else new
            written = written + ids
            room -= len(ids)
            if free and new is not None:
                pieces.append((start, end, ids))
        return self._found(reader, passage, pieces, written)

    def _regions(self, passage: Passage) -> Iterator[tuple[int, int, bool]]:
        """Runs of tokens `start:end` that are free or not; a free one ends at a seal."""
        source, start = self.source, passage.start
        for i in range(passage.start + 1, passage.end + 1):
            if (
                i == passage.end
                or source.locked[i] != source.locked[i - 1]
                or (source.closed[i] and not source.locked[i])
            ):
                yield start, i, not source.locked[start]
                start = i

    def _region(
        self, reader: Reader, passage: Passage, start: int, end: int, written: list[int], room: int, number: int
    ) -> list[int] | None:
        """What the model writes in place of tokens `start:end`; None where it does not come to what follows."""
        source, tokenizer = self.source, self.engine.tokenizer
        left = max(0, passage.end - end)
        most = min(growth_cap(end - start), room - left)
        prompt = [*reader.prompt, *written]
        if most < 1 or not prompt:
            return None
        reader.hold(prompt[:-1])  # the last token is what the first call reads
        anchor = self._anchor(end, passage)
        last = not source.data[source.starts[end] : source.starts[passage.end]].strip()
        begun = tokenizer.decode_bytes(written[passage.start - passage.lead :]).strip()
        whole = last and not begun and b"```" not in source.data
        drafter = GivenText(
            source.ids[start : passage.end], [len(prompt)], careful=not self.engine.denoiser.wide_calls_pay
        )
        stops = frozenset(tokenizer.eos_ids)
        loop = Verified(self.engine.denoiser, drafter, DRAFT, self.ask.temperature, stop_ids=stops, banned=self.banned)
        ids, draws = list[int](), Draws.of(self.ask.seed).at(block=number)
        result: bytes | None = None
        for frame in loop.frames([prompt], most + len(anchor), draws, cache=reader.cache):
            self.num_calls += frame.calls
            ids += frame.tokens[: frame.committed]
            stopped, raw = ids[-1] in stops, tokenizer.decode_bytes(ids)
            if anchor in raw and not last:
                result = raw[: raw.index(anchor)]
            elif whole and (fenced := _FENCED.match(raw)):
                result = fenced[1]
            elif stopped and last:
                result = raw.rstrip()
                if whole and result.count(b"```") == 1:  # closed without having been opened
                    result = result.removesuffix(b"\n```")
            if stopped or result is not None:
                break
        reader.forget(len(prompt) - 1)
        try:
            return None if result is None else tokenizer.encode(result.decode())
        except UnicodeDecodeError:
            return None

    def _anchor(self, end: int, passage: Passage) -> bytes:
        """The bytes that end a region whose last token is before `end`: empty at the passage's end."""
        rest = self.source.data[self.source.starts[end] : self.source.starts[passage.end]][: 2 * ANCHOR]
        line = rest.find(b"\n")
        return rest[: line + 1] if 0 <= line < ANCHOR else rest[:ANCHOR]

    def _found(
        self, reader: Reader, passage: Passage, pieces: list[tuple[int, int, list[int]]], written: list[int]
    ) -> list[Hunk]:
        """Hunks of words; each as sure as the model is of its tokens, in one pass over what was written."""
        tokenizer, source = self.engine.tokenizer, self.source
        texts = [
            (source.data[source.starts[a] : source.starts[b]].decode(), tokenizer.decode(ids)) for a, b, ids in pieces
        ]
        if all(old == new for old, new in texts):
            return []
        reader.left(())
        sure = reader.judge(written)
        self.num_calls += 1
        found: list[Hunk] = []
        token = passage.start - passage.lead  # of `written`
        at = passage.start
        for (start, end, ids), (old, new) in zip(pieces, texts, strict=True):
            token += start - at
            place = len(source.data[: source.starts[start]].decode())
            ends = list(itertools.accumulate(len(tokenizer.token_bytes(i)) for i in ids))
            for a, b, c, d in _changed(old, new):
                first, last = len(new[:c].encode()), len(new[:d].encode())
                chances = [
                    sure[token + n]
                    for n, e in enumerate(ends)
                    if e > first and (n == 0 or ends[n - 1] < max(last, first + 1))
                ]
                mean = math.exp(sum(chances) / len(chances)) if chances else 0.5
                if source.locks.allow(place + a, place + b):
                    found.append(Hunk(place + a, place + b, old[a:b], new[c:d], mean))
            token += len(ids)
            at = end
        return found


def _changed(old: str, new: str) -> Iterator[tuple[int, int, int, int]]:
    """Characters `a:b` of the old text that became `c:d` of the new one, by words."""
    words = _WORD.findall(old), _WORD.findall(new)
    ends = [list(itertools.accumulate(map(len, side), initial=0)) for side in words]
    for kind, a, b, c, d in difflib.SequenceMatcher(None, *words, autojunk=False).get_opcodes():
        if kind != "equal":
            yield ends[0][a], ends[0][b], ends[1][c], ends[1][d]
