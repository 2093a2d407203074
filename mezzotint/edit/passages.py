"""Passages: a long text in stretches that the model can read, each behind what it is told.

    [ user: instruction, passage ][ assistant: ]  what the model reads
                                    lead | body   the passage again: the lead is context, the body is edited
                                           [ canvas: a window, and up to 64 given tokens right of it ]

Left of a canvas everything is read into the cache, as it then stands. Adapters are taught this order (`train/rows.py`). A
model without a chat template reads no instruction, only the text.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from mezzotint.edit.source import Change, Source
from mezzotint.engine.engine import Engine

BODY, LEAD, WINDOW, RIGHT = 512, 128, 128, 64  # tokens, where the model's context has room
LEAST = 8  # tokens of a body
_ROWS = 64  # positions whose logits are held at once


class Passage(NamedTuple):
    """Tokens `start:end` of a source are edited, `lead:start` are read before them."""

    lead: int
    start: int
    end: int


@dataclass(frozen=True)
class Sizes:
    """How long the parts are, in tokens; `room`: positions that an edited body may have."""

    body: int
    lead: int
    window: int
    right: int
    prompt: int  # of the instruction alone

    @classmethod
    def of(cls, engine: Engine, instruction: str) -> Sizes:
        """Raises ValueError for an instruction that leaves no room for text."""
        prompt, most = len(told(engine, instruction, "")), engine.denoiser.config.max_length
        right = min(RIGHT, most // 8)
        share = (
            4.6 if follows(engine) else 2.3
        )  # of a body: in the prompt, the lead, the edited body, and something over
        body = min(BODY, int((most - prompt - right - 50) / share))
        if body < LEAST:
            raise ValueError(
                f"the instruction has {prompt} tokens; that leaves no room in this model's context of {most}"
            )
        return cls(body, min(LEAD, body // 4), min(WINDOW, body), right, prompt)

    @property
    def room(self) -> int:
        return 2 * self.body + 32

    def capacity(self, prompt: int) -> int:
        """Positions that a passage behind a prompt of so many tokens may take, its canvas included."""
        return prompt + self.lead + self.room + self.right + 1


def follows(engine: Engine) -> bool:
    """Does this model read instructions?"""
    return engine.tokenizer.chat_template is not None


def told(engine: Engine, instruction: str, text: str) -> list[int]:
    """Ids of what stands before the edited text: the instruction and the text, where the model reads instructions."""
    if follows(engine):
        return engine.tokenizer.chat([{"role": "user", "content": f"{instruction}\n\n{text}"}])
    return [start_id(engine)] if engine.denoiser.shift else []


def start_id(engine: Engine) -> int:
    """The token that the canvas of a shifted checkpoint stands behind. Raises ValueError if there is none."""
    tokenizer = engine.tokenizer
    if tokenizer.bos is not None:
        return tokenizer.id(tokenizer.bos)
    if tokenizer.eos_ids:
        return tokenizer.eos_ids[0]
    raise ValueError(f"{engine.checkpoint.name} has no token that a text can start with, which its shift of 1 needs")


def passages(source: Source, sizes: Sizes) -> Iterator[Passage]:
    """The passages that hold something to edit; a body ends at the end of a line if there is one in its second half."""
    start = 0
    while start < len(source):
        end = min(start + sizes.body, len(source))
        if end < len(source):
            ends = (i for i in range(end, start + sizes.body // 2, -1) if source.data[source.starts[i] - 1] == 0x0A)
            end = next(ends, end)
        if not all(source.locked[start:end]):
            yield Passage(max(0, start - sizes.lead), start, end)
        start = end


class Reader:
    """The cache of one passage: the prompt and, behind it, the text up to some place."""

    def __init__(self, engine: Engine, source: Source, passage: Passage, instruction: str, sizes: Sizes) -> None:
        data = source.data[source.starts[passage.lead] : source.starts[passage.end]]
        self.engine, self.passage = engine, passage
        self.prompt = told(engine, instruction, data.decode("utf-8", "ignore"))
        if len(self.prompt) > sizes.prompt + 2 * sizes.body:  # locks that cut a text fine
            self.prompt = told(engine, instruction, "")
        self.cache = engine.denoiser.new_cache(1, sizes.capacity(len(self.prompt)))
        self.read: list[int] = []
        self.hold(self.prompt)

    def left(self, ids: Sequence[int]) -> int:
        """Have the cache hold the prompt and `ids`; -> the position that comes next."""
        self.hold([*self.prompt, *ids])
        return len(self.read)

    def hold(self, ids: Sequence[int]) -> None:
        """Have the cache hold exactly these, and know what comes next; what it holds already is not read again."""
        same = next((i for i, (a, b) in enumerate(zip(self.read, ids, strict=False)) if a != b), None)
        same = min(len(self.read), len(ids)) if same is None else same
        if same < len(ids) or len(self.read) > len(ids):
            self.forget(max(0, min(same, len(ids) - 1)))  # the last one is read again, since its logits are gone
            rest = list(ids[len(self.read) :])
            if rest:
                self.engine.denoiser.read(torch.tensor([rest]), torch.tensor([len(rest)]), self.cache)
            self.read = list(ids)

    def forget(self, length: int) -> None:
        """Keep only the first `length` of what was read, whatever others have read into the cache since."""
        self.cache.truncate([length])
        self.read = self.read[:length]

    def judge(self, ids: Sequence[int]) -> list[float]:
        """Read on, and give log p of each token after those before it, nats; 0 where nothing stands before it."""
        out: list[float] = []
        for first in range(0, len(ids), _ROWS):
            part, ahead = list(ids[first : first + _ROWS]), self.cache.ahead
            count = torch.tensor([len(part)])
            laws = self.engine.denoiser.read(torch.tensor([part]), count, self.cache, every=True).logits.log_softmax(-1)
            before = torch.zeros_like(laws[:, 0]) if ahead is None else ahead.log_softmax(-1)
            laws = torch.cat((before[:, None], laws[:, :-1]), 1)[0]
            out += laws.gather(1, torch.tensor(part)[:, None])[:, 0].tolist()
        self.read += ids
        return out


def edited(source: Source, changes: Sequence[Change], start: int, end: int) -> list[int]:
    """Tokens `start:end` of a source after those changes that lie in it."""
    ids: list[int] = []
    first = bisect.bisect_left(changes, start, key=lambda change: change.start)
    for change in itertools.takewhile(lambda change: change.end <= end, itertools.islice(changes, first, None)):
        ids += [*source.ids[start : change.start], *change.ids]
        start = change.end
    return [*ids, *source.ids[start:end]]
