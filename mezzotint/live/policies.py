"""Policies: four ways of following a source, on the same weights, to compare.

    revise           ours: the last draft is the start, agreement commits
    agreement        local agreement, each draft decoded from scratch behind the committed text, a token a call
    retranslate      all of it from scratch at every update, nothing committed before the end: the most flicker, the best text
    wait-k           k words of lead, then a word of the target for a word of the source; nothing is ever taken back

Each is a rule of `captions.py` and a `Writer`, warm or not; so all of them keep what they have read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mezzotint.engine.engine import Engine
from mezzotint.live.captions import Draft, Rule
from mezzotint.live.latency import Step
from mezzotint.live.translate import Live, Translator, Update, Writer

POLICIES = ("revise", "agreement", "retranslate", "wait-k")


def never(drafts: Sequence[Draft], done: int) -> int:
    """A rule that commits nothing before the end."""
    return done


def lead(k: int) -> tuple[Rule, Callable[[str, int], int | None]]:
    """wait-k (Ma et al., arXiv 1810.08398): after n words of source n - k + 1 words of target; and how many are still to write.

    Words are those of `captions.py`. Raises ValueError for k below 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")

    def due(source: str) -> int:
        return max(0, len(source.split()) - k + 1)

    def rule(drafts: Sequence[Draft], done: int) -> int:
        return max(done, min(drafts[-1].checked, due(drafts[-1].source)))

    return rule, lambda source, done: max(0, due(source) - done)


def following(policy: str, engine: Engine, live: Live, k: int = 3) -> Translator:
    """A translator by one of `POLICIES`. Raises ValueError for another."""
    if policy == "revise":
        return Translator(Writer(engine), live)
    cold = Writer(engine, warm=False)
    if policy == "agreement":
        return Translator(cold, live)
    if policy == "retranslate":
        return Translator(cold, live, never)
    if policy == "wait-k":
        rule, enough = lead(k)
        return Translator(cold, replace(live, max_replaced=0), rule, enough)
    raise ValueError(f"policy is {policy!r}; allowed: {', '.join(POLICIES)}")


@dataclass(frozen=True)
class Followed:
    """A whole stream: its updates, and what `latency.py` measures."""

    updates: list[Update]
    steps: list[Step]

    @property
    def text(self) -> str:
        return self.updates[-1].committed


def follow(translator: Translator, hypotheses: Sequence[str]) -> Followed:
    """Translate hypotheses of a source one after the other; the last is final. Raises ValueError for none."""
    if not hypotheses:
        raise ValueError("there are no hypotheses of the source; give at least one")
    updates = [translator.update(text, n == len(hypotheses)) for n, text in enumerate(hypotheses, 1)]
    steps = [
        Step(len(text.split()), update.committed, update.text, update.seconds)
        for text, update in zip(hypotheses, updates, strict=True)
    ]
    return Followed(updates, steps)
