"""Sampler: the one loop.

    noise ->  propose a token and a confidence everywhere
              accept some
              return some to noise              until the rule says stop  -> text

Every policy is this loop with other rules. Rows advance at their own pace: a row that has stopped is not written again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mezzotint.draws import Draws, categorical
from mezzotint.noise import NoiseProcess
from mezzotint.sampler.canvas import Canvas
from mezzotint.sampler.decoding import Decoding, Proposal
from mezzotint.shapes import Logits, Tokens, Where


class CanvasDenoiser(Protocol):
    """What the loop asks of a network: logits `[B, C, V]` about the canvas's own positions."""

    def denoise(self, tokens: Tokens, positions: Tensor, valid: Where, cache: Any) -> Logits: ...


class Step(NamedTuple):
    """One call and what followed from it. running, going bool `[B]`: the rows that took part, and that go on to a next."""

    number: int
    canvas: Canvas
    proposal: Proposal
    running: Tensor
    going: Tensor


@dataclass(frozen=True)
class Sampler:
    """`banned`: ids that are never a legal output (control tokens; the mask id is left out by itself)."""

    denoiser: CanvasDenoiser
    process: NoiseProcess
    decoding: Decoding
    banned: tuple[int, ...] = ()

    def propose(self, canvas: Canvas, cache: Any, draws: Draws, s: Tensor, previous: Tokens | None) -> Proposal:
        """One call of the denoiser, made into a proposal. s `[B]`: the level after this step."""
        temperature = self.decoding.temperature
        logits = self.denoiser.denoise(canvas.tokens, canvas.positions, canvas.valid, cache).to(torch.float64)
        illegal = [i for i in {*self.banned, self.process.mask_id} if i is not None]
        logits[..., illegal] = -torch.inf
        probs = logits.softmax(-1)
        argmax = logits.argmax(-1)
        warm = probs if temperature in (0.0, 1.0) else (logits / temperature).softmax(-1)
        uniform = draws.uniform("token", canvas.positions)
        if self.decoding.accept.from_posterior:
            tokens = categorical(self.process.posterior(canvas.tokens, warm, s, canvas.level), uniform)
        else:
            tokens = argmax if temperature == 0 else categorical(warm, uniform)

        def chance(ids: Tokens) -> Tensor:
            return probs.gather(-1, ids[..., None])[..., 0]

        entropy = -torch.xlogy(warm, warm).sum(-1)
        return Proposal(tokens, argmax, chance(tokens), entropy, chance(canvas.tokens), previous)

    def steps(self, canvas: Canvas, cache: Any, draws: Draws) -> Iterator[Step]:
        """Work on `canvas` in place, one denoiser call a step, at most `num_steps`; a row with nothing open does not start."""
        grid = self.process.schedule.grid(self.decoding.num_steps)
        start = canvas.level  # a draft's grid runs from its own level down to 0
        running = ~canvas.done()
        previous: Tokens | None = None
        for index in range(self.decoding.num_steps):
            if not bool(running.any()):
                return
            s = torch.where(running, start * float(grid[index + 1]), canvas.level)
            here = draws.at(step=index)
            proposal = self.propose(canvas, cache, here, s, previous)
            accept = self.decoding.accept(proposal, canvas, s, here) & running[:, None]
            canvas.accept(proposal.tokens, accept, proposal.confidence, index)
            if self.decoding.accept.from_posterior:
                self._reopen(canvas, accept, s)
            canvas.renoise(self.decoding.renoise(proposal, canvas, s, here) & running[:, None], self.process, s, here)
            canvas.level = s
            stopping = self.decoding.stop(proposal, canvas, s, here) | (s <= 0)
            unsettled = canvas.open & (stopping & running)[:, None]
            canvas.accept(proposal.argmax, unsettled, proposal.confidence, index)
            going = running & ~stopping
            yield Step(index, canvas, proposal, running, going)
            previous, running = proposal.argmax, going

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
