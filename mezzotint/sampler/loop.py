"""Sampler: the one loop.

    noise ->  propose a token and a confidence everywhere
              accept some
              return some to noise              until the rule says stop  -> text

Every policy is this loop with other rules. Rows advance at their own pace: a row that has stopped is not written again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from mezzotint.constraint.guide import CanvasGuide
from mezzotint.draws import Draws, categorical
from mezzotint.model.variant import LevelInput
from mezzotint.noise import NoiseProcess, Schedule
from mezzotint.sampler.canvas import ACCEPTED, GIVEN, Canvas
from mezzotint.sampler.decoding import Decoding, Proposal
from mezzotint.sampler.guidance import guided_logits, guided_posterior
from mezzotint.sampler.level import clean_logits, log_scores, total_noise, tweedie
from mezzotint.shapes import Logits, Probs, Tokens, Where


@runtime_checkable
class CanvasDenoiser(Protocol):
    """What the loop asks of a network: logits `[B, C, V]` about the canvas's own positions."""

    def denoise(self, tokens: Tokens, positions: Tensor, valid: Where, cache: Any) -> Logits: ...


@runtime_checkable
class ShadowDenoiser(CanvasDenoiser, Protocol):
    """The same with a second answer from the same call: logits `[B, C, V]` of shadows, each blind to its own position.

    masks int64 `[B, C]`: what stands in a shadow's place. Only rules that need `shadow` ask for it.
    """

    def denoise_with_shadow(
        self, tokens: Tokens, positions: Tensor, valid: Where, cache: Any, masks: Tokens
    ) -> tuple[Logits, Logits]: ...


@runtime_checkable
class TwoBranchDenoiser(CanvasDenoiser, Protocol):
    """Answers told the condition and told the null, from one call: logits `[B, C, V]` each. Only guidance asks for it."""

    def denoise_branches(
        self, tokens: Tokens, positions: Tensor, valid: Where, cache: Any
    ) -> tuple[Logits, Logits]: ...


@runtime_checkable
class SelfConditionedDenoiser(Protocol):
    """One that hears what it said last of the same canvas: `encode_feedback` makes `[B, C, D]` of logits `[B, C, V]`.

    None: these weights do not listen. At temperature 1 and without what is illegal, as in training.
    """

    def encode_feedback(self, logits: Logits) -> Tensor | None: ...

    def denoise(
        self, tokens: Tokens, positions: Tensor, valid: Where, cache: Any, *, feedback: Tensor | None = None
    ) -> Logits: ...


class Heard(NamedTuple):
    """What a call said of each place, `[B, C, V]` float64, ids that are never legal ruled out (-inf).

    logits: of the clean token. shadow: of the shadow's. null: of the branch that is told the null. scores: log s, where the
    network says scores and a rule needs them.
    """

    logits: Logits
    shadow: Logits | None = None
    null: Logits | None = None
    scores: Tensor | None = None


class Step(NamedTuple):
    """One call and what followed from it. positions: computed by it, a row.

    running, going bool `[B]`: the rows that took part, and those that go on to a next call.
    """

    number: int
    canvas: Canvas
    proposal: Proposal
    running: Tensor
    positions: int
    going: Tensor


@dataclass(frozen=True)
class Sampler:
    """`banned`: ids that are never a legal output (control tokens; the mask id is left out by itself)."""

    denoiser: CanvasDenoiser
    process: NoiseProcess
    decoding: Decoding
    banned: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for rule in self.decoding.rules:
            if "shadow" in rule.needs and not isinstance(self.denoiser, ShadowDenoiser):
                raise ValueError(f"{rule.name} needs a shadow pass, which {type(self.denoiser).__name__} does not have")
        if self.decoding.guidance != 1 and not isinstance(self.denoiser, TwoBranchDenoiser):
            raise ValueError(
                f"guidance {self.decoding.guidance:g} needs two branches, which {type(self.denoiser).__name__} does not have"
            )

    @property
    def branches(self) -> int:
        """Calls of the network that a step takes, a row."""
        return 1 if self.decoding.guidance == 1 else 2

    @property
    def level_input(self) -> LevelInput | None:
        """How the network is told the level of noise."""
        found: LevelInput | None = getattr(self.denoiser, "level_input", None)
        return found

    def propose(
        self, canvas: Canvas, cache: Any, draws: Draws, s: Tensor, previous: Proposal | None,
        guide: CanvasGuide | None = None,
    ) -> Proposal:  # fmt: skip
        """One call of the denoiser, made into a proposal with what the rules need. s `[B]`: the level after this step.

        With a guide all tokens proposed belong to one valid filling, and confidence is that of the marginals.
        """
        needs, accept = self.decoding.needs, self.decoding.accept
        heard = None if previous is None else previous.feedback
        logits, shadow, null, scores = self._logits(canvas, cache, draws, needs, heard)
        told, strength = logits, self.decoding.guidance
        if null is not None:
            logits = guided_logits(told, null, strength)
        temperature = self.decoding.temperature
        heat: float | Tensor
        if callable(temperature):
            heat = temperature(canvas.level)[:, None, None].to(logits.device)
            drawn = True
        else:
            heat, drawn = temperature, temperature > 0
        tempered = drawn and getattr(self.denoiser, "hears_tempered", False)
        feedback = self._feedback(logits / heat if tempered else logits)  # of the network, not of what a guide allows
        filling: Tokens | None = None
        if guide is not None:
            warmth = torch.as_tensor(heat, dtype=torch.float64).flatten().expand(len(logits)) if drawn else None
            if accept.from_posterior and warmth is None:
                warmth = torch.ones(len(logits), dtype=torch.float64)
            uniform = draws.uniform("filling", canvas.positions)
            given = canvas.status == GIVEN
            logits, filling = guide.filled(logits, canvas.tokens, canvas.open, given, warmth, uniform)
        argmax = logits.argmax(-1) if filling is None else filling
        warm: Probs | None = None
        if drawn or accept.from_posterior or "entropy" in needs:
            warm = (logits / heat if drawn else logits).softmax(-1)
        tokens = argmax
        if (drawn and filling is None) or accept.from_posterior:
            assert warm is not None
            if filling is not None:  # a valid whole first, then how much of it the step shows
                warm = torch.nn.functional.one_hot(filling, warm.shape[-1]).to(warm)
            law = warm
            if filling is None and scores is not None:
                law = tweedie(self.process, scores, canvas.tokens, s, canvas.level)
            elif filling is None and accept.from_posterior and null is not None and self.process.support:
                with_it, without = ((x / heat if drawn else x).softmax(-1) for x in (told, null))
                law = guided_posterior(self.process, canvas.tokens, with_it, without, s, canvas.level, strength)
            elif accept.from_posterior:
                law = self.process.posterior(canvas.tokens, warm, s, canvas.level)
            tokens = categorical(law, draws.uniform("token", canvas.positions))
        norm = logits.logsumexp(-1, keepdim=True)
        probs = (logits - norm).exp() if "kl" in needs else None

        def chance(ids: Tokens, logits: Logits = logits, norm: Tensor = norm) -> Tensor:
            return (logits.gather(-1, ids[..., None]) - norm).exp()[..., 0]

        return Proposal(
            tokens,
            argmax,
            chance(tokens),
            -torch.xlogy(warm, warm).sum(-1) if warm is not None and "entropy" in needs else None,
            chance(canvas.tokens),
            _remember(previous, self.decoding.memory),
            margin=-(logits.topk(2, -1).values - norm).exp().diff(dim=-1)[..., 0] if "margin" in needs else None,
            kl=_kl_to(previous, probs) if probs is not None else None,
            shadow=None if shadow is None else chance(canvas.tokens, shadow, shadow.logsumexp(-1, keepdim=True)),
            open=canvas.open,
            probs=probs,
            feedback=feedback,
        )

    def _feedback(self, logits: Logits) -> Tensor | None:
        """What the next step's call hears; none where a call has two answers."""
        if self.branches == 2 or "shadow" in self.decoding.needs:
            return None
        return self.denoiser.encode_feedback(logits) if isinstance(self.denoiser, SelfConditionedDenoiser) else None

    def _logits(
        self, canvas: Canvas, cache: Any, draws: Draws, needs: frozenset[str], feedback: Tensor | None
    ) -> Heard:  # fmt: skip
        place = canvas.tokens, canvas.positions, canvas.valid, cache
        told, level = self.level_input, canvas.level
        more: dict[str, Any] = {} if told is None else {"sigma": total_noise(self.process, level)}
        both: tuple[Logits, ...]
        if "shadow" in needs:
            assert isinstance(self.denoiser, ShadowDenoiser)
            mask = self.process.mask_id
            noise = self.process.prior(canvas.tokens.shape, draws, canvas.positions)
            masks = noise if mask is None else torch.full_like(noise, mask)
            both = self.denoiser.denoise_with_shadow(*place, masks)
        elif self.branches == 2:
            assert isinstance(self.denoiser, TwoBranchDenoiser)
            both = self.denoiser.denoise_branches(*place, **more)
        else:
            more |= {} if feedback is None else {"feedback": feedback}
            both = (self.denoiser.denoise(*place, **more),)
        illegal = [i for i in {*self.banned, self.process.mask_id} if i is not None]
        raw = tuple(logits.to(torch.float64) for logits in both)
        scores: Tensor | None = None
        if told is not None:
            if "score" in needs and told.prediction == "score" and self.branches == 1:
                scores = log_scores(told, raw[0], canvas.tokens, more["sigma"])
                scores[..., illegal] = -torch.inf
            raw = tuple(clean_logits(told, self.process, logits, canvas.tokens, level) for logits in raw)
        for logits in raw:
            logits[..., illegal] = -torch.inf
        second = raw[1] if len(raw) > 1 else None
        shadowed = "shadow" in needs
        return Heard(raw[0], second if shadowed else None, None if shadowed else second, scores)

    def steps(
        self, canvas: Canvas, cache: Any, draws: Draws, guide: CanvasGuide | None = None
    ) -> Iterator[Step]:  # fmt: skip
        """Work on `canvas` in place, one denoiser call a step, at most `num_steps`; a row with nothing open does not start.

        guide: what the text must be like. What is certain of it is given before the first call, and accepted as soon as it is.
        """
        decoding = self.decoding
        make = decoding.levels or Schedule.grid
        levels = make(self.process.schedule, decoding.num_steps)
        start = canvas.level  # a draft's levels run from its own down to 0
        positions = canvas.tokens.shape[1] * (2 if "shadow" in decoding.needs else self.branches)
        if guide is not None:
            self._give(canvas, guide, 0)
            canvas.status[(canvas.status == ACCEPTED) & ~guide.ends(canvas.tokens)] = GIVEN
        running = ~canvas.done()
        previous: Proposal | None = None
        for index in range(decoding.num_steps):
            if not bool(running.any()):
                return
            s = torch.where(running, start * float(levels[index + 1]), canvas.level)
            here = draws.at(step=index)
            proposal = self.propose(canvas, cache, here, s, previous, guide)
            accept = decoding.accept(proposal, canvas, s, here) & running[:, None]
            canvas.accept(proposal.tokens, accept, proposal.confidence, index)
            if decoding.accept.from_posterior:
                self._reopen(canvas, accept, s)
            canvas.renoise(decoding.renoise(proposal, canvas, s, here) & running[:, None], self.process, s, here)
            if guide is not None:  # only what is kept makes other tokens certain
                self._give(canvas, guide, index)
            canvas.level = s
            stopping = running & (decoding.stop(proposal, canvas, s, here) | (s <= 0))
            settled = decoding.settle(proposal, canvas, s, here) & stopping[:, None]
            canvas.accept(proposal.argmax, settled, proposal.confidence, index)
            going = running & ~stopping
            yield Step(index, canvas, proposal, running, positions, going)
            previous, running = proposal, going

    def _give(self, canvas: Canvas, guide: CanvasGuide, step: int) -> None:
        """Accept what can only be one token."""
        tokens, where = guide.certain(canvas.tokens, canvas.open)
        canvas.accept(tokens, where, torch.ones_like(canvas.confidence), step)

    def _reopen(self, canvas: Canvas, where: Where, s: Tensor) -> None:
        """After a draw from the posterior a position is noise if it looks so; uniform noise cannot tell before level 0."""
        noisy = self.process.looks_noisy(canvas.tokens)
        undecided = (s > 0)[:, None].expand_as(where) if noisy is None else noisy
        canvas.reopen(where & undecided)

    def run(self, canvas: Canvas, cache: Any, draws: Draws) -> Canvas:
        """All the steps; the canvas is returned finished."""
        for _ in self.steps(canvas, cache, draws):
            pass
        return canvas


def _remember(proposal: Proposal | None, depth: int) -> Proposal | None:
    """The last `depth` proposals, without what only the next step needs."""
    if proposal is None or depth == 0:
        return None
    return proposal._replace(previous=_remember(proposal.previous, depth - 1), probs=None, feedback=None)


def _kl_to(previous: Proposal | None, probs: Probs) -> Tensor:
    """KL(probs || the step before), float64 `[B, C]`; infinite when there is none."""
    if previous is None or previous.probs is None:
        return probs.new_full(probs.shape[:-1], torch.inf)
    return (torch.xlogy(probs, probs) - torch.xlogy(probs, previous.probs)).sum(-1)
