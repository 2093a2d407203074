"""The loss of a batch: cross-entropy at the positions that carry one, their logits never all in memory at once.

    hidden [B, T, D] -> positions with weight [N, D] -> for each chunk: logits [n, V] -> nats [n], gradients [n, D] [V, D]

The gradient of a cross-entropy, softmax(logits) - target, is known as soon as the logits are, so each chunk leaves its
gradients behind instead of its logits: nothing is computed again in the backward pass. Softmax and sums are in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mezzotint.model.denoiser import Denoiser
from mezzotint.model.visibility import Visibility, context_causal
from mezzotint.train.batch import Batch

CHUNK = 1024  # positions whose logits are in memory at once

Loss = Callable[[Denoiser, Batch], Tensor]  # a scalar: the mean over the batch, weighted by batch.weight


class _ChunkedNats(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, target: Tensor, weight: Tensor, chunk: int) -> Tensor:
        training = any(ctx.needs_input_grad[:2])
        dtype = torch.get_autocast_dtype(hidden.device.type)
        low = dtype if torch.is_autocast_enabled(hidden.device.type) else hidden.dtype
        matrix = head.to(low)
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if training else None
        grad_head = torch.zeros_like(head, dtype=torch.float32) if training else None
        with torch.autocast(hidden.device.type, enabled=False):
            for begin in range(0, hidden.shape[0], chunk):
                piece = slice(begin, begin + chunk)
                h, t, w = hidden[piece].to(low), target[piece, None], weight[piece]
                logits = F.linear(h, matrix).float()  # [n, V]
                norm = logits.logsumexp(-1, keepdim=True)
                nats = (norm - logits.gather(-1, t))[:, 0]
                total += (nats * w).sum(dtype=torch.float64)
                if grad_hidden is None or grad_head is None:
                    continue
                slope = logits.sub_(norm).exp_()  # softmax, in the logits' own memory
                slope.scatter_add_(-1, t, torch.full_like(nats, -1.0)[:, None])
                slope = (slope * w[:, None]).to(low) if low != torch.float32 else slope.mul_(w[:, None])
                grad_hidden[piece] = (slope @ matrix).to(hidden.dtype)
                if low == torch.float32:
                    grad_head.addmm_(slope.T, h)
                else:
                    grad_head += slope.T @ h
        if grad_hidden is not None and grad_head is not None:
            ctx.save_for_backward(grad_hidden, grad_head.to(head.dtype))
        return total.float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_head = ctx.saved_tensors
        return grad_hidden * grads[0], grad_head * grads[0], None, None, None


def weighted_nats(
    denoiser: Denoiser, batch: Batch, visible: Visibility | None = None, chunk: int = CHUNK
) -> Tensor:  # fmt: skip
    """The sum over positions of weight times cross-entropy in nats, a scalar. Positions of weight 0 are not computed.

    Raises ValueError for a network with an adapter, whose head depends on the place: `adapt.py` has its losses.
    """
    if denoiser.adapter is not None:
        raise ValueError("this network has an adapter; its loss is adapt.CanvasLoss or adapt.two_stream_loss")
    hidden = denoiser(
        batch.tokens, batch.places, visible or context_causal(), condition=batch.condition, logits=False
    ).hidden  # [B, T, D]
    where = (batch.weight != 0).flatten().nonzero()[:, 0]  # [N]
    head = denoiser.embedding.weight if denoiser.head is None else denoiser.head.weight
    chosen = hidden.flatten(0, 1)[where]
    target, weight = batch.target.flatten()[where], batch.weight.flatten()[where]
    return _ChunkedNats.apply(chosen, head, target, weight, chunk)  # type: ignore[no-untyped-call]  # torch's own


def loss_of(denoiser: Denoiser, batch: Batch, visible: Visibility | None = None, chunk: int = CHUNK) -> Tensor:
    """Weighted mean cross-entropy in nats, a scalar. Raises ValueError for a batch with nothing to learn."""
    total = batch.weight.sum()
    if not total > 0:
        raise ValueError("a batch has no position with a loss")
    return weighted_nats(denoiser, batch, visible, chunk) / total
