"""What a user asks (Request), sees happening (Text, Frame, Finished) and gets (Reply)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from mezzotint.constraint.formats import Format
from mezzotint.model.condition import Condition
from mezzotint.sampler.decoding import POLICIES, Decoding
from mezzotint.sampler.lens import LOGPROBS, NONE, Scored, Tilt
from mezzotint.sampler.speculate import MOST_FOR_ALL
from mezzotint.sampler.trace import Frame, Trace

DECODE = ("ar", "verified", "diffusion")
OWN_DRAFTS = ("self", "self-last", "self-two-call")
DRAFTS = ("auto", "fixed-point", "random", "text", "lookup", *OWN_DRAFTS)
MOST_BLOCKS = 16
MOST_TOP = 20  # others named beside a token's log-probability


@dataclass(frozen=True)
class Request:
    """One question. `prompt` is a user's message (put through the chat template), or raw text when `raw`; it may be left out
    where there is a condition.

    decode: ar (a token a call), verified (drafts checked by the causal pass: the same text as ar), diffusion (canvases
    denoised under `policy`). draft: where verified gets its drafts: auto (self with at most 2 tokens for weights with a
    draft head, else fixed-point; in int8, where a wide call costs more than these give, lookup for one text and none for
    several), fixed-point (random tokens, then the previous iterate), random (fresh random tokens every round), text
    (`draft_text`), lookup (what followed the like earlier in prompt and answer; none where there is nothing like it), or
    the network's own canvas pass: self (one call checks a draft and makes the next, a canvas for every number of accepted
    tokens; draft_length at most 32), self-last (a canvas for the whole draft accepted only), self-two-call (one call
    drafts, one checks). blocks_in_flight:
    canvases that diffusion works on at once. locks: {offset in answer tokens: text, or ids, that must stand there}. condition: a
    class or an embedding, for weights that know them, or text before the prompt. guidance: how strongly diffusion follows
    the condition, or the prompt where there is none: 0 not at all, 1 as the network says, more exaggerates, at two calls
    a step. choice: which of several answers with one seed; each has draws of its own. tilt: penalties, bias, top_p.
    logprobs: commit, final or causal (`sampler/lens.py`), with the top_logprobs likeliest tokens. deadline: by then (a time
    of `time.monotonic`) the answer is ended with the best that there is. format: what the text must be like: a `JsonSchema`,
    a `Regex` or a `ToolCall`. Raises ValueError for values out of range.
    """

    prompt: str | Sequence[Mapping[str, str]] = ""
    raw: bool = False
    decode: Literal["ar", "verified", "diffusion"] = "verified"
    max_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    draft: Literal["auto", "fixed-point", "random", "text", "lookup", "self", "self-last", "self-two-call"] = "auto"
    draft_text: str = ""
    draft_length: int = 4
    policy: str | Decoding = "threshold"
    locks: Mapping[int, str | Sequence[int]] = field(default_factory=dict)
    blocks_in_flight: int = 1
    condition: Condition | None = None
    guidance: float = 1.0
    choice: int = 0
    tilt: Tilt = NONE
    logprobs: Literal["commit", "final", "causal"] | None = None
    top_logprobs: int = 0
    deadline: float | None = None
    format: Format | None = None

    def __post_init__(self) -> None:
        if not self.prompt and self.condition is None:
            raise ValueError("the prompt is empty; give some text, or a condition to a model that follows one")
        for name, allowed in (("decode", DECODE), ("draft", DRAFTS)):
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")
        if isinstance(self.policy, str) and self.policy not in POLICIES:
            raise ValueError(f"unknown policy {self.policy!r}; known: {', '.join(POLICIES)}")
        if self.draft == "text" and not self.draft_text:
            raise ValueError("draft 'text' needs draft_text")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; it must be at least 1")
        if not 1 <= self.draft_length <= 256:
            raise ValueError(f"draft_length is {self.draft_length}; it must lie between 1 and 256")
        if self.draft == "self" and self.draft_length > MOST_FOR_ALL:
            raise ValueError(
                f"draft_length is {self.draft_length}; with draft 'self', which computes (draft_length + 1) times "
                f"(draft_length + 2) positions a call, it must be at most {MOST_FOR_ALL}"
            )
        if not 1 <= self.blocks_in_flight <= MOST_BLOCKS:
            raise ValueError(f"blocks_in_flight is {self.blocks_in_flight}; it must lie between 1 and {MOST_BLOCKS}")
        if not 0 <= self.guidance <= 100:
            raise ValueError(
                f"guidance is {self.guidance}; it must lie between 0 and 100, 1 follows the condition plainly"
            )
        if self.guidance != 1 and (self.decode != "diffusion" or self.blocks_in_flight != 1):
            raise ValueError(
                "guidance needs decode 'diffusion' and one block in flight: it weighs two views of a canvas"
            )
        if not 0 <= self.temperature <= 100:
            raise ValueError(f"temperature is {self.temperature}; it must lie between 0 and 100")
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; it must be a 64-bit integer")
        if not 0 <= self.choice < 2**31:
            raise ValueError(f"choice is {self.choice}; it must be a number from 0 up")
        if self.logprobs not in (None, *LOGPROBS):
            raise ValueError(f"logprobs is {self.logprobs!r}; allowed: {', '.join(LOGPROBS)}")
        if not 0 <= self.top_logprobs <= MOST_TOP:
            raise ValueError(f"top_logprobs is {self.top_logprobs}; it must lie between 0 and {MOST_TOP}")
        if self.logprobs is not None and (self.guidance != 1 or self.blocks_in_flight != 1):
            raise ValueError(
                "logprobs need guidance 1 and one block in flight: they are those of one view of one canvas"
            )
        if (self.logprobs is not None or self.tilt) and self.draft in OWN_DRAFTS and self.decode == "verified":
            raise ValueError(f"bias, penalties and logprobs are not there with draft {self.draft!r}; take another")
        if any(offset < 0 for offset in self.locks):
            raise ValueError(f"locks start at {sorted(self.locks)}; an offset must be at least 0")
        if self.format is not None and self.locks:
            raise ValueError("format and locks do not go together; write what must stand there into the format")
        bent = (
            bool(replace(self.tilt, temperature=self.temperature))
            or self.logprobs is not None
            or self.deadline is not None
        )
        if self.format is not None and bent:
            raise ValueError("a format goes with no bias, penalties, top_p, logprobs or deadline; leave these out")
        if self.format is not None and self.blocks_in_flight != 1:
            raise ValueError("a format needs one block in flight: its canvases are filled in order")


@dataclass(frozen=True)
class Text:
    """A piece of committed text: it will not change again."""

    row: int
    piece: str

    def __str__(self) -> str:
        return self.piece


@dataclass(frozen=True)
class Scores:
    """What the ids of the next piece of text are worth, where a request asks for logprobs. calls, positions: what it cost."""

    row: int
    scores: list[Scored]
    calls: int = 0
    positions: int = 0


@dataclass(frozen=True)
class Finished:
    """A row is over. reason: stop (the model ended it), length or deadline."""

    row: int
    reason: Literal["stop", "length", "deadline"]


@dataclass(frozen=True)
class Reply:
    """The answer, its ids (without the stop token), every call that made it, and what each id is worth if that was asked."""

    text: str
    ids: list[int]
    reason: Literal["stop", "length"]
    trace: Trace
    scores: list[Scored] = field(default_factory=list)


Event = Frame | Scores | Text | Finished
