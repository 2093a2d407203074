"""Decoding: the policy. Which proposals are accepted, which positions return to noise, and when a row stops.

    accept  (proposal, canvas, s, draws) -> Where     ancestral | score_ratios | top | fixed_steps | rounded_steps
                                                      | dream | origin | above
                                                      | klass | factor | frechet | entropy_bound(_everywhere) | changed_mind
                                                      | left_to_right | remdm
    renoise (proposal, canvas, s, draws) -> Where     never | the_rest | the_others | below | at_rate | unconfirmed | remdm
    stop    (proposal, canvas, s, draws) -> [B]       all_accepted | last_step | stable | mean_entropy | edits_settled
    settle  (proposal, canvas, s, draws) -> Where     the_rest | everything: what takes the argmax when a row stops

A rule is a small function made by a constructor below; rules of one kind combine with `|` and `&`. `s` `[B]` is the level
after the step, `canvas.level` the one before it. A rule names what it needs beyond the basic proposal, and only that is
computed. A new idea is a new constructor, not a new keyword. `POLICIES` at the end names the combinations known from
papers and other people's code.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from mezzotint.draws import Draws
from mezzotint.noise import Schedule
from mezzotint.sampler.canvas import Canvas
from mezzotint.shapes import Level, Probs, Tokens, Where


class Proposal(NamedTuple):
    """What one call says about every canvas position, all `[B, C]`. None: no rule needs it.

    Probabilities are those before temperature; only `entropy` is taken at the temperature (before it, at temperature 0).
    """

    tokens: Tokens  # the token proposed: argmax at temperature 0, else drawn
    argmax: Tokens
    confidence: Tensor  # float64: probability of the proposed token
    entropy: Tensor | None  # float64, nats, of the whole distribution
    current: Tensor  # float64: probability of the token now on the canvas; its doubt is 1 minus this
    previous: Proposal | None = None  # of the step before, itself with a past as long as the rules look back
    margin: Tensor | None = None  # float64: the likeliest token's probability minus the second's
    kl: Tensor | None = None  # float64, nats: KL(this distribution || the previous step's), infinite at the first step
    shadow: Tensor | None = None  # float64: probability of the token on the canvas, had the position not been seen
    open: Where | None = None  # what was open when this was proposed
    probs: Probs | None = None  # [B, C, V], kept from one step to the next for `kl`
    feedback: Tensor | None = None  # [B, C, D], what a self-conditioned network hears of it at the next step


Choice = Callable[[Proposal, Canvas, Level, Draws], Tensor]


@dataclass(frozen=True)
class Rule:
    """A named choice of positions (accept, renoise, settle: `[B, C]`) or of rows (stop: `[B]`)."""

    name: str
    choose: Choice = field(repr=False)
    from_posterior: bool = False  # the step is a draw from q(x_s | x_t, prediction), not a choice among clean tokens
    needs: frozenset[str] = field(default=frozenset(), repr=False)  # of entropy, margin, kl, shadow, score
    memory: int = field(default=0, repr=False)  # how many earlier proposals the rule looks back at

    def __call__(self, proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Tensor:
        return self.choose(proposal, canvas, s, draws)

    def __or__(self, other: Rule) -> Rule:
        return self._with(other, "|", lambda *a: self(*a) | other(*a))

    def __and__(self, other: Rule) -> Rule:
        return self._with(other, "&", lambda *a: self(*a) & other(*a))

    def _with(self, other: Rule, sign: str, choose: Choice) -> Rule:
        return Rule(
            f"({self.name} {sign} {other.name})",
            choose,
            self.from_posterior or other.from_posterior,
            self.needs | other.needs,
            max(self.memory, other.memory),
        )


def _given(value: Tensor | None) -> Tensor:
    assert value is not None, "a rule reads what it does not name in `needs`"
    return value


def _best(score: Tensor, among: Where, count: Tensor) -> Where:
    """The `count` `[B]` highest scores among the positions allowed; ties go to the left."""
    order = score.masked_fill(~among, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        -1, order, torch.arange(score.shape[-1], device=score.device).expand_as(order)
    )
    return among & (rank < count[:, None])


def _best_one(score: Tensor, among: Where) -> Where:
    return _best(score, among, torch.ones(len(score), dtype=torch.int64, device=score.device))


def _longest_run(cost: Tensor, among: Where, holds: Callable[[Tensor], Where]) -> Where:
    """Cheapest first, the most positions for which `holds` (of the sorted costs `[B, C]`) is true; the first always.

    `holds` must not become true again once it is false.
    """
    cost, order = cost.masked_fill(~among, torch.inf).sort(dim=-1, stable=True)
    real = cost.isfinite()
    chosen = holds(cost.masked_fill(~real, 0))
    chosen[:, 0] = True
    return torch.zeros_like(among).scatter_(-1, order, chosen & real)


def _written_now(canvas: Canvas, draws: Draws) -> Where:
    """What this step has written; nothing before its accept."""
    return canvas.accepted_at == draws.step[:, None].to(canvas.tokens.device)


# -- scores: which positions come first -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """A named number a position, `[B, C]`: the highest are accepted first."""

    name: str
    of: Callable[[Proposal, Canvas, Draws], Tensor] = field(repr=False)
    needs: frozenset[str] = field(default=frozenset(), repr=False)


def by_confidence() -> Score:
    """The proposed token's probability (MaskGIT, LLaDA)."""
    return Score("confidence", lambda proposal, canvas, draws: proposal.confidence)


def by_margin() -> Score:
    """The likeliest token's probability minus the second's: two near-tied candidates wait (arXiv 2502.06768)."""
    return Score("margin", lambda proposal, canvas, draws: _given(proposal.margin), frozenset({"margin"}))


def by_entropy() -> Score:
    """Lowest entropy of the whole distribution first (Dream, arXiv 2508.15487)."""
    return Score("entropy", lambda proposal, canvas, draws: -_given(proposal.entropy), frozenset({"entropy"}))


def by_chance() -> Score:
    """Any order; one position a step, it is exact in law (LLaDA's random remasking)."""
    return Score("chance", lambda proposal, canvas, draws: draws.uniform("order", canvas.positions))


# -- accept ---------------------------------------------------------------------------------------------------------


def ancestral() -> Rule:
    """Draw the whole next canvas from the reverse process: exact in law as the number of steps grows, for any noise."""
    return Rule("ancestral", lambda proposal, canvas, s, draws: canvas.editable, from_posterior=True)


def score_ratios() -> Rule:
    """Draw the whole next canvas by the network's scores (SEDD's analytic sampler, arXiv 2310.16834): see `level.tweedie`.

    Where scores are exact it is `ancestral`, as it is for a network that says none, and under guidance.
    """
    return Rule(
        "score_ratios",
        lambda proposal, canvas, s, draws: canvas.editable,
        from_posterior=True,
        needs=frozenset({"score"}),
    )


def top(schedule: Schedule | None = None, score: Score | None = None) -> Rule:
    """The best open positions; the schedule says how many stay open (MaskGIT, arXiv 2202.04200).

    After a step to level s, floor(n (1 - alpha(s))) of the n editable positions stay open; at least one is accepted.
    """
    schedule, score = schedule or Schedule.linear(), score or by_confidence()

    def choose(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Where:
        total, still = canvas.editable.sum(-1), canvas.open.sum(-1)
        stay = (total * (1 - schedule.alpha(s)) + 1e-9).floor().to(torch.int64)
        return _best(score.of(proposal, canvas, draws), canvas.open, (still - stay).clamp(min=1))

    return Rule("top" if score.name == "confidence" else f"top({score.name})", choose, needs=score.needs)


def fixed_steps(score: Score | None = None) -> Rule:
    """The same number every step: of L open positions over S steps floor(L/S), and 1 more in the first L mod S (LLaDA).

    That is ceil(M/R) of the M now open with R steps left, R = t / (t - s); so it needs no memory of L and S.
    arXiv 2502.09992.
    """
    score = score or by_confidence()

    def choose(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Where:
        left = (canvas.level / (canvas.level - s).clamp(min=1e-12)).round().clamp(min=1)
        count = (canvas.open.sum(-1) / left).ceil().to(torch.int64)
        return _best(score.of(proposal, canvas, draws), canvas.open, count)

    return Rule(f"fixed_steps({score.name})", choose, needs=score.needs)


def _dream_share(canvas: Canvas, s: Level, eps: float) -> Level:
    """1 - s/t on Dream's line from 1 to eps, which our levels 1 to 0 are mapped to; all in the last step. `[B]`"""
    line = [eps + (1 - eps) * level for level in (s, canvas.level)]
    return torch.where(s <= 0, 1.0, 1 - line[0] / line[1])


def dream(score: Score | None = None, eps: float = 1e-3) -> Rule:
    """floor(M (1 - s/t)) of the M positions now open, possibly none; all in the last step (Dream, arXiv 2508.15487).

    t falls from 1 to `eps` on a line. `score` is Dream's alg: by_confidence (maskgit_plus), by_margin or by_entropy. With
    more steps than positions the share rounds down to none until about as many steps are left as positions, so the first
    calls are wasted, and the last accepts at least two at once.
    """
    score = score or by_entropy()
    _check_share("eps", eps)

    def choose(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Where:
        count = (canvas.open.sum(-1) * _dream_share(canvas, s, eps) + 1e-9).floor().to(torch.int64)
        return _best(score.of(proposal, canvas, draws), canvas.open, count)

    return Rule(f"dream({score.name})", choose, needs=score.needs)


def in_blocks(size: int, rule: Rule) -> Rule:
    """`rule`, kept to the first block of `size` positions that has something open; blocks start at multiples of it.

    Fast-dLLM v2's sub-blocks (arXiv 2509.26328).
    """
    _check_size(size)

    def choose(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Where:
        block = canvas.positions // size
        first = torch.where(canvas.open, block, torch.iinfo(torch.int64).max).amin(-1, keepdim=True)
        inside = dataclasses.replace(canvas, valid=canvas.valid & (block == first))
        return rule(proposal, inside, s, draws)

    return Rule(f"in_blocks({size}, {rule.name})", choose, needs=rule.needs, memory=rule.memory)


def _block_now(canvas: Canvas, s: Level, size: int) -> tuple[Where, Tensor, Tensor]:
    """What is open of the block whose turn it is, and its steps, `[B]`: all of them, and those left with this one."""
    step = (canvas.level - s).clamp(min=1e-12)
    total, left = (1 / step).round(), (canvas.level / step).round().clamp(min=1)
    each = (total / math.ceil(canvas.tokens.shape[1] / size)).clamp(min=1).floor()
    active = ((total - left) // each)[:, None]
    inside = canvas.open & ((canvas.positions - canvas.positions[:, :1]) // size == active)
    return inside, each, (left - 1) % each + 1


def fixed_steps_in_blocks(size: int, score: Score | None = None) -> Rule:
    """`fixed_steps` over the blocks of `size` that a canvas has, left to right, each with its share of the steps.

    LLaDA's semi-autoregressive decoding (arXiv 2502.09992): later blocks stay masked and are seen. The number of steps
    must be a multiple of the number of blocks.
    """
    score = score or by_confidence()
    _check_size(size)

    def choose(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Where:
        inside, _, left = _block_now(canvas, s, size)
        count = (inside.sum(-1) / left).ceil().to(torch.int64)
        return _best(score.of(proposal, canvas, draws), inside, count)

    return Rule(f"fixed_steps_in_blocks({size}, {score.name})", choose, needs=score.needs)


def _nearest(open_: Tensor, left: Tensor, total: Tensor) -> Tensor:
    """round(M (1 - s/t)) of M open, t = left/total, s one step below, halves to even: int64 `[B]`.

    float32, as dllm's scheduler computes it: on which side of a half a share falls depends on that.
    """
    t, s = (left / total).float(), ((left - 1) / total).float()
    share = 1 - ((1 - (1 - s)) / (1 - (1 - t))).double()
    return (open_.double() * share).round().to(torch.int64)


def rounded_steps(score: Score | None = None) -> Rule:
    """round(M (1 - s/t)) of the M positions now open, possibly none, t from 1 to 0 on a line (dllm's samplers).

    As `fixed_steps`, but what does not divide is spread over all steps.
    """
    score = score or by_confidence()

    def choose(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Where:
        step = (canvas.level - s).clamp(min=1e-12)
        count = _nearest(canvas.open.sum(-1), (canvas.level / step).round(), (1 / step).round())
        return _best(score.of(proposal, canvas, draws), canvas.open, count)

    return Rule(f"rounded_steps({score.name})", choose, needs=score.needs)


def rounded_steps_in_blocks(size: int, score: Score | None = None) -> Rule:
    """`rounded_steps` over the blocks of `size` that a canvas has, as `fixed_steps_in_blocks` (dllm's MDLM sampler)."""
    score = score or by_confidence()
    _check_size(size)

    def choose(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Where:
        inside, each, left = _block_now(canvas, s, size)
        return _best(score.of(proposal, canvas, draws), inside, _nearest(inside.sum(-1), left, each))

    return Rule(f"rounded_steps_in_blocks({size}, {score.name})", choose, needs=score.needs)


def origin(eps: float = 1e-3) -> Rule:
    """Each open position with probability 1 - s/t, whatever its confidence (Dream's `origin`): the law of `ancestral`."""
    _check_share("eps", eps)

    def choose(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Where:
        share = _dream_share(canvas, s, eps)
        return canvas.open & (draws.uniform("order", canvas.positions) < share[:, None])

    return Rule("origin", choose)


def above(threshold: float) -> Rule:
    """Open positions whose confidence is above the threshold, and always the best one (Fast-dLLM, arXiv 2505.22618)."""
    _check_share("threshold", threshold)

    def choose(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Where:
        best = _best_one(proposal.confidence, canvas.open)
        return best | (canvas.open & (proposal.confidence > threshold))

    return Rule(f"above({threshold:g})", choose)


def factor(f: float = 1.0) -> Rule:
    """The most open positions n, best first, with (n + 1) (1 - c_n) < f; always the best one (Fast-dLLM, arXiv 2505.22618).

    c_n is the lowest confidence among them. At f = 1 taking all n argmaxes at once is then taking the likeliest n together.
    """
    _check_positive("f", f)

    def choose(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Where:
        number = torch.arange(1, canvas.tokens.shape[1] + 1, device=canvas.tokens.device)
        return _longest_run(1 - proposal.confidence, canvas.open, lambda miss: (number + 1) * miss < f)

    return Rule(f"factor({f:g})", choose)


def frechet(f: float = 1.0) -> Rule:
    """The most open positions n, best first, with sum_{k<=n} (1 - c_k) + (1 - c_n) < f; always the best one.

    Fast-dLLM++ (arXiv 2606.02955) replaces n copies of the weakest confidence by the whole profile. The constant is ours:
    by Frechet's bound all n are right with probability at least 1 - sum (1 - c_k), and any other text of the n positions
    differs in one of them, so has at most 1 - c_n; the first exceeds the second exactly when the line above holds with
    f = 1. With equal confidences it is `factor(f)`.
    """
    _check_positive("f", f)

    def choose(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Where:
        return _longest_run(1 - proposal.confidence, canvas.open, lambda miss: miss.cumsum(-1) + miss < f)

    return Rule(f"frechet({f:g})", choose)


def entropy_bound(bound: float) -> Rule:
    """The most certain open positions while sum(H) - max(H) <= bound nats (EB-Sampler, arXiv 2505.24857).

    The left side bounds the mutual information that accepting them together ignores; one position always passes.
    """
    return _entropy_bound("entropy_bound", bound, lambda canvas: canvas.open)


def entropy_bound_everywhere(bound: float) -> Rule:
    """`entropy_bound` over all editable positions: what was accepted before is decided again (DiffusionGemma)."""
    return _entropy_bound("entropy_bound_everywhere", bound, lambda canvas: canvas.editable)


def _entropy_bound(name: str, bound: float, among: Callable[[Canvas], Where]) -> Rule:
    if bound < 0:
        raise ValueError(f"entropy bound is {bound}; it must be at least 0 nats")

    def choose(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Where:
        # ascending, so the largest of a prefix is its last
        return _longest_run(_given(proposal.entropy), among(canvas), lambda h: h.cumsum(-1) - h <= bound)

    return Rule(f"{name}({bound:g})", choose, needs=frozenset({"entropy"}))


def klass(threshold: float = 0.6, kl: float = 0.01, history: int = 2) -> Rule:
    """Open positions with confidence above the threshold and KL to the step before under `kl` nats, `history` times running.

    Where none qualifies, the best one (KLASS, arXiv 2511.05664).
    """
    _check_share("threshold", threshold)
    _check_positive("kl", kl)
    if history < 1:
        raise ValueError(f"history is {history}; it must be at least 1 step")

    def choose(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Where:
        sure = canvas.open & (proposal.confidence > threshold)
        at: Proposal | None = proposal
        for _ in range(history):
            sure = sure & (_given(at.kl) < kl) if at is not None else torch.zeros_like(sure)
            at = at.previous if at is not None else None
        return sure | (_best_one(proposal.confidence, canvas.open) & ~sure.any(-1, keepdim=True))

    return Rule(f"klass({threshold:g}, {kl:g}, {history})", choose, needs=frozenset({"kl"}), memory=history)


def changed_mind(threshold: float) -> Rule:
    """Accepted positions for which another token is proposed, with confidence above the threshold: overwritten in place.

    Token editing (LLaDA2.1, arXiv 2602.08676); to be joined with a rule for open positions.
    """
    _check_share("threshold", threshold)

    def choose(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Where:
        differs = (proposal.tokens != canvas.tokens) & canvas.editable & ~canvas.open
        return differs & (proposal.confidence > threshold)

    return Rule(f"changed_mind({threshold:g})", choose)


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
    """Every position that is still open (as renoise: fresh noise there, no change under absorbing noise)."""
    return Rule("the_rest", lambda proposal, canvas, s, draws: canvas.open)


def the_others() -> Rule:
    """Every editable position that this step has not accepted, whatever earlier steps did (DiffusionGemma)."""
    return Rule("the_others", lambda proposal, canvas, s, draws: canvas.editable & ~_written_now(canvas, draws))


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


def unconfirmed(threshold: float) -> Rule:
    """Tokens of earlier steps that a shadow, which does not see them, gives less than the threshold (WINO, arXiv 2507.18578).

    The least confirmed first, and always fewer than the step has accepted, so that every step makes progress; none in
    the last step.
    """
    _check_share("threshold", threshold)

    def choose(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Where:
        now = _written_now(canvas, draws)
        shadow = _given(proposal.shadow)
        doubtful = canvas.editable & ~canvas.open & ~now & (shadow < threshold) & (s > 0)[:, None]
        return _best(-shadow, doubtful, (now & canvas.editable).sum(-1) - 1)

    return Rule(f"unconfirmed({threshold:g})", choose, needs=frozenset({"shadow"}))


# -- ReMDM: accept and renoise at once ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Remasking:
    """sigma: the chance that a visible token returns to noise, `[B, 1]` or `[B, C]`.

    of: (canvas, hidden, alpha_t, alpha_s) -> sigma. hidden `[B, C]`: what was open before the step; the alphas are
    `[B, 1]`. At hidden places sigma is what the chance of being revealed makes up for.
    """

    name: str
    of: Callable[[Canvas, Where, Tensor, Tensor], Tensor] = field(repr=False)


def _largest_sigma(alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
    """min(1, (1 - alpha_s) / alpha_t): more would leave too few tokens visible."""
    return ((1 - alpha_s) / alpha_t.clamp(min=1e-12)).clamp(max=1)


def capped(eta: float) -> Remasking:
    """sigma = eta, or the largest possible if that is less (ReMDM-cap)."""
    _check_share("eta", eta)
    return Remasking(f"capped({eta:g})", lambda canvas, hidden, t, s: _largest_sigma(t, s).clamp(max=eta))


def rescaled(eta: float) -> Remasking:
    """sigma = eta of the largest possible (ReMDM-rescale)."""
    _check_share("eta", eta)
    return Remasking(f"rescaled({eta:g})", lambda canvas, hidden, t, s: eta * _largest_sigma(t, s))


def least_confident() -> Remasking:
    """The largest possible sigma, shared out by softmax(-confidence when accepted) over the visible tokens (ReMDM-conf).

    Two terms are ours. The published code reveals as if sigma were 0 at hidden places, so that more and more stays hidden
    than the forward process says. Here the shares are scaled by the visible part v/n of the n editable positions and
    sigma is the mean share, largest/n, at hidden places: the expected number of visible tokens is then exact.
    """

    def of(canvas: Canvas, hidden: Where, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
        visible = canvas.editable & ~hidden
        trust = canvas.confidence.nan_to_num(1.0)  # a draft's tokens were never doubted
        share = torch.where(visible, (-trust).exp(), 0.0)
        share = share / share.sum(-1, keepdim=True).clamp(min=1e-12) * visible.sum(-1, keepdim=True)
        count = canvas.editable.sum(-1, keepdim=True).clamp(min=1)
        return _largest_sigma(alpha_t, alpha_s) / count * torch.where(visible, share, 1.0)

    return Remasking("least_confident", of)


def while_held(eta: float) -> Remasking:
    """`capped(eta)` in steps that leave the level as it is, none in the others (ReMDM-loop); see `Hold`."""
    _check_share("eta", eta)

    def of(canvas: Canvas, hidden: Where, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
        return torch.where(alpha_t == alpha_s, _largest_sigma(alpha_t, alpha_s).clamp(max=eta), 0.0)

    return Remasking(f"while_held({eta:g})", of)


def remdm(remasking: Remasking, schedule: Schedule | None = None) -> tuple[Rule, Rule]:
    """Accept and renoise of ReMDM (arXiv 2503.00307), which share one sigma: for absorbing noise of this schedule.

    A visible token is masked with probability sigma, a masked one revealed with (alpha_s - (1 - sigma) alpha_t) /
    (1 - alpha_t). The chance of being visible at every level is that of the forward process, whatever sigma.
    """
    schedule = schedule or Schedule.linear()

    def reveal(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Where:
        alpha_t, alpha_s = schedule.alpha(canvas.level)[:, None], schedule.alpha(s)[:, None]
        sigma = remasking.of(canvas, canvas.open, alpha_t, alpha_s)
        chance = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t).clamp(min=1e-12)
        return canvas.open & (draws.uniform("reveal", canvas.positions) < chance)

    def mask(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Where:
        hidden = _given(proposal.open)  # not canvas.open: what this step has revealed is not masked again
        sigma = remasking.of(canvas, hidden, schedule.alpha(canvas.level)[:, None], schedule.alpha(s)[:, None])
        return canvas.editable & ~hidden & (draws.uniform("remask", canvas.positions) < sigma)

    return Rule(f"remdm({remasking.name})", reveal), Rule(f"remdm({remasking.name})", mask)


# -- stop and settle ------------------------------------------------------------------------------------------------


def all_accepted() -> Rule:
    """Nothing is open."""
    return Rule("all_accepted", lambda proposal, canvas, s, draws: canvas.done())


def last_step() -> Rule:
    """Only at level 0: what is all accepted now may return to noise yet (ReMDM)."""
    return Rule("last_step", lambda proposal, canvas, s, draws: s <= 0)


def stable(steps: int = 1) -> Rule:
    """The argmax canvas is what it was in each of the last `steps` steps."""
    if steps < 1:
        raise ValueError(f"steps is {steps}; it must be at least 1")

    def choose(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Tensor:
        same = torch.ones_like(canvas.done())
        earlier = proposal.previous
        for _ in range(steps):
            if earlier is None:
                return torch.zeros_like(same)
            same = same & ((proposal.argmax == earlier.argmax) | ~canvas.editable).all(-1)
            earlier = earlier.previous
        return same

    return Rule("stable" if steps == 1 else f"stable({steps})", choose, memory=steps)


def mean_entropy(bound: float) -> Rule:
    """The mean entropy over the editable positions is under `bound` nats.

    It is the entropy at the temperature, as in DiffusionGemma: a low temperature stops earlier.
    """

    def choose(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Tensor:
        editable = canvas.editable
        return (_given(proposal.entropy) * editable).sum(-1) < bound * editable.sum(-1).clamp(min=1)

    return Rule(f"mean_entropy({bound:g})", choose, needs=frozenset({"entropy"}))


def edits_settled(post_steps: int) -> Rule:
    """Nothing is open, and this step has written nothing or was the `post_steps`-th to begin with nothing open (LLaDA2.1)."""
    if post_steps < 0:
        raise ValueError(f"post_steps is {post_steps}; it must be at least 0")

    def choose(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Tensor:
        written = (_written_now(canvas, draws) & canvas.editable).any(-1)
        spent = torch.ones_like(written)
        at: Proposal | None = proposal
        for _ in range(post_steps):
            spent = spent & ~_given(at.open).any(-1) if at is not None else torch.zeros_like(spent)
            at = at.previous if at is not None else None
        return canvas.done() & (~written | spent)

    return Rule(f"edits_settled({post_steps})", choose, memory=post_steps)


def everything() -> Rule:
    """Every editable position: as settle, the argmax canvas is the output, not the sampled one (DiffusionGemma)."""
    return Rule("everything", lambda proposal, canvas, s, draws: canvas.editable)


def _check_size(size: int) -> None:
    if size < 1:
        raise ValueError(f"block size is {size}; it must be at least 1")


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; it must lie between 0 and 1")


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} is {value}; it must be above 0")


# -- the policy -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinearTemperature:
    """From `high` at level 1 down towards `low` at level 0; step n of N counted down has low + (high - low) n/N."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high < float("inf"):
            raise ValueError(f"temperatures {self.low} to {self.high}: low must be above 0 and high at least low")

    def __call__(self, level: Level) -> Tensor:
        return self.low + (self.high - self.low) * level


@dataclass(frozen=True)
class Hold:
    """Levels that wait at alpha = `alpha_on` while the time, 1 to 0, goes from `t_on` to `t_off` (ReMDM-loop)."""

    t_on: float = 0.55
    t_off: float = 0.05
    alpha_on: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.t_off < self.t_on < 1:
            raise ValueError(f"t_off {self.t_off} and t_on {self.t_on} must satisfy 0 < t_off < t_on < 1")
        if not 0 < self.alpha_on < 1:
            raise ValueError(f"alpha_on is {self.alpha_on}; it must lie between 0 and 1, ends excluded")

    def __call__(self, schedule: Schedule, num_steps: int) -> Level:
        """float64 `[num_steps + 1]`"""
        time = schedule.grid(num_steps)
        before = self.alpha_on * (1 - time) / (1 - self.t_on)
        after = 1 - (1 - self.alpha_on) * time / self.t_off
        levels = schedule.level(torch.maximum(before.clamp(max=self.alpha_on), after))
        levels[0], levels[-1] = 1, 0  # a level found by bisection misses the ends by a little
        return levels


@dataclass(frozen=True)
class Until:
    """Levels on a line from 1 to `eps`; clean: then 0, in a last step that only takes away what noise is left (SEDD)."""

    eps: float = 1e-5
    clean: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.eps < 1:
            raise ValueError(f"eps is {self.eps}; it must lie between 0 and 1, ends excluded")

    def __call__(self, schedule: Schedule, num_steps: int) -> Level:
        """float64 `[num_steps + 1]`. Raises ValueError for too few steps."""
        if num_steps < 1 + self.clean:
            raise ValueError(f"num_steps is {num_steps}; it must be at least {1 + self.clean}")
        line = torch.linspace(1, self.eps, num_steps + 1 - self.clean, dtype=torch.float64)
        return torch.cat((line, line.new_zeros(1))) if self.clean else line


Temperature = Callable[[Level], Tensor]  # of the levels before the step, [B]
Levels = Callable[[Schedule, int], Level]  # levels of the steps, from 1 down to 0: [num_steps + 1]


@dataclass(frozen=True)
class Decoding:
    """Everything that makes one sampler different from another.

    When a row stops (by `stop`, or at level 0 after the last step), the positions that `settle` names take the argmax.
    levels: the way down from 1 to 0, None for the schedule's own grid. guidance: how strongly the condition is followed,
    0 not at all, 1 as the network says, more exaggerates; any but 1 needs two branches (`guidance.py`). first_from_commit: a
    shifted network's last commit already says what the next block begins with, and that is taken (Fast-dLLM v2).
    """

    accept: Rule = field(default_factory=lambda: above(0.9))
    renoise: Rule = field(default_factory=never)
    stop: Rule = field(default_factory=all_accepted)
    num_steps: int = 32
    canvas_length: int = 16
    temperature: float | Temperature = 0.0
    settle: Rule = field(default_factory=the_rest)
    levels: Levels | None = None
    guidance: float = 1.0
    first_from_commit: bool = False

    def __post_init__(self) -> None:
        for name in ("num_steps", "canvas_length"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if not callable(self.temperature) and not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; it must be 0 or a positive number")
        if not 0 <= self.guidance <= 100:
            raise ValueError(f"guidance is {self.guidance}; it must lie between 0 and 100")
        if self.guidance != 1 and "shadow" in self.needs:
            raise ValueError("guidance and a rule that needs a shadow pass do not go together; choose one")

    @property
    def rules(self) -> tuple[Rule, Rule, Rule, Rule]:
        return self.accept, self.renoise, self.stop, self.settle

    @property
    def needs(self) -> frozenset[str]:
        """What a proposal must hold beyond tokens, argmax, confidence and current."""
        return frozenset().union(*(rule.needs for rule in self.rules))

    @property
    def memory(self) -> int:
        """How many earlier proposals a proposal must remember."""
        return max(rule.memory for rule in self.rules)


@dataclass(frozen=True)
class Policy:
    """A named decoding: call it to make one. The texts are a row of the table in docs/concepts/sampling.md."""

    make: Callable[[], Decoding] = field(repr=False)
    accepts: str
    source: str
    renoises: str = "nothing"
    stops: str = "all accepted"

    def __call__(self) -> Decoding:
        return self.make()

    @property
    def says(self) -> str:
        """One line for a list of policies."""
        return f"{self.accepts} ({self.source})"


def _remdm(remasking: Remasking, levels: Levels | None = None) -> Decoding:
    accept, renoise = remdm(remasking)
    return Decoding(accept, renoise, last_step(), temperature=1.0, num_steps=64, levels=levels)


POLICIES: dict[str, Policy] = {
    "threshold": Policy(
        lambda: Decoding(above(0.9)),
        "confidence above 0.9, at least one", "Fast-dLLM, arXiv 2505.22618",
    ),
    "factor": Policy(
        lambda: Decoding(factor()),
        "the most with (n + 1)(1 - c_n) < 1, c_n the weakest", "Fast-dLLM, arXiv 2505.22618",
    ),
    "frechet": Policy(
        lambda: Decoding(frechet()),
        "the most with sum (1 - c) + (1 - c_n) < 1", "Fast-dLLM++, arXiv 2606.02955; constant ours",
    ),
    "entropy": Policy(
        lambda: Decoding(entropy_bound(0.1)),
        "most certain first, while sum(H) - max(H) <= 0.1 nats", "EB-Sampler, arXiv 2505.24857",
    ),
    "klass": Policy(
        lambda: Decoding(klass(0.6, 0.01, 2)),
        "confidence above 0.6 and KL to the step before under 0.01 twice running, else the best", "KLASS, arXiv 2511.05664",
    ),
    "top": Policy(
        lambda: Decoding(top()),
        "the most confident; a schedule says how many stay open", "MaskGIT, arXiv 2202.04200",
    ),
    "margin": Policy(
        lambda: Decoding(top(score=by_margin())),
        "as `top`, largest lead of the first token over the second", "arXiv 2502.06768",
    ),
    "llada": Policy(
        lambda: Decoding(fixed_steps()),
        "the most confident, equally many every step", "LLaDA, arXiv 2502.09992",
    ),
    "llada-random": Policy(
        lambda: Decoding(fixed_steps(by_chance())),
        "any, equally many every step", "LLaDA, arXiv 2502.09992",
    ),
    "dream": Policy(
        lambda: Decoding(dream(by_entropy()), num_steps=16),
        "the lowest entropies, floor(M (1 - s/t)) of M open", "Dream, arXiv 2508.15487",
    ),
    "dream-confidence": Policy(
        lambda: Decoding(dream(by_confidence()), num_steps=16),
        "the most confident, floor(M (1 - s/t)) of M open", "Dream (maskgit_plus)",
    ),
    "dream-margin": Policy(
        lambda: Decoding(dream(by_margin()), num_steps=16),
        "the largest margins, floor(M (1 - s/t)) of M open", "Dream (topk_margin)",
    ),
    "dream-origin": Policy(
        lambda: Decoding(origin(), temperature=1.0),
        "each open one with probability 1 - s/t", "Dream (origin), MDLM",
    ),
    "llada-blocks": Policy(
        lambda: Decoding(fixed_steps_in_blocks(32), canvas_length=128, num_steps=128),
        "as `llada`, block after block of 32 in a canvas of 128", "LLaDA, arXiv 2502.09992",
    ),
    "a2d": Policy(
        lambda: Decoding(rounded_steps(), canvas_length=32),
        "the most confident, round(M (1 - s/t)) of M open", "dllm (BD3LM sampler)",
    ),
    "first-hitting": Policy(
        lambda: Decoding(fixed_steps(by_chance()), temperature=1.0, num_steps=4096),
        "any one, its token drawn", "BD3-LM, arXiv 2503.09573; first hitting, arXiv 2409.02908",
    ),
    "sdar": Policy(
        lambda: Decoding(above(0.85)),
        "confidence above 0.85, at least one", "SDAR (low_confidence_dynamic)",
    ),
    "llada2": Policy(
        lambda: Decoding(above(0.95), canvas_length=32),
        "confidence above 0.95, at least one", "LLaDA2.0",
    ),
    "fast-dllm-v2": Policy(
        lambda: Decoding(in_blocks(8, above(0.9)), canvas_length=32, first_from_commit=True),
        "as `threshold`, sub-block after sub-block of 8; the commit's last logits give a block's first token",
        "Fast-dLLM v2, arXiv 2509.26328",
    ),
    "nemotron": Policy(
        lambda: Decoding(above(0.9), canvas_length=32, first_from_commit=True),
        "as `threshold`; the commit's last logits give a block's first token", "Nemotron-Labs-Diffusion",
    ),
    "left-to-right": Policy(
        lambda: Decoding(left_to_right()),
        "the leftmost", "AR, as a diffusion",
    ),
    "ancestral": Policy(
        lambda: Decoding(ancestral(), temperature=1.0),
        "a draw from the reverse process", "D3PM, MDLM, UDLM", renoises="by the same draw",
    ),
    "sedd": Policy(
        lambda: Decoding(score_ratios(), temperature=1.0, num_steps=65, levels=Until(clean=True)),
        "a draw by the network's scores, 64 steps to level 1e-5 and one to 0", "SEDD (analytic), arXiv 2310.16834",
        renoises="by the same draw",
    ),
    "remdm-cap": Policy(
        lambda: _remdm(capped(0.008)),
        "each open one with the chance that keeps the marginals", "ReMDM-cap, arXiv 2503.00307",
        renoises="accepted ones at rate 0.008 at most", stops="after the last step",
    ),
    "remdm-rescale": Policy(
        lambda: _remdm(rescaled(0.015)),
        "as `remdm-cap`", "ReMDM-rescale", renoises="accepted ones at 0.015 of the largest rate", stops="after the last step",
    ),
    "remdm-conf": Policy(
        lambda: _remdm(least_confident()),
        "as `remdm-cap`", "ReMDM-conf, shares ours", renoises="accepted ones, the least confident sooner",
        stops="after the last step",
    ),
    "remdm-loop": Policy(
        lambda: _remdm(while_held(0.02), Hold()),
        "as `remdm-cap`, the level held at 90% visible for half of the steps", "ReMDM-loop", renoises="at rate 0.02 while held",
        stops="after the last step",
    ),
    "editing": Policy(
        lambda: Decoding(above(0.7) | changed_mind(0.5), stop=edits_settled(16), num_steps=48),
        "confidence above 0.7, at least one; accepted tokens are overwritten when another has over 0.5",
        "LLaDA2.1, arXiv 2602.08676", stops="all accepted and no edit, or 16 steps of edits only",
    ),
    "wino": Policy(
        lambda: Decoding(above(0.6), renoise=unconfirmed(0.9)),
        "confidence above 0.6, at least one", "WINO, arXiv 2507.18578",
        renoises="what a shadow that does not see the token gives under 0.9, fewer than accepted",
    ),
    "diffusion-gemma": Policy(
        lambda: Decoding(
            entropy_bound_everywhere(0.1), the_others(), stable() & mean_entropy(0.005), num_steps=48,
            temperature=LinearTemperature(0.4, 0.8), settle=everything(),
        ),
        "as `entropy`, over accepted and open alike, tokens drawn at temperature 0.8 to 0.4", "DiffusionGemma",
        renoises="all others", stops="argmax canvas unchanged and mean entropy under 0.005; the argmax canvas is the output",
    ),
}  # fmt: skip


def policy_table() -> str:
    """The table of docs/concepts/sampling.md, Markdown."""
    rows = ["| `--policy` | accepts | renoises | stops | known from |", "|---|---|---|---|---|"]
    rows += [f"| `{n}` | {p.accepts} | {p.renoises} | {p.stops} | {p.source} |" for n, p in POLICIES.items()]
    return "\n".join(rows)
