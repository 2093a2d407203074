"""The loss of a batch: cross-entropy at the positions that carry one, their logits never all in memory at once.

    hidden [N, D] -> for each chunk: logits [n, V] -> nats [n] and their slope [n, V] -> gradients [n, D] [V, D]

The slope of a cross-entropy, softmax(logits) - target, is known as soon as the logits are, and takes their place in memory;
what the head makes of it is left to autograd, so any head will do. Each chunk leaves its gradients behind, and nothing is
computed again in the backward pass. Softmax and sums are in float32.

The target is a token, or in part a teacher's law: (1 - share) CE(token) + share KL(teacher || own).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mezzotint.model.denoiser import Denoiser
from mezzotint.model.visibility import CLEAN, Visibility, context_causal
from mezzotint.shapes import Logits
from mezzotint.train.batch import Batch

CHUNK = 1024  # positions whose logits are in memory at once

Loss = Callable[[Denoiser, Batch], Tensor]  # a scalar: the mean over the batch, weighted by batch.weight


class _Chunked(torch.autograd.Function):
    """The sum of `score` over chunks of hidden `[N, D]`. speak(h, chunk) -> logits; score(logits, chunk) -> value, slope."""

    @staticmethod
    def forward(
        ctx: Any, speak: Callable[[Tensor, slice], Logits], score: Callable[[Logits, slice], tuple[Tensor, Tensor]],
        chunk: int, hidden: Tensor, *learnt: Tensor,
    ) -> Tensor:  # fmt: skip
        training, kind = any(ctx.needs_input_grad), hidden.device.type
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        grads = [torch.zeros_like(p) for p in (hidden, *learnt)] if training else []
        state = (torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        for begin in range(0, len(hidden), chunk):
            part = slice(begin, begin + chunk)
            h = hidden[part].detach().requires_grad_(training)
            # a cached cast would belong to the graph of the chunk before, which is gone
            with torch.set_grad_enabled(training), torch.autocast(kind, *state, cache_enabled=False):
                logits = speak(h, part)  # [n, V]
            with torch.no_grad(), torch.autocast(kind, *state, cache_enabled=False):
                value, slope = score(logits.detach().float(), part)
            total += value
            if training:
                found = torch.autograd.grad(logits, (h, *learnt), slope.to(logits.dtype), allow_unused=True)
                for into, more in zip((grads[0][part], *grads[1:]), found, strict=True):
                    if more is not None:
                        into += more
        ctx.save_for_backward(*grads)
        return total.float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Any, ...]:
        return None, None, None, *(grad * upstream[0] for grad in ctx.saved_tensors)


@torch.no_grad()
def _score(
    logits: Logits, target: Tensor, weight: Tensor, taught: tuple[Tensor, Logits] | None
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The weighted sum of nats, and its slope `[n, V]` in the memory of `logits`. target, weight `[n]`.

    taught: the teacher's share `[n]`, and its log-probabilities `[m, V]` where that is positive.
    """
    log_probs = logits.sub_(logits.logsumexp(-1, keepdim=True))
    nats = -log_probs.gather(-1, target[:, None])[:, 0]
    own = torch.ones_like(weight)  # what the token is of the target
    if taught is not None:
        share, law = taught
        where, own = (share > 0).nonzero()[:, 0], 1 - share
        gap = F.kl_div(log_probs[where], law, reduction="none", log_target=True).sum(-1)
        nats[where] = own[where] * nats[where] + share[where] * gap
    slope = log_probs.exp_().scatter_add_(-1, target[:, None], -own[:, None])
    if taught is not None:
        slope.index_add_(0, where, law.exp_().mul_(-share[where, None]))
    return (nats * weight).sum(dtype=torch.float64), slope.mul_(weight[:, None])


def weighted_nats(
    denoiser: Denoiser, hidden: Tensor, role: Tensor, target: Tensor, weight: Tensor, chunk: int = CHUNK,
    teacher: Tensor | None = None, share: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The sum over positions of weight times nats, a scalar. hidden, teacher `[N, D]`: normed states; the others `[N]`.

    teacher: states of the clean stream whose law is the target's `share`.
    """

    def speak(h: Tensor, part: slice) -> Logits:
        return denoiser.speak(h, role[part])

    def score(logits: Logits, part: slice) -> tuple[Tensor, Tensor]:
        taught = None
        if teacher is not None and share is not None:
            states = teacher[part][share[part] > 0]
            law = denoiser.speak(states, torch.full(states.shape[:1], CLEAN)).float().log_softmax(-1)
            taught = share[part], law
        return _score(logits, target[part], weight[part], taught)

    head = denoiser.embedding.weight if denoiser.head is None else denoiser.head.weight
    rows = None if denoiser.adapter is None else denoiser.adapter.control_out
    learnt = [p for p in (head, rows) if isinstance(p, Tensor) and p.requires_grad]
    return _Chunked.apply(speak, score, chunk, hidden, *learnt)  # type: ignore[no-untyped-call]  # torch's own


def loss_of(denoiser: Denoiser, batch: Batch, visible: Visibility | None = None, chunk: int = CHUNK) -> Tensor:
    """Weighted mean cross-entropy in nats, a scalar; of both streams, where a batch has both, in one pass.

    Positions of weight 0 are not computed. Raises ValueError for a batch with nothing to learn.
    """
    where = batch.weight != 0
    total = batch.weight.sum()
    if not total > 0:
        raise ValueError("a batch has no position with a loss")
    hidden = denoiser(
        batch.tokens, batch.places, visible or context_causal(), condition=batch.condition, logits=False
    ).hidden  # [B, T, D]
    nats = weighted_nats(
        denoiser, hidden[where], batch.places.role[where], batch.target[where], batch.weight[where], chunk
    )
    return nats / total
