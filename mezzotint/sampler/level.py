"""Level: what networks that are told the level of noise say, made into what the sampler reads, the law of the clean token.

    full            as it is
    leave_one_out   p(x_i | text without z_i), what UDLM's bound trains (arXiv 2412.10193): times q_t(z_i | x_i)
    score           log s(v) = log p_t(text with v at i) - log p_t(text), what SEDD trains (arXiv 2310.16834)

A score holds more than that law. Under absorbing noise its sum at a masked place, for exact scores 1 / (exp(sigma) - 1), is
a second opinion about how likely it is that the place is revealed; SEDD's own sampler (`tweedie`) goes by it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mezzotint.model.variant import LevelInput
from mezzotint.noise import NoiseProcess
from mezzotint.shapes import Level, Logits, Probs, Tokens


def total_noise(process: NoiseProcess, level: Level) -> Tensor:
    """sigma = -log alpha `[B]` float64; finite at pure noise too."""
    return -process.schedule.alpha(level).clamp(min=1e-12).log()


def log_scores(told: LevelInput, logits: Logits, noisy: Tokens, sigma: Tensor) -> Tensor:
    """log s `[B, C, V]` of the network's logits, 0 for the token that stands there. sigma `[B]`."""
    if told.scaled:
        shrunk = torch.expm1(sigma).log() + math.log(logits.shape[-1] - 1)
        logits = logits - shrunk.to(logits.dtype)[:, None, None]
    return logits.scatter(-1, noisy[..., None], 0.0)


def clean_logits(told: LevelInput, process: NoiseProcess, logits: Logits, noisy: Tokens, level: Level) -> Logits:
    """Log-probabilities of the clean token, up to a constant a place: float64 `[B, C, V]`. logits: the network's.

    Under uniform noise scores are q_t(v) / q_t(z) with q_t = alpha p + (1 - alpha) / V, p the leave-one-out law, which is
    solved for; where a network's scores leave less than nothing, it is nothing.
    """
    logits = logits.to(torch.float64)
    if told.prediction == "full":
        return logits
    if told.prediction == "score":
        scores = log_scores(told, logits, noisy, total_noise(process, level))
        masked = process.looks_noisy(noisy)
        if masked is not None:  # a token that is not a mask is certain, and no clean token is one
            scores[..., process.mask_id] = -torch.inf
            sure = torch.full_like(scores, -torch.inf).scatter(-1, noisy[..., None], 0.0)
            return torch.where(masked[..., None], scores, sure)
        alpha = process.schedule.alpha(level)[:, None, None]
        share = (1 - alpha) * _even(process, logits)
        logits = ((scores.softmax(-1) - share).clamp(min=0) / alpha.clamp(min=1e-12)).log()
    return process.to_full(logits.softmax(-1), noisy, level).log()


def tweedie(process: NoiseProcess, scores: Tensor, noisy: Tokens, s: Level, t: Level) -> Probs:
    """SEDD's step from level t to s: (exp(-d Q) score)(v) exp(d Q)(v -> z), d = sigma_t - sigma_s (arXiv 2310.16834, 4.2).

    scores: log s, float64 `[B, C, V]` -> `[B, C, V]`, not normalised. It is the reverse process where scores are exact. At
    s = 0 nothing stays masked. Raises ValueError for hybrid noise, for which scores say too little.
    """
    if process.support and process.mask_id is not None:
        raise ValueError("scores are known of absorbing and of uniform noise; this process is a hybrid")
    score, here = scores.exp(), one_hot(noisy, process.vocab_size).to(torch.float64)
    alpha_s, alpha_t = process.schedule.alpha(s)[:, None, None], process.schedule.alpha(t)[:, None, None]
    keep = alpha_t.clamp(min=1e-12) / alpha_s  # exp(-d)
    if process.support:
        even = _even(process, scores)
        before = (score - (1 - keep) * even * score.sum(-1, keepdim=True)) / keep
        return before.clamp(min=0) * ((1 - keep) * even + keep * here)
    assert process.mask_id is not None
    gain = 1 / keep - 1  # exp(d) - 1
    law = gain * score
    law[..., process.mask_id] = 0
    stays = (1 - law.sum(-1)).clamp(min=0)
    law[..., process.mask_id] = torch.where(s[:, None] > 0, stays, 0.0)
    return torch.where(noisy.eq(process.mask_id)[..., None], law, here)


def _even(process: NoiseProcess, like: Tensor) -> Tensor:
    """The uniform law over the ids that noise may draw: float64 `[V]`."""
    even = torch.zeros(process.vocab_size, dtype=torch.float64, device=like.device)
    even[torch.tensor(process.support, device=like.device)] = 1 / len(process.support)
    return even
