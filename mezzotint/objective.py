"""Likelihood under a diffusion model and under its AR twin: bounds with a stated estimator, and AR's exact value.

    bound        -log p(x) <= E_t E_(x_t) sum_i nelbo_i          exact denoiser: equal, for every text and every noise
    block bound  one level a block, the blocks before it clean    size 1, always masked: AR's likelihood
    AR           -log p(x) = sum_i -log p(x_i | x_<i)

What predicts is a function, so that a network under any visibility and an enumerated world are measured alike. How the
expectation is sampled is an `Estimator`: `by_level` serves every noise, the others are narrower and vary less. Levels
are stratified in independent groups, and the standard error is that of the groups' means: samples inside a group lean
on each other by design, so their own spread says nothing about the error of their mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from mezzotint.draws import Draws
from mezzotint.model.denoiser import Denoiser
from mezzotint.model.visibility import CANVAS, CLEAN, Places, Visibility, context_causal, full, two_stream_places
from mezzotint.noise import NoiseProcess, Prediction
from mezzotint.shapes import Level, Logits, Tokens, Where

Predict = Callable[[Tokens, Tokens, Level], Logits]  # (noisy, clean, t), all [B, L] -> log-probabilities [B, L, V]

_CHUNK = 2**22  # float64 numbers of one scored slice: a vocabulary of 50 thousand at every position would fill memory


class Bound(NamedTuple):
    """An upper bound on -log p in nats, float64 `[B]`, with the standard error of its Monte Carlo estimate `[B]`.

    (nats - true bound) / standard_error follows Student's t with groups - 1 degrees of freedom, as far as the means of
    groups are normal. `estimator` says in words how it was sampled.
    """

    nats: Tensor
    standard_error: Tensor
    estimator: str
    groups: int


class Sample(NamedTuple):
    """Noisy texts int64 `[B, L]`; their levels and the weights of their integrands, float64 `[B, L]`."""

    noisy: Tokens
    t: Level
    weight: Tensor


Draw = Callable[[NoiseProcess, Tokens, Where, Tensor, Tensor, Draws], Sample]
Score = Callable[[NoiseProcess, Tensor, Tokens, Tokens, Level, Prediction], Tensor]


@dataclass(frozen=True)
class Estimator:
    """How to sample a bound: E_u E_noise sum_i weight_i score_i over u ~ U(0, 1) a block.

    draw(process, clean, editable, u `[B, L]` equal inside a block, block `[L]`, draws) -> Sample
    score(process, log_probs, clean, noisy, t, prediction) -> float64 `[B, L]`, asked where a position is editable and,
        under absorbing noise, masked: elsewhere it is 0
    """

    name: str
    draw: Draw = field(repr=False)
    score: Score = field(repr=False)


def levels(draws: Draws, strata: int, blocks: int = 1) -> Tensor:
    """Low-discrepancy u ~ U(0, 1): float64 `[B, strata, blocks]`, for each block one u in each of `strata` equal strata.

    One shift a row, shared: all strata * blocks numbers of a row are evenly spaced (VDM's antithetic times, arXiv
    2107.00630). Each block meets the strata in its own random order, so that neither a block's place nor a sample's
    number tells its level.
    """
    if strata < 1 or blocks < 1:
        raise ValueError(f"strata is {strata} and blocks is {blocks}; both must be at least 1")
    shift = draws.uniform("level", torch.zeros(1, dtype=torch.int64))  # [B, 1]
    inside = (shift + torch.arange(blocks) / blocks) % 1  # [B, blocks]
    order = draws.uniform("stratum", torch.arange(strata * blocks)).reshape(-1, strata, blocks).argsort(1)
    return (order + inside[:, None]) / strata


def by_level(power: float = 3) -> Estimator:
    """Draw a level and a noisy text; score with the continuous-time integrand. Any noise, any prediction.

    power: levels are drawn so that 1 - alpha(t) = u^power, and weighted by dt/du. A change seen at level t counts about
    1 / (1 - alpha), so power 1 (MDLM's) has no finite variance unless low levels are cut off, which biases: 1e-4 costs
    GIDD hundredths of a nat. Power 2 has the least variance at one level; 3 has the least with stratified levels, and a
    finite third moment, without which a standard error from few samples is too small too often.
    """
    return Estimator(
        f"drawn levels (power {power:g})", _at_level(power),
        lambda process, log_probs, x, z, t, how: process.nelbo(log_probs, x, z, t, prediction=how),
    )  # fmt: skip


def by_level_summed(power: float = 3) -> Estimator:
    """`by_level`, with each position's own noise summed over instead of drawn: less variance, uniform or hybrid noise.

    Only for predictions whose leave-one-out form ignores the position's own token: see `nelbo_own_noise_summed`.
    """
    name = f"drawn levels (power {power:g}), own noise summed"
    return Estimator(name, _at_level(power), NoiseProcess.nelbo_own_noise_summed)


def _at_level(power: float) -> Draw:
    if power < 1:
        raise ValueError(f"power is {power}; it must be at least 1")

    def draw(process: NoiseProcess, clean: Tokens, editable: Where, u: Tensor, block: Tensor, draws: Draws) -> Sample:
        u = u.clamp(1e-9, 1 - 1e-9)  # the ends themselves are 0 / 0
        t = process.schedule.level(1 - u**power)
        weight = power * u ** (power - 1) / -process.schedule.dalpha(t)
        return Sample(process.corrupt(clean, t, editable, draws), t, weight)

    return draw


def by_step(num_steps: int) -> Estimator:
    """The discrete bound of a sampler with `num_steps` equal steps: one step drawn, its KL times the number of steps.

    One step is the always-masked bound: sum_i -log p(x_i | nothing else of its block).
    """
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; it must be at least 1")

    def draw(process: NoiseProcess, clean: Tokens, editable: Where, u: Tensor, block: Tensor, draws: Draws) -> Sample:
        t = ((u * num_steps).floor() + 1) / num_steps
        return Sample(process.corrupt(clean, t, editable, draws), t, torch.full_like(t, num_steps))

    def score(
        process: NoiseProcess, log_probs: Tensor, clean: Tokens, noisy: Tokens, t: Level, prediction: Prediction
    ) -> Tensor:
        s = ((t * num_steps).round() - 1) / num_steps
        return process.nelbo(log_probs, clean, noisy, t, s, prediction)

    return Estimator(f"drawn steps of {num_steps}", draw, score)


def by_count() -> Estimator:
    """LLaDA's (arXiv 2502.09992): of a block's n editable positions mask k ~ U{1..n}, cross-entropy times n / k.

    The bound of any-order AR, and the masked bound of every schedule where the prediction ignores the level (it is told
    the one at which k are masked on average). Absorbing noise only. A single editable position needs one sample.
    """

    def draw(process: NoiseProcess, clean: Tokens, editable: Where, u: Tensor, block: Tensor, draws: Draws) -> Sample:
        if process.support or process.mask_id is None:
            raise ValueError("counting masks needs absorbing noise; this process draws random ids")
        index = block.expand_as(clean)
        n = torch.zeros_like(u).scatter_add_(1, index, editable.to(u.dtype)).gather(1, index)
        k = (u * n).floor() + 1
        key = index * 4 + 2 * ~editable + draws.uniform("order", torch.arange(clean.shape[1]))  # editable first
        first = torch.searchsorted(block, block)  # where each position's block starts
        gone = editable & (key.argsort(-1).argsort(-1) - first < k)
        weight = torch.where(editable, n / k, 0.0)
        noisy = clean.masked_fill(gone, process.mask_id)
        return Sample(noisy, process.schedule.level(1 - k / n.clamp(min=1)), weight)

    def score(
        process: NoiseProcess, log_probs: Tensor, clean: Tokens, noisy: Tokens, t: Level, prediction: Prediction
    ) -> Tensor:
        return -log_probs.gather(-1, clean[..., None])[..., 0]  # asked at masks only, as every score under masks is

    return Estimator("drawn mask counts", draw, score)


@torch.no_grad()
def likelihood(
    process: NoiseProcess,
    predict: Predict,
    clean: Tokens,
    editable: Where,
    count: int,
    draws: Draws,
    *,
    estimator: Estimator | None = None,
    size: int | None = None,
    groups: int | None = None,
    rows_at_once: int = 16,
    prediction: Prediction = "full",
) -> Bound:
    """The bound on -log p of the `editable` positions, given the others, from `count` noisy texts a row of `clean` `[B, L]`.

    estimator: `by_level()` unless given.
    size: one level for each block of so many positions (block diffusion, arXiv 2503.09573), else one for the row; that a
        block sees the clean text before it and nothing after it is up to `predict` (`two_stream`).
    groups: independent groups of count / groups strata each; default 8, or the largest divisor of `count` below; as many
        groups as samples draws levels independently.
    rows_at_once: noisy texts of one call of `predict`; the result does not depend on it.
    prediction: what `predict` gives; UDLM, Duo and GIDD train the leave-one-out form.

    Raises ValueError for shapes that differ, fewer than 2 groups, groups that do not divide `count`, a bad size.
    """
    estimator = by_level() if estimator is None else estimator
    rows, length = clean.shape
    if editable.shape != clean.shape:
        raise ValueError(f"editable has shape {tuple(editable.shape)}; expected that of clean, {tuple(clean.shape)}")
    if draws.seed.shape[0] != rows:
        raise ValueError(f"draws are for {draws.seed.shape[0]} rows; clean has {rows}")
    if rows_at_once < 1 or (size is not None and size < 1):
        raise ValueError(f"rows_at_once is {rows_at_once} and size is {size}; both must be at least 1")
    if groups is None:
        groups = next((g for g in range(min(8, count), 1, -1) if count % g == 0), count)
    if groups < 2 or count % groups:
        raise ValueError(f"count {count} in {groups} groups; a standard error needs at least 2 groups of equal size")

    block = torch.arange(length) // (length if size is None else size)
    u = torch.cat([levels(draws.at(step=g), count // groups, int(block[-1]) + 1) for g in range(groups)], 1)
    u = u.flatten(0, 1)[:, block]  # [B * count, L]
    row, index = torch.arange(rows).repeat_interleave(count), torch.arange(count).repeat(rows)
    values = []
    for start in range(0, rows * count, rows_at_once):
        now = slice(start, start + rows_at_once)
        text, where = clean[row[now]], editable[row[now]]
        sample = estimator.draw(process, text, where, u[now], block, draws.rows(row[now]).at(step=index[now]))
        logits = predict(sample.noisy, text, sample.t)
        values.append(_score(process, estimator, logits, text, where, sample, prediction).sum(-1))
    means = torch.cat(values).reshape(rows, groups, -1).mean(-1)
    blocks = "" if size is None else f", a level for each block of {size}"
    name = f"{estimator.name}{blocks}, {groups} groups of {count // groups} strata"
    return Bound(means.mean(-1), means.std(-1) / groups**0.5, name, groups)


def _score(
    process: NoiseProcess, estimator: Estimator, logits: Logits, clean: Tokens, editable: Where, sample: Sample,
    prediction: Prediction,
) -> Tensor:  # fmt: skip
    """Weighted integrands, float64 `[B, L]`, computed only where they can differ from 0, a slice at a time."""
    looks_noisy = process.looks_noisy(sample.noisy)
    needed = editable if looks_noisy is None else editable & looks_noisy  # a visible token under masks is certain
    out = torch.zeros_like(sample.weight)
    places, most = needed.nonzero(), max(1, _CHUNK // process.vocab_size)
    for start in range(0, len(places), most):
        b, i = places[start : start + most].unbind(-1)
        log_probs = legal(process, logits[b, i][None]).log_softmax(-1)
        x, z, t = (value[b, i][None].to(logits.device) for value in (clean, sample.noisy, sample.t))
        out[b, i] = sample.weight[b, i] * estimator.score(process, log_probs, x, z, t, prediction)[0].to(out.device)
    return out


def legal(process: NoiseProcess, logits: Logits) -> Logits:
    """The mask is never a clean token (SUBS, arXiv 2406.07524)."""
    logits = logits.to(torch.float64).clone()
    if process.mask_id is not None:
        logits[..., process.mask_id] = -torch.inf
    return logits


def whole_text(denoiser: Denoiser, visible: Visibility | None = None) -> Predict:
    """A network that sees the whole noisy text at once (one canvas from position 0)."""

    def predict(noisy: Tokens, clean: Tokens, t: Level) -> Logits:
        noisy = noisy.to(denoiser.embedding.weight.device)
        position = torch.arange(noisy.shape[1], device=noisy.device).expand_as(noisy)
        return denoiser(noisy, Places.of(position, torch.full_like(position, CANVAS)), visible or full()).logits

    return predict


def two_stream(denoiser: Denoiser, size: int) -> Predict:
    """A network under the two-stream pass: canvases of `size` that read the clean text before them, in one forward.

    Where the weights are shifted, the clean stream speaks about the first place of every canvas, and nobody about the
    text's first token, which is given.
    """

    def predict(noisy: Tokens, clean: Tokens, t: Level) -> Logits:
        rows, length = noisy.shape
        place = torch.arange(length)
        if denoiser.shift:
            place = torch.where(place % size == 0, length + place - 1, place - 1)
            place[0] = 0
        want = place.expand(rows, -1)
        both = torch.cat((noisy, clean), 1).to(denoiser.embedding.weight.device)
        places = Places(*(x.to(both.device) for x in two_stream_places(length, size, rows)))
        return denoiser(both, places, context_causal(), want=want.to(both.device)).logits

    return predict


def autoregressive_nll(denoiser: Denoiser, tokens: Tokens) -> Tensor:
    """-log p(token | those before it) in nats: float32 `[B, L - 1]`, entry i about token i + 1 (the first is given)."""
    position = torch.arange(tokens.shape[1] - 1).expand(tokens.shape[0], -1)
    places = Places.of(position, torch.full_like(position, CLEAN))
    log_probs = denoiser(tokens[:, :-1], places, context_causal()).logits.float().log_softmax(-1)
    return -log_probs.gather(-1, tokens[:, 1:, None])[..., 0]
