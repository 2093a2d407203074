"""The draft head learns from what a frozen network says: first much is read, then it is learnt in a mixed order.

    texts -> [ clean | canvases of noise ] -> lessons: state, tokens before, what the causal law says -> batches of all of them

A canvas that is all noise speaks as a draft does. Neighbouring places say nearly the same, so a step on one text is a poor
sample of all texts (tried: the loss rose); and reading costs most, so a lesson is worth several looks. What is compared
are the ids that the canvas or the law finds likeliest, since the head chooses among few (`Denoiser.redraft`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mezzotint.model.adapter import TOKENS_BEFORE
from mezzotint.model.denoiser import CANDIDATES, Denoiser
from mezzotint.model.visibility import CANVAS, CLEAN, context_causal
from mezzotint.shapes import Tokens
from mezzotint.train.batch import Batch
from mezzotint.train.canvas_loss import CanvasLoss
from mezzotint.train.canvases import columns

OF_LAW = 8  # ids of the causal law that are always compared
WARMUP = 50  # steps
CLIP = 1.0


class Lessons(NamedTuple):
    """What the head is asked at N places, and what it should say of the ids `among`."""

    hidden: Tensor  # [N, D] half precision, normed canvas states
    before: Tokens  # [N, 2], the last one first
    among: Tensor  # int32 [N, K]
    law: Tensor  # [N, K] half precision, log-probabilities, of these ids alone


@torch.no_grad()
def lessons(denoiser: Denoiser, batch: Batch, mask_id: int) -> Lessons:
    """Of every place of a batch whose causal law is exact: a mask with nothing visible right of it in its block."""
    width = int((batch.places.role[0] == CANVAS).sum())
    canvas, clean = columns(batch, slice(0, width)), columns(batch, slice(width, None))
    loss = CanvasLoss(mask_id)
    recorded, states, row = loss.read(denoiser, clean)
    hidden = denoiser.norm(denoiser.states(canvas.tokens, canvas.places, context_causal(), recorded))
    b, c = ((canvas.weight > 0) & loss.exact(denoiser, canvas, clean, canvas.tokens)).nonzero().unbind(-1)
    column = canvas.places.position[b, c] + denoiser.shift - 1  # of the clean row that speaks about the same position
    before = clean.tokens[b[:, None], (column[:, None] - torch.arange(TOKENS_BEFORE, device=b.device)).clamp(min=0)]
    hidden, states = hidden[b, c], states[row[b], column]
    law = denoiser.speak(states, torch.full_like(b, CLEAN)).float()
    said = denoiser.speak(hidden, torch.full_like(b, CANVAS)).float()
    law[:, mask_id] = said[:, mask_id] = -torch.inf
    count = min(CANDIDATES, law.shape[-1] - 1)  # the mask is none of them
    best = law.topk(min(OF_LAW, count), -1).indices
    likely = said.scatter(-1, best, -torch.inf).topk(count - best.shape[-1], -1).indices  # each id once
    among = torch.cat((best, likely), -1)
    return Lessons(hidden.half(), before, among.int(), law.gather(-1, among).log_softmax(-1).half())


def nats(denoiser: Denoiser, some: Lessons) -> Tensor:
    """KL(causal || draft head) `[N]`."""
    said = denoiser.draft_among(some.hidden.float(), some.before, some.among.long()).log_softmax(-1)
    return F.kl_div(said, some.law.float(), reduction="none", log_target=True).sum(-1)


def read_lessons(denoiser: Denoiser, batches: Iterable[Batch], mask_id: int, enough: Callable[[int], bool]) -> Lessons:
    """Lessons of batch after batch until there are enough. enough(places so far). Raises ValueError when there are none."""
    found: list[Lessons] = []
    places = 0
    for batch in batches:
        found.append(lessons(denoiser, batch.to(denoiser.embedding.weight.device), mask_id))
        places += len(found[-1].law)
        if enough(places):
            break
    if not places:
        raise ValueError("no text is long enough to learn drafting from")
    return Lessons(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def learn_drafts(
    denoiser: Denoiser, known: Lessons, passes: int, count: int, learning_rate: float, seed: int,
    report: Callable[[float, float], None] = lambda share, loss: None,
) -> list[float]:  # fmt: skip
    """AdamW over the head alone, `count` lessons a step, the rate falling to zero; -> the mean nats of each pass.

    report(share of the steps done, nats of the last). Raises ValueError for a network without a draft head, FloatingPointError.
    """
    if denoiser.adapter is None or denoiser.adapter.draft_head is None:
        raise ValueError("this checkpoint has no draft head to learn")
    head = denoiser.adapter.draft_head.requires_grad_(True)
    optimizer = torch.optim.AdamW(head.parameters(), learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    generator = torch.Generator().manual_seed(seed)
    count = min(count, len(known.law))
    steps = passes * (len(known.law) // count)
    means, step = [], 0
    for _ in range(passes):
        total = 0.0
        order = torch.randperm(len(known.law), generator=generator)[: steps // passes * count]
        for index in torch.split(order, count):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * min(1.0, (step + 1) / WARMUP) * (1 - step / steps)
            loss = nats(denoiser, Lessons(*(x[index] for x in known))).mean()
            if not bool(loss.isfinite()):
                raise FloatingPointError(f"the draft head's loss is {float(loss.detach())} at step {step}")
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own
            torch.nn.utils.clip_grad_norm_(head.parameters(), CLIP)
            optimizer.step()
            step, total = step + 1, total + float(loss.detach())
            report(step / steps, float(loss.detach()))
        means.append(total / (steps // passes))
    head.requires_grad_(False)
    return means
