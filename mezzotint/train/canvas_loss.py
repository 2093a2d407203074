"""The loss that a frozen base teaches a canvas by, and what held-out text costs.

    clean     the  cat  sat  on   mat        read once, without gradient: what canvases see, and what teaches them
    canvas    the  [M] | [M]  on | mat       one pass over all blocks, which learns

- The teacher: where nothing right of a mask is visible in its block, the text to the left is all that a canvas can know of
  it, so the causal law given that text, hidden parts included, has the right mean and less variance than its one sample,
  the token. The loss is (1 - teach) CE(token) + teach KL(causal || canvas) there, and CE elsewhere.
- Own errors: some masks are first filled by the network's own samples (MTF, LLaDA2.1), which it then sees as text.

Where the clean stream learns too, the loss is `loss.loss_of`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mezzotint.draws import Draws, categorical
from mezzotint.model.cache import Recorded
from mezzotint.model.denoiser import Denoiser
from mezzotint.model.visibility import CANVAS, Places, context_causal
from mezzotint.shapes import Tokens, Where
from mezzotint.train.batch import Batch
from mezzotint.train.canvases import Example, Ids, Stage, columns, text_batch
from mezzotint.train.loss import loss_of, weighted_nats


@dataclass(frozen=True)
class CanvasLoss:
    """The loss of the canvas columns of a batch, for a base that stays as it is: mean over the weights, in nats.

    teach: share of the causal law in what is learnt where it is exact. own: share of rows in which half of the masks first
    become the network's own samples. confidence: weight of the head that says whether such a sample is right (PRISM's
    binary cross-entropy). keep: factor for own samples that are right. chunk: positions whose logits are in memory at once.
    Same clean columns in neighbouring rows are read once. The causal loss, if the batch has one, is not computed.
    """

    mask_id: int
    teach: float = 0.5
    own: float = 0.0
    confidence: float = 0.0
    keep: float = 0.1
    chunk: int = 512

    def __post_init__(self) -> None:
        for name in ("teach", "own", "keep"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"{name} is {value}; it must lie between 0 and 1")

    def __call__(self, denoiser: Denoiser, batch: Batch) -> Tensor:
        """Raises ValueError for a batch whose canvas columns have nothing to learn."""
        width = int((batch.places.role[0] == CANVAS).sum())
        canvas, clean = columns(batch, slice(0, width)), columns(batch, slice(width, None))
        total = canvas.weight.sum()
        if not total > 0:
            raise ValueError("a batch has no position with a loss")
        recorded, law, row = self._read(denoiser, clean)
        tokens, weight = canvas.tokens, canvas.weight
        filled = torch.zeros_like(canvas.places.valid)
        if self.own:
            tokens, weight, filled = self._own(denoiser, canvas, recorded)
        x = denoiser.states(tokens, canvas.places, context_causal(), recorded)
        where = weight > 0
        b, c = where.nonzero().unbind(-1)
        # the column of the clean row that speaks about the same position
        column = canvas.places.position[b, c] + denoiser.shift - 1
        exact = self._exact(denoiser, canvas, clean, tokens)[b, c]
        teacher = law[row[b], column.clamp(0, law.shape[1] - 1)] if self.teach else None
        nats = weighted_nats(
            denoiser, denoiser.norm(x[where]), canvas.places.role[where], canvas.target[where], weight[where], self.chunk,
            teacher, self.teach * exact,
        )  # fmt: skip
        if self.confidence and bool(filled.any()):
            assert denoiser.adapter is not None and denoiser.adapter.confidence is not None
            right = (tokens == self._own_target(denoiser, canvas))[filled].float()
            said = denoiser.adapter.confidence(denoiser.norm(x[filled]))[:, 0]
            nats = nats + self.confidence * F.binary_cross_entropy_with_logits(said.float(), right, reduction="sum")
        return nats / total

    @torch.no_grad()
    def _read(self, denoiser: Denoiser, clean: Batch) -> tuple[Recorded, Tensor, Tensor]:
        """The clean stream, each text once: keys and values, normed states `[U, L, D]`, and which text each row has `[B]`."""
        same = (clean.tokens[1:] == clean.tokens[:-1]).all(-1)
        same &= (clean.places.valid[1:] == clean.places.valid[:-1]).all(-1)
        first = F.pad(~same, (1, 0), value=True)
        places = Places(*(x[first] for x in clean.places))
        cache = denoiser.new_cache(int(first.sum()), clean.tokens.shape[1])
        states = denoiser.states(clean.tokens[first], places, context_causal(), cache)
        row = first.cumsum(0) - 1
        return Recorded(cache, places, row), denoiser.norm(states), row

    def _exact(self, denoiser: Denoiser, canvas: Batch, clean: Batch, tokens: Tokens) -> Where:
        """Rows about a mask with nothing visible right of it in its block, whose token stands in the clean text."""
        start, valid, shift = canvas.places.start, canvas.places.valid, denoiser.shift
        masked = valid & (tokens == self.mask_id)
        index = torch.arange(tokens.shape[1], device=tokens.device)
        seen = torch.where(valid & ~masked, index, -1)
        last = torch.full((len(tokens), int(start.max()) + 1), -1, device=tokens.device)
        last = last.scatter_reduce(1, start, seen, "amax").gather(1, start)  # last visible place of the block
        exact = masked & (index > last)
        if shift:
            exact = exact.roll(-1, 1)
        about = canvas.places.position + shift
        inside = (about >= 1) & (about < clean.tokens.shape[1])
        at = about.clamp(0, clean.tokens.shape[1] - 1)
        spoken = clean.places.valid.gather(1, at) & (clean.tokens.gather(1, at) == canvas.target)
        return exact & inside & spoken

    def _own_target(self, denoiser: Denoiser, canvas: Batch) -> Tokens:
        """What should stand at each place (not what its row speaks about)."""
        return canvas.target.roll(denoiser.shift, 1)

    @torch.no_grad()
    def _own(self, denoiser: Denoiser, canvas: Batch, recorded: Recorded) -> tuple[Tokens, Tensor, Where]:
        """Tokens with own samples in place of some masks, weights, and where. The batch itself is the seed."""
        shift, tokens = denoiser.shift, canvas.tokens
        draws = Draws.of(tokens.sum(-1).cpu())
        place = torch.arange(tokens.shape[1])
        chosen = draws.uniform("own rows", place[:1]) < self.own
        fill = (chosen & (draws.uniform("own", place) < 0.5)).to(tokens.device)
        spoken = F.pad(canvas.weight, (shift, 0))[:, : tokens.shape[1]] > 0  # some row speaks about this place
        fill &= canvas.places.valid & (tokens == self.mask_id) & spoken
        if not bool(fill.any()):
            return tokens, canvas.weight, fill
        kind = tokens.device.type
        with torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), cache_enabled=False):
            x = denoiser.states(tokens, canvas.places, context_causal(), recorded)
            b, c = fill.nonzero().unbind(-1)
            said = []
            for piece in torch.split(torch.arange(len(b)), self.chunk):
                hidden = denoiser.norm(x[b[piece], c[piece] - shift])
                logits = denoiser.speak(hidden, torch.full(hidden.shape[:1], CANVAS, device=hidden.device)).float()
                logits[:, self.mask_id] = -torch.inf
                number = draws.uniform("own token", place)[b[piece].cpu(), c[piece].cpu()]
                said.append(categorical(logits.softmax(-1)[None], number[None].to(logits.device))[0])
        drafted = tokens.masked_scatter(fill, torch.cat(said))
        right = fill & (drafted == self._own_target(denoiser, canvas))
        easy = F.pad(right[:, shift:], (0, shift))  # by the row that speaks about it
        return drafted, torch.where(easy, self.keep * canvas.weight, canvas.weight), fill


# -- measuring ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def held_out_nats(
    denoiser: Denoiser, examples: Sequence[Example], ids: Ids, size: int, level: float, seed: int = 0, count: int = 8
) -> tuple[float, int]:
    """Mean cross-entropy in nats of masked canvas tokens at a level, the same masks at each call; and how many tokens."""
    stage = Stage(sizes={size: 1.0}, low=level, high=level, at_one=0.0, bias=0.0, keep=0.0, complement=False)
    loss, nats, tokens = CanvasLoss(ids.mask, teach=0.0), 0.0, 0.0
    order = sorted(examples, key=len)
    for begin in range(0, len(order), count):
        generator = torch.Generator().manual_seed((seed << 32) + begin)
        batch = text_batch(order[begin : begin + count], size, stage, ids, generator).to(
            denoiser.embedding.weight.device
        )
        if weight := float(batch.weight.sum()):
            nats += float(loss(denoiser, batch)) * weight
            tokens += weight
    if not tokens:
        raise ValueError("no held-out token is masked; give more text")
    return nats / tokens, int(tokens)


@torch.no_grad()
def causal_nats(denoiser: Denoiser, examples: Sequence[Example], ids: Ids, count: int = 8) -> float:
    """Mean cross-entropy in nats of the texts' tokens in the clean stream: what the AR model says of them."""
    nats, tokens = 0.0, 0.0
    for begin in range(0, len(examples), count):
        some = examples[begin : begin + count]
        batch = text_batch(some, 1, Stage(sizes={1: 1.0}, complement=False), ids, torch.Generator(), ar=1.0)
        width = int((batch.places.role[0] == CANVAS).sum())
        clean = columns(batch, slice(width, None)).to(denoiser.embedding.weight.device)
        if weight := float(clean.weight.sum()):
            nats += float(loss_of(denoiser, clean)) * weight
            tokens += weight
    return nats / tokens
