"""Decoding: the policy. Which proposals are accepted, which positions return to noise, and when a row stops.

    accept  (proposal, canvas, s, draws) -> Where     ancestral | top | above | entropy_bound | left_to_right
    renoise (proposal, canvas, s, draws) -> Where     never | the_rest | below | at_rate
    stop    (proposal, canvas)           -> [B]       all_accepted | stable | mean_entropy

A rule is a small function made by a constructor below; rules of one kind combine with `|` and `&`. `s` `[B]` is the level
after the step. A new idea is a new constructor, not a new keyword.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from mezzotint.draws import Draws
from mezzotint.noise import Schedule
from mezzotint.sampler.canvas import Canvas
from mezzotint.shapes import Level, Tokens, Where


class Proposal(NamedTuple):
    """What one call says about every canvas position, all `[B, C]`."""

    tokens: Tokens  # the token proposed: argmax at temperature 0, else drawn
    argmax: Tokens
    confidence: Tensor  # float64: probability of the proposed token, before temperature
    entropy: Tensor  # float64, nats, at the temperature (before it, at temperature 0)
    current: Tensor  # float64: probability of the token now on the canvas; its doubt is 1 minus this
    previous: Tokens | None  # argmax of the step before, None at the first


Choice = Callable[[Proposal, Canvas, Level, Draws], Tensor]


@dataclass(frozen=True)
class Rule:
    """A named choice of positions (accept, renoise: `[B, C]`) or of rows (stop: `[B]`)."""

    name: str
    choose: Choice = field(repr=False)
    from_posterior: bool = False  # the step is a draw from q(x_s | x_t, prediction), not a choice among clean tokens

    def __call__(self, proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Tensor:
        return self.choose(proposal, canvas, s, draws)

    def __or__(self, other: Rule) -> Rule:
        return Rule(
            f"({self.name} | {other.name})",
            lambda *a: self(*a) | other(*a),
            self.from_posterior or other.from_posterior,
        )

    def __and__(self, other: Rule) -> Rule:
        return Rule(
            f"({self.name} & {other.name})",
            lambda *a: self(*a) & other(*a),
            self.from_posterior or other.from_posterior,
        )


def _best(score: Tensor, among: Where, count: Tensor) -> Where:
    """The `count` `[B]` highest scores among the positions allowed; ties go to the left."""
    order = score.masked_fill(~among, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        -1, order, torch.arange(score.shape[-1], device=score.device).expand_as(order)
    )
    return among & (rank < count[:, None])


# -- accept ---------------------------------------------------------------------------------------------------------


def ancestral() -> Rule:
    """Draw the whole next canvas from the reverse process: exact in law as the number of steps grows, for any noise."""
    return Rule("ancestral", lambda proposal, canvas, s, draws: canvas.editable, from_posterior=True)


def top(schedule: Schedule | None = None) -> Rule:
    """The most confident open positions; the schedule says how many stay open (MaskGIT, arXiv 2202.04200; LLaDA).

    After a step to level s, floor(n (1 - alpha(s))) of the n editable positions stay open; at least one is accepted.
    """
    schedule = schedule or Schedule.linear()

    def choose(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Where:
        total, still = canvas.editable.sum(-1), canvas.open.sum(-1)
        stay = (total * (1 - schedule.alpha(s)) + 1e-9).floor().to(torch.int64)
        return _best(proposal.confidence, canvas.open, (still - stay).clamp(min=1))

    return Rule("top", choose)


def above(threshold: float) -> Rule:
    """Open positions whose confidence is above the threshold, and always the best one (Fast-dLLM, arXiv 2505.22618)."""
    _check_share("threshold", threshold)

    def choose(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Where:
        best = _best(proposal.confidence, canvas.open, torch.ones_like(s, dtype=torch.int64))
        return best | (canvas.open & (proposal.confidence > threshold))

    return Rule(f"above({threshold:g})", choose)


def entropy_bound(bound: float) -> Rule:
    """The most certain open positions while sum(H) - max(H) <= bound nats (EB-Sampler, arXiv 2505.24857).

    The left side bounds the mutual information that accepting them together ignores; one position always passes.
    """
    if bound < 0:
        raise ValueError(f"entropy bound is {bound}; it must be at least 0 nats")

    def choose(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Where:
        entropy, order = proposal.entropy.masked_fill(~canvas.open, torch.inf).sort(dim=-1, stable=True)
        finite = entropy.isfinite()
        entropy = entropy.masked_fill(~finite, 0)
        within = finite & (entropy.cumsum(-1) - entropy <= bound)  # ascending, so the max of a prefix is its last
        return torch.zeros_like(within).scatter_(-1, order, within)

    return Rule(f"entropy_bound({bound:g})", choose)


def left_to_right(count: int = 1) -> Rule:
    """The leftmost `count` open positions; with count 1 and causal weights, plain AR decoding."""
    if count < 1:
        raise ValueError(f"count is {count}; it must be at least 1")

    def choose(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Where:
        return canvas.open & (canvas.open.cumsum(-1) <= count)

    return Rule(f"left_to_right({count})", choose)


# -- renoise --------------------------------------------------------------------------------------------------------


def never() -> Rule:
    """What is accepted stays."""
    return Rule("never", lambda proposal, canvas, s, draws: torch.zeros_like(canvas.open))


def the_rest() -> Rule:
    """Every position that is still open gets fresh noise (DiffusionGemma); no change under absorbing noise."""
    return Rule("the_rest", lambda proposal, canvas, s, draws: canvas.open)


def below(threshold: float) -> Rule:
    """Accepted positions whose current token has fallen below the threshold; none in the last step."""
    _check_share("threshold", threshold)

    def choose(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Where:
        return canvas.editable & ~canvas.open & (proposal.current < threshold) & (s > 0)[:, None]

    return Rule(f"below({threshold:g})", choose)


def at_rate(rate: float) -> Rule:
    """Each accepted position with probability `rate`, none in the last step."""
    _check_share("rate", rate)

    def choose(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Where:
        drawn = draws.uniform("renoise-choice", canvas.positions) < rate
        return canvas.editable & ~canvas.open & drawn & (s > 0)[:, None]

    return Rule(f"at_rate({rate:g})", choose)


# -- stop -----------------------------------------------------------------------------------------------------------


def all_accepted() -> Rule:
    """Nothing is open."""
    return Rule("all_accepted", lambda proposal, canvas, s, draws: canvas.done())


def stable() -> Rule:
    """The argmax canvas is what it was one step ago."""

    def choose(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Tensor:
        if proposal.previous is None:
            return torch.zeros_like(canvas.done())
        return ((proposal.argmax == proposal.previous) | ~canvas.editable).all(-1)

    return Rule("stable", choose)


def mean_entropy(bound: float) -> Rule:
    """The mean entropy over the editable positions is under `bound` nats."""

    def choose(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Tensor:
        editable = canvas.editable
        return (proposal.entropy * editable).sum(-1) < bound * editable.sum(-1).clamp(min=1)

    return Rule(f"mean_entropy({bound:g})", choose)


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; it must lie between 0 and 1")


@dataclass(frozen=True)
class Decoding:
    """Everything that makes one sampler different from another.

    A row that stops with open positions (a stop rule other than `all_accepted`, or the last step) takes the argmax there.
    """

    accept: Rule = field(default_factory=lambda: above(0.9))
    renoise: Rule = field(default_factory=never)
    stop: Rule = field(default_factory=all_accepted)
    num_steps: int = 32
    canvas_length: int = 16
    temperature: float = 0.0

    def __post_init__(self) -> None:
        for name in ("num_steps", "canvas_length"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; it must be 0 or a positive number")


POLICIES: dict[str, Callable[[], Decoding]] = {
    "threshold": lambda: Decoding(accept=above(0.9)),
    "entropy": lambda: Decoding(accept=entropy_bound(0.1)),
    "top": lambda: Decoding(accept=top()),
    "left-to-right": lambda: Decoding(accept=left_to_right()),
    "ancestral": lambda: Decoding(accept=ancestral(), temperature=1.0),
}
