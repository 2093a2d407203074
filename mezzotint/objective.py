"""Likelihood under a diffusion model and under its AR twin: the masked bound, its block form, and AR's exact value.

    bound        -log p(x) <= E_t E_(x_t) sum_i nelbo_i          Monte Carlo over levels; exact denoiser: the entropy
    block bound  one level a block, the blocks before it clean    size 1, always masked: AR's likelihood
    AR           -log p(x) = sum_i -log p(x_i | x_<i)

What predicts is a function, so that a network under any visibility and an enumerated world are measured alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mezzotint.draws import Draws
from mezzotint.model.denoiser import Denoiser
from mezzotint.model.visibility import CANVAS, CLEAN, Places, Visibility, context_causal, full, two_stream_places
from mezzotint.noise import NoiseProcess
from mezzotint.shapes import Level, Logits, Tokens, Where

Predict = Callable[[Tokens, Tokens, Level], Logits]  # (noisy, clean, t), all [B, L] -> log-probabilities [B, L, V]

_LEAST = 1e-3  # levels below carry almost no mask and all the variance (MDLM's eps)


class Bound(NamedTuple):
    """An upper bound on -log p in nats, float64 `[B]`, with the standard error of its Monte Carlo estimate `[B]`."""

    nats: Tensor
    standard_error: Tensor


def masked_bound(
    process: NoiseProcess,
    predict: Predict,
    clean: Tokens,
    editable: Where,
    count: int,
    draws: Draws,
    size: int | None = None,
) -> Bound:
    """The bound on -log p of the editable positions, given the others; `count` levels a row, evenly spread and shifted.

    size: one level for each block of so many positions (block diffusion, arXiv 2503.09573), else one for the row. The
    level is drawn from [1e-3, 1]. Raises ValueError for a count below 2, which has no standard error.
    """
    if count < 2:
        raise ValueError(f"count is {count}; a standard error needs at least 2")
    _rows, length = clean.shape
    block = torch.zeros(length, dtype=torch.int64) if size is None else torch.arange(length) // size
    shift = draws.uniform("level", block)  # [B, L], equal inside a block
    samples = []
    for index in range(count):
        t = _LEAST + (1 - _LEAST) * ((shift + index / count) % 1)
        here = draws.at(step=index)
        noisy = process.corrupt(clean, t, editable, here)
        log_probs = legal(process, predict(noisy, clean, t)).log_softmax(-1)
        samples.append((process.nelbo(log_probs, clean, noisy, t) * editable).sum(-1))
    values = torch.stack(samples)  # [count, B]
    return Bound(values.mean(0), values.std(0) / count**0.5)


def legal(process: NoiseProcess, logits: Logits) -> Logits:
    """The mask is never a clean token (SUBS, arXiv 2406.07524)."""
    logits = logits.to(torch.float64).clone()
    if process.mask_id is not None:
        logits[..., process.mask_id] = -torch.inf
    return logits


def whole_text(denoiser: Denoiser, visible: Visibility | None = None) -> Predict:
    """A network that sees the whole noisy text at once (one canvas from position 0)."""

    def predict(noisy: Tokens, clean: Tokens, t: Level) -> Logits:
        position = torch.arange(noisy.shape[1]).expand_as(noisy)
        return denoiser(noisy, Places.of(position, torch.full_like(position, CANVAS)), visible or full()).logits

    return predict


def two_stream(denoiser: Denoiser, size: int) -> Predict:
    """A network under the two-stream pass: canvases of `size` that read the clean text before them, in one forward."""

    def predict(noisy: Tokens, clean: Tokens, t: Level) -> Logits:
        rows, length = noisy.shape
        want = torch.arange(length).expand(rows, -1)
        places = two_stream_places(length, size, rows)
        return denoiser(torch.cat((noisy, clean), 1), places, context_causal(), want=want).logits

    return predict


def autoregressive_nll(denoiser: Denoiser, tokens: Tokens) -> Tensor:
    """-log p(token | those before it) in nats: float32 `[B, L - 1]`, entry i about token i + 1 (the first is given)."""
    position = torch.arange(tokens.shape[1] - 1).expand(tokens.shape[0], -1)
    places = Places.of(position, torch.full_like(position, CLEAN))
    log_probs = denoiser(tokens[:, :-1], places, context_causal()).logits.float().log_softmax(-1)
    return -log_probs.gather(-1, tokens[:, 1:, None])[..., 0]
