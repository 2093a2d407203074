"""Ask: what is wanted of an edit, whichever way it is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Report = Callable[[str, int, int], None]  # what is being done, how much of it is, and how much there is


def silent(what: str, done: int, total: int) -> None:
    """A `Report` that says nothing."""


@dataclass(frozen=True)
class Ask:
    """strength: share of the free tokens, those in most doubt, that start as noise. budget: share of the free characters that
    may change, what is added counted; 1 is no limit. rewrites: the text is written anew rather than corrected, where weights
    cannot denoise.

    sure: how likely another token must be to replace one that stands there, or the structure to change. max_steps: calls a
    canvas. margin, channel: nats, for rescoring (`rescore.py`). phrases: what is to be worked in, and nothing else done; likely:
    times as perplexing as it was a sentence may get by that (`keywords.py`). Raises ValueError for values out of range.
    """

    instruction: str = "fix the grammar"
    strength: float = 0.0
    budget: float = 1.0
    rewrites: bool = False
    sure: float = 0.8
    max_steps: int = 24
    temperature: float = 0.0
    seed: int = 0
    margin: float = 3.0
    channel: float = 1.5
    phrases: tuple[str, ...] = ()
    likely: float = 1.5

    def __post_init__(self) -> None:
        if not self.instruction.strip():
            raise ValueError("the instruction is empty; say in a few words what to change")
        for name, least, most in (
            ("strength", 0, 1),
            ("budget", 0, 1),
            ("sure", 0.5, 1),
            ("temperature", 0, 100),
            ("likely", 1, 100),
        ):
            if not least <= (value := getattr(self, name)) <= most:
                raise ValueError(f"{name} is {value}; it must lie between {least} and {most}")
        if self.max_steps < 1:
            raise ValueError(f"max_steps is {self.max_steps}; it must be at least 1")
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; it must be a 64-bit integer")
        for name in ("margin", "channel"):
            if not (value := getattr(self, name)) >= 0:
                raise ValueError(f"{name} is {value}; it must be at least 0 nats")
