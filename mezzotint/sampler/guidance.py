"""Classifier-free guidance: two branches of one network, one told the condition and one told the null, and a strength.

    log p_g(v) = g log p(v | condition) + (1 - g) log p(v | null), renormalised

One convention everywhere: strength g = 0 is unconditional, 1 plainly conditional (the default, one branch, no extra cost),
above 1 exaggerates what the condition changes; 1.5 to 3 is usual. Others' w counts from the conditional: g = 1 + w
(LLaDA, arXiv 2502.09992).

What is combined depends on the noise (arXiv 2412.10193):

    masks        the laws of the clean token; then the ordinary step (when a mask goes away is not the condition's affair)
    uniform      for a draw from the reverse process, the posteriors q(z_s | z_t, prediction): any position may change in
                 any step, and guidance acts on all of them, noise and text alike. So too with a uniform share (hybrid)

Rules that choose among clean tokens (above, top, ...) always see the guided law of the clean token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mezzotint.model.cache import KVCache
from mezzotint.model.condition import NULL, Conditions
from mezzotint.model.denoiser import Denoiser, Prediction
from mezzotint.model.variant import LevelInput
from mezzotint.noise import NoiseProcess
from mezzotint.sampler.verify import pad
from mezzotint.shapes import Level, Logits, Probs, Tokens, Where

FLOOR = -690.0  # nats, about log 1e-300: what a branch rules out, the other can still outvote, without infinities


def guided_logits(conditional: Logits, null: Logits, strength: float) -> Logits:
    """The law above, as normalised log-probabilities `[B, C, V]`. Ids that both branches rule out (-inf) stay out."""
    illegal = conditional.isneginf() & null.isneginf()
    told, untold = (logits.log_softmax(-1).clamp(min=FLOOR) for logits in (conditional, null))
    return (strength * told + (1 - strength) * untold).masked_fill(illegal, -torch.inf).log_softmax(-1)


def guided_posterior(
    process: NoiseProcess, noisy: Tokens, conditional: Probs, null: Probs, s: Level, t: Level, strength: float
) -> Probs:
    """q_g(z_s | z_t) in proportion to q(z_s | z_t, conditional)^g q(z_s | z_t, null)^(1 - g): float64 `[B, C, V]`."""
    told, untold = (process.posterior(noisy, law, s, t).log() for law in (conditional, null))
    return guided_logits(told, untold, strength).exp()


class BranchCache:
    """What two branches have read: one cache of 2B rows, the told ones first. `gap` int64 `[B]`: null length minus told."""

    def __init__(self, both: KVCache, gap: Tensor) -> None:
        self.both, self.gap = both, gap

    @property
    def rows(self) -> int:
        return len(self.gap)

    @property
    def lengths(self) -> Tensor:
        return self.both.lengths[: self.rows]

    def fork(self, rows: Tensor | Sequence[int]) -> BranchCache:
        index = torch.as_tensor(rows, dtype=torch.int64)
        return BranchCache(self.both.fork(torch.cat((index, index + self.rows))), self.gap[index])


class Branches:
    """A denoiser that answers twice: told each row's condition, and told the null. A call is two calls of the network.

    conditions: one a row. null_prompts: what the null branch reads in place of the prompt, where the prompt is (part of)
    the condition; None for the same prompt. The answers are denoised in step, each behind its own prompt.
    """

    def __init__(
        self, denoiser: Denoiser, conditions: Conditions | None, null_prompts: Sequence[Sequence[int]] | None = None
    ) -> None:
        told = None if conditions is None else [*conditions, *[NULL] * len(conditions)]
        self.denoiser = denoiser if told is None else denoiser.following(told)
        self.null_prompts = null_prompts

    def new_cache(self, rows: int, capacity: int) -> BranchCache:
        longest = max(map(len, self.null_prompts)) if self.null_prompts else 0
        return BranchCache(self.denoiser.new_cache(2 * rows, capacity + longest), torch.zeros(rows, dtype=torch.int64))

    def read(self, tokens: Tokens, counts: Tensor, cache: BranchCache, every: bool = False) -> Prediction:
        """`Denoiser.read` in both branches; the logits are the told branch's."""
        again, number = tokens, counts
        if self.null_prompts is not None and not cache.both.lengths.any():
            again, number = pad(self.null_prompts)
            cache.gap = number - counts
            width = max(tokens.shape[1], again.shape[1])
            tokens, again = (torch.nn.functional.pad(x, (0, width - x.shape[1])) for x in (tokens, again))
        found = self.denoiser.read(torch.cat((tokens, again)), torch.cat((counts, number)), cache.both, every)
        return Prediction(*(x[: len(tokens)] for x in found))

    @property
    def level_input(self) -> LevelInput | None:
        return self.denoiser.level_input

    def denoise(
        self, tokens: Tokens, positions: Tensor, valid: Where, cache: Any, sigma: Tensor | None = None
    ) -> Logits:
        """The told branch alone."""
        return self.denoise_branches(tokens, positions, valid, cache, sigma)[0]

    def denoise_branches(
        self, tokens: Tokens, positions: Tensor, valid: Where, cache: BranchCache, sigma: Tensor | None = None
    ) -> tuple[Logits, Logits]:
        """Logits `[B, C, V]` told the condition, and told the null. sigma `[B]`: as in `Denoiser.denoise`."""
        places = torch.cat((positions, positions + cache.gap.to(positions.device)[:, None]))
        both = self.denoiser.denoise(
            torch.cat((tokens, tokens)), places, torch.cat((valid, valid)), cache.both,
            sigma=None if sigma is None else torch.cat((sigma, sigma)),
        )  # fmt: skip
        told, untold = both.chunk(2)
        return told, untold
