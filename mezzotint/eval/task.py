"""What a benchmark is: items with prompts, a judge of answers, and how verdicts become a score.

    rows of a file -> Item (prompt, gold) -> answer of a system -> Verdict (one of six states) -> Score

States, exactly one an answer: correct; wrong; no_answer (nothing could be extracted); truncated (not correct, and cut by the
token limit, or the prompt did not fit); refused; infra_error (sandbox or endpoint failed: counted apart, asked again).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mezzotint.eval.judge import Judge

STATES = ("correct", "wrong", "no_answer", "truncated", "refused", "infra_error")
SCORER = 1  # raised when a rule changes, so that stored verdicts are made anew


@dataclass(frozen=True)
class Item:
    """One question. chat: messages for a model with a chat template; plain: what a model without one continues.

    gold: what the judge needs. group: by which scores are averaged (a language, a BBEH task); label: a second
    division. hole: (before, after) of a text whose middle is asked for.
    """

    id: str
    chat: tuple[Mapping[str, str], ...]
    plain: str
    gold: Mapping[str, Any] = field(repr=False)
    group: str = ""
    label: str = ""
    hole: tuple[str, str] | None = None

    @property
    def prompt_sha256(self) -> str:
        """Of everything that a model is shown."""
        shown = json.dumps([list(map(dict, self.chat)), self.plain, self.hole], ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(shown.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Verdict:
    """state: correct, wrong, no_answer or infra_error; what cut the answer is the runner's to say. score: 0 to 1."""

    state: str
    score: float = 0.0
    note: str = ""

    def __post_init__(self) -> None:
        assert self.state in STATES, self.state

    @classmethod
    def of(cls, right: bool, note: str = "") -> Verdict:
        return cls("correct", 1.0, note) if right else cls("wrong", 0.0, note)


NO_ANSWER = Verdict("no_answer")
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Task:
    """A benchmark. files: names looked for in the data folder, each a tuple of files that belong together, best first.

    load: rows and a sample's number -> items (the number matters where options are shuffled). judge: item, answer (without
    reasoning), was it a continuation of `plain`, judge -> verdict. reference: the answer a perfect system gives, where
    one is known.
    code: needs the sandbox; page: needs the browser. reference_plain: is the reference a continuation of `plain`?
    published: Gemini Diffusion's and Gemini 2.0 Flash-Lite's pass@1. rows: how many there are in all.
    """

    name: str
    title: str
    files: tuple[tuple[str, ...], ...]
    load: Callable[[Rows, int], list[Item]]
    judge: Callable[[Item, str, bool, Judge], Verdict]
    reference: Callable[[Item], str] | None
    rows: int
    where: str
    max_tokens: int = 1024
    fixture: str = ""
    code: bool = False
    page: bool = False
    reference_plain: bool = False
    founding: bool = False
    published: tuple[float, float] | None = None
    note: str = ""


def user(text: str, system: str = "") -> tuple[Mapping[str, str], ...]:
    """A chat of one message, behind a system line if there is one."""
    begin = ({"role": "system", "content": system},) if system else ()
    return (*begin, {"role": "user", "content": text})
