"""Repair: a denoiser reads a finished text and overwrites the tokens it is sure are wrong.

    The cat sat an the mat.     one bidirectional pass: p(token | all the others and itself) at every place
                ^ p(an) = 0.01, p(on) = 0.97 > threshold: overwritten, then the text is read again

Needs weights trained on visible errors (hybrid or uniform noise): a purely masked model never learnt to doubt what it
sees. Length stays; this is token editing (LLaDA2.1, arXiv 2602.08676) that starts from a text of the user's.

An adapter's weights have a second opinion: the base's own causal law, which never sees the token it judges nor what is right
of it. The two are multiplied (a product of experts, Hinton 2002), the causal law to the power `causal`: each alone is wrong
where the other is not (measured by benchmarks/adapter.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mezzotint.edit.hunks import Edit
from mezzotint.edit.locks import Locks
from mezzotint.edit.passages import start_id
from mezzotint.edit.source import Change, Source
from mezzotint.engine.engine import Engine
from mezzotint.model.denoiser import Denoiser
from mezzotint.shapes import Tokens, Where

CAUSAL = 0.5  # power of the causal law, for weights under an adapter of the canvas


def doubts(
    denoiser: Denoiser,
    tokens: Tokens,
    valid: Where,
    banned: Sequence[int],
    before: Sequence[int] = (),
    causal: float = 0.0,
) -> tuple[Tensor, Tokens, Tensor]:
    """Doubt of each token, the likeliest token, and its probability: `[B, L]` each. valid False: padding.

    before: ids that every row stands behind; a shifted checkpoint needs one at least, and so does `causal`, the power of
    the causal law beside the canvas's. One call, two with `causal`.
    """
    rows, length = tokens.shape
    positions = len(before) + torch.arange(length).expand_as(tokens)
    cache = denoiser.new_cache(rows, len(before) + length)
    if before:
        denoiser.read(torch.tensor([before]).expand(rows, -1), torch.full((rows,), len(before)), cache)
    logits = denoiser.denoise(tokens, positions, valid, cache).to(torch.float64)
    if causal:
        first = cache.ahead
        assert first is not None, "nothing was read before"
        after = denoiser.read(tokens, valid.sum(-1), cache, every=True).logits
        law = torch.cat((first[:, None], after[:, :-1]), 1).log_softmax(-1)
        logits = logits.log_softmax(-1) + causal * law
    logits[..., list(banned)] = -torch.inf
    probs = logits.softmax(-1)
    best = probs.max(-1)
    return 1 - probs.gather(-1, tokens[..., None])[..., 0], best.indices, best.values


def repair_tokens(
    denoiser: Denoiser, tokens: Tokens, valid: Where, editable: Where, banned: Sequence[int],
    threshold: float = 0.9, max_steps: int = 8, before: Sequence[int] = (), causal: float = 0.0,
) -> tuple[Tokens, Tensor, Tensor]:  # fmt: skip
    """Overwrite until nothing changes: tokens `[B, L]`, confidence of each overwritten place (else nan), calls a row `[B]`.

    A place changes when another token is likelier than the present one and has more than `threshold`; of neighbours
    that want to change in one step only the surest does, since each was judged beside the other's error.
    """
    sure = torch.full(tokens.shape, float("nan"), dtype=torch.float64)
    calls = torch.zeros(len(tokens), dtype=torch.int64)
    running = torch.ones(len(tokens), dtype=torch.bool)
    for _ in range(max_steps):
        _, best, p = doubts(denoiser, tokens, valid, banned, before, causal)
        calls += running * (2 if causal else 1)
        wants = (best != tokens) & (p > threshold) & editable & valid & running[:, None]
        score = torch.where(wants, p, -1.0)
        left = torch.nn.functional.pad(score, (1, 0), value=-1.0)[:, :-1]
        right = torch.nn.functional.pad(score, (0, 1), value=-1.0)[:, 1:]
        change = wants & (score >= left) & (score > right)
        tokens, sure = torch.where(change, best, tokens), torch.where(change, p, sure)
        running = change.any(-1)
        if not bool(running.any()):
            break
    return tokens, sure, calls


def can_repair(engine: Engine) -> bool:
    """Has this checkpoint learnt to doubt visible tokens?"""
    facts = engine.checkpoint.facts
    return facts.trained_canvas and facts.noise != "absorbing"


def repair(
    engine: Engine, text: str, threshold: float = 0.9, locks: Sequence[tuple[int, int]] = (), max_steps: int = 8,
    causal: float | None = None,
) -> Edit:  # fmt: skip
    """Repair a text token by token; characters in `locks` (spans `start, end`) stay.

    causal: power of the weights' causal law beside the canvas's; None is `CAUSAL` where an adapter has left the clean stream
    as it was, and 0 for other weights. Raises ValueError for a checkpoint that has not learnt to denoise, a text beyond its
    context, a threshold outside 0..1, a causal below 0.
    """
    if not can_repair(engine):
        raise ValueError(
            f"{engine.checkpoint.name} has not learnt to doubt visible tokens; repair needs weights that have"
        )
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}; it must lie between 0 and 1")
    if causal is None:
        causal = 0.0 if engine.canvas_leads else CAUSAL
    if not causal >= 0:
        raise ValueError(f"causal is {causal}; it must be at least 0")
    before = [start_id(engine)] if engine.denoiser.shift or causal else []
    tokenizer, limit = engine.tokenizer, engine.denoiser.config.max_length - len(before)
    source = Source.of(text, Locks.of(text, locks), tokenizer)
    if not 1 <= len(source) <= limit:
        raise ValueError(f"the text has {len(source)} tokens; this model reads 1 to {limit} at a time")
    tokens, valid = torch.tensor([source.ids]), torch.ones(1, len(source), dtype=torch.bool)
    banned = sorted(tokenizer.specials.values())
    with torch.inference_mode():
        fixed, sure, calls = repair_tokens(
            engine.denoiser, tokens, valid, ~torch.tensor([source.locked]), banned, threshold, max_steps, before, causal
        )
    places = (fixed != tokens)[0].nonzero()[:, 0].tolist()
    changes = [Change(i, i + 1, [int(fixed[0, i])], float(sure[0, i])) for i in places]
    return Edit(text, source.hunks(changes, tokenizer), int(calls[0]), "repair")
