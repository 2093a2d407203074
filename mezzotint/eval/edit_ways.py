"""Ways of editing as systems that a benchmark asks: the same weights, the same text, the same request.

    diffusion, rescore, verified, ...        `mezzotint.edit`: the text is where it starts from
    ar                                       the request and the text are read, the text is written again token by token

Seconds are a whole edit's, what is read first included; calls leave that out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mezzotint.alignment import growth_cap
from mezzotint.edit.ask import Ask
from mezzotint.edit.editor import Where, edit
from mezzotint.edit.passages import follows, start_id
from mezzotint.edit.presets import preset
from mezzotint.edit.router import WAYS as EDITS
from mezzotint.edit.router import choose
from mezzotint.engine.engine import Engine
from mezzotint.engine.request import Request
from mezzotint.eval.store import Answer
from mezzotint.eval.task import Item

WAYS = (*EDITS, "ar")
USUAL = ("diffusion", "verified", "insert", "ar")


def unable(engine: Engine, way: str) -> str:
    """Why a checkpoint cannot edit in this way; nothing where it can."""
    if way == "ar":
        return "" if follows(engine) else f"{engine.checkpoint.name} reads no request, so it cannot be asked to rewrite"
    if way == "insert" and not follows(engine):
        return f"{engine.checkpoint.name} reads no request, and the texts that keywords are worked into come with one"
    try:
        choose(engine, Ask(phrases=("-",) if way == "insert" else ()), way)
    except ValueError as error:
        return str(error)
    return ""


def chosen(engine: Engine, named: str | None) -> tuple[list[str], list[str]]:
    """The ways to measure, and what to say about those left out. named: separated by commas; None for the usual ones, with
    rescore in place of diffusion where the checkpoint has not learnt to denoise.

    Raises ValueError for an unknown way, and where none is left.
    """
    if named is not None and (wrong := [w for w in _listed(named) if w not in WAYS]):
        raise ValueError(f"unknown way {wrong[0]!r}; known: {', '.join(WAYS)}")
    wanted, notes, ways = _listed(named) if named else list(USUAL), list[str](), list[str]()
    for way in dict.fromkeys(wanted):
        if why := unable(engine, way):
            notes.append(f"{way}: left out ({why})")
            way = "rescore" if way == "diffusion" and named is None else ""
        if way and way not in ways:
            ways.append(way)
    if not ways:
        raise ValueError(f"{engine.checkpoint.name} edits in none of {', '.join(wanted)}: {'; '.join(notes)}")
    return ways, notes


def _listed(named: str) -> list[str]:
    return [way.strip() for way in named.split(",") if way.strip()]


def asked(gold: Mapping[str, Any], seed: int = 0) -> tuple[Ask, Where]:
    """What an item asks for: its preset's manner where it names one, else nothing but what the request needs."""
    if "preset" not in gold:
        return Ask(gold["instruction"], seed=seed), Where(keep_layout=False)
    named = preset(gold["preset"])
    ask = named.ask(dict.fromkeys(named.needs, "-"), seed=seed)
    phrases = tuple(word.strip() for word in gold["keywords"].split(",")) if named.inserts else ()
    return replace(ask, instruction=gold["instruction"], phrases=phrases), Where(keep_layout=named.keep_layout)


@dataclass
class Editing:
    """A checkpoint that edits in one way, an item at a time, so that seconds are one edit's."""

    engine: Engine
    way: str
    seed: int = 0
    size: int = 1

    @property
    def about(self) -> dict[str, Any]:
        checkpoint = self.engine.checkpoint
        about = {
            "model": checkpoint.name, "weights_sha256": checkpoint.weights_sha256(), "decode": self.way, "seed": self.seed,
            "suite": "edit", "compute": self.engine.compute,
        }  # fmt: skip
        return about if checkpoint.adapter is None else {**about, "adapter": checkpoint.adapter.folder.name}

    def ask(self, items: Sequence[Item], sample: int, max_tokens: int) -> list[Answer]:
        return [self._one(item, sample) for item in items]

    def _one(self, item: Item, sample: int) -> Answer:
        began, make = time.perf_counter(), self._rewritten if self.way == "ar" else self._edited
        try:
            text, reason, calls, note = make(item.gold)
        except ValueError as error:
            if "context" not in str(error):
                raise
            text, reason, calls, note = "", "context", 0, ""
        seconds = time.perf_counter() - began
        tokens = len(self.engine.tokenizer.encode(text))
        return Answer(
            item.id, sample, item.prompt_sha256, text, reason, tokens=tokens, calls=calls, seconds=round(seconds, 4), note=note
        )  # fmt: skip

    def _edited(self, gold: Mapping[str, Any]) -> tuple[str, str, int, str]:
        ask, where = asked(gold, self.seed)
        done = edit(self.engine, gold["before"], ask, where, self.way)
        return done.after, "stop", done.num_calls, "; ".join(done.notes)

    def _rewritten(self, gold: Mapping[str, Any]) -> tuple[str, str, int, str]:
        (reply,) = self.engine.generate([rewriting(self.engine, gold["instruction"], gold["before"])])
        return reply.text, reply.reason, reply.trace.num_calls, ""


def rewriting(engine: Engine, instruction: str, text: str) -> Request:
    """A text to be written again by AR, told just what an edit is told, with as much room as an edit has."""
    messages = [{"role": "user", "content": f"{instruction}\n\n{text}"}]
    room = engine.checkpoint.config.max_length - len(engine.prompt_ids(Request(messages, max_tokens=1)))
    most = min(growth_cap(len(engine.tokenizer.encode(text))), room)
    if most < 1:
        raise ValueError(f"the text leaves no room in the context of {engine.checkpoint.config.max_length}")
    return Request(messages, decode="ar", max_tokens=most)


def perplexity(engine: Engine, text: str) -> float:
    """exp of the mean nats of a text's tokens, left to right, alone; nan for an empty one. Beyond the context it is cut."""
    ids = [start_id(engine), *engine.tokenizer.encode(text)][: engine.checkpoint.config.max_length]
    if len(ids) < 2:
        return math.nan
    with torch.inference_mode():
        cache = engine.denoiser.new_cache(1, len(ids))
        laws = engine.denoiser.read(torch.tensor([ids]), torch.tensor([len(ids)]), cache, every=True).logits
    chances = laws[0, :-1].double().log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])
    return math.exp(-float(chances.mean()))
