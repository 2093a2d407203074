"""Doubt: how likely the network finds each token that stands there.

    She dont like apples. They was here.
    .98 .02  .97  .99     .98  .01 .98      canvas: every token beside all the others
    .16 .39  .90  .98     .78  .40 .94      told: would a model that has read the instruction and the text write it again?
    .08 .00  .10  .01     .02  .01 .03      causal: only what stands left of it is seen; low everywhere, lowest at errors

A canvas that has learnt to denoise is asked in one call a window; other checkpoints are asked left to right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mezzotint.edit.ask import Ask, Report, silent
from mezzotint.edit.locks import Locks, Span
from mezzotint.edit.passages import Reader, Sizes, follows, passages
from mezzotint.edit.revise import Reviser
from mezzotint.edit.source import Source
from mezzotint.engine.engine import Engine

BELOW = {"canvas": 0.05, "told": 0.5, "causal": 0.005}  # p of a token that counts as doubtful


@dataclass(frozen=True)
class Doubt:
    """Characters `start:end` of each free token, and p that it stands there.

    way: canvas, told or causal; num_calls: what it cost.
    """

    text: str
    spans: tuple[Span, ...]
    current: tuple[float, ...]
    way: str
    num_calls: int

    def characters(self) -> list[float | None]:
        """Of every character: p of its least likely token, None where it is locked."""
        out: list[float | None] = [None] * len(self.text)
        for (start, end), p in zip(self.spans, self.current, strict=True):
            for at in range(start, end):
                known = out[at]
                out[at] = p if known is None else min(p, known)
        return out

    def words(self, below: float | None = None) -> list[Span]:
        """Words that hold a token less likely than `below`, with the space before them, sorted and apart."""
        below = BELOW[self.way] if below is None else below
        found: list[Span] = []
        for (start, end), p in zip(self.spans, self.current, strict=True):
            if p < below and not self.text[start:end].isspace():
                while start > 0 and (self.text[start].isalnum() and self.text[start - 1].isalnum()):
                    start -= 1
                while end < len(self.text) and self.text[end - 1].isalnum() and self.text[end].isalnum():
                    end += 1
                start -= start > 0 and self.text[start - 1] == " "
                if found and start <= found[-1][1]:
                    found[-1] = found[-1][0], max(end, found[-1][1])
                else:
                    found.append((start, end))
        return found

    def to_json(self) -> dict[str, Any]:
        tokens = [[start, end, round(p, 6)] for (start, end), p in zip(self.spans, self.current, strict=True)]
        return {"way": self.way, "calls": self.num_calls, "tokens": tokens}


def doubt(
    engine: Engine, text: str, instruction: str = "fix the grammar", locks: Locks | None = None, report: Report = silent
) -> Doubt:
    """Raises ValueError for a checkpoint that reads no text, and for an instruction that fills its context."""
    engine.must_read()
    source = Source.of(text, locks or Locks(), engine.tokenizer)
    if engine.canvas_leads:
        reviser = Reviser(engine, source, Ask(instruction), report)
        with torch.inference_mode():
            reviser.scan()
        return _doubt(source, reviser.current, "canvas", reviser.num_calls)
    current, calls = _causal(engine, source, instruction, report)
    return _doubt(source, current, "told" if follows(engine) else "causal", calls)


def _causal(engine: Engine, source: Source, instruction: str, report: Report) -> tuple[np.ndarray[Any, Any], int]:
    """p of every free token after what stands left of it in its passage, float64 `[n]`, and the calls."""
    sizes, calls = Sizes.of(engine, instruction), 0
    current = np.full(len(source), np.nan)
    todo = list(passages(source, sizes))
    with torch.inference_mode():
        for number, passage in enumerate(todo):
            report("reading", number, len(todo))
            reader = Reader(engine, source, passage, instruction, sizes)
            current[passage.lead : passage.end] = np.exp(reader.judge(source.ids[passage.lead : passage.end]))
            calls += 1
    report("reading", len(todo), len(todo))
    return current, calls


def _doubt(source: Source, current: np.ndarray[Any, Any], way: str, calls: int) -> Doubt:
    spans, chances = [], []
    at = place = 0
    for i in range(len(source)):
        start = place
        if source.starts[i + 1] > at:
            piece = source.data[at : source.starts[i + 1]]
            whole = piece.decode("utf-8", "ignore")  # half a character is counted with its other half
            start, place, at = place, place + len(whole), at + len(whole.encode())
        if not source.locked[i] and not np.isnan(current[i]):
            spans.append((start, max(place, start + 1)))
            chances.append(float(current[i]))
    return Doubt(source.text, tuple(spans), tuple(chances), way, calls)
