"""The loss that a frozen base teaches a canvas by, and what held-out text costs.

    clean     the  cat  sat  on   mat        read once, without gradient: what canvases see, and what teaches them
    canvas    the  [M] | [M]  on | mat       one pass over all blocks, which learns

- The teacher: where nothing right of a mask is visible in its block, the text to the left is all that a canvas can know of
  it, so the causal law given that text, hidden parts included, has the right mean and less variance than its one sample,
  the token. The loss is (1 - teach) CE(token) + teach KL(causal || canvas) there, and CE elsewhere.
- Own errors: some masks are first filled by the network's own samples (MTF, LLaDA2.1), which it then sees as text.
- Self-conditioning: some rows hear what a first pass, without gradient, says of them (analog bits, arXiv 2208.04202).

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
from mezzotint.model.visibility import CANVAS, CLEAN, Places, context_causal
from mezzotint.shapes import Tokens, Where
from mezzotint.train.batch import Batch
from mezzotint.train.canvases import Example, Ids, Stage, columns, text_batch
from mezzotint.train.loss import loss_of, weighted_nats


@dataclass(frozen=True)
class CanvasLoss:
    """The loss of the canvas columns of a batch, for a base that stays as it is: mean over the weights, in nats.

    teach: share of the causal law in what is learnt where it is exact. own: share of rows in which half of the masks first
    become the network's own samples. feedback: share of rows that hear themselves, for a network with self-conditioning.
    confidence: weight of the head that says whether such a sample is right (PRISM's binary cross-entropy). keep: factor for
    own samples that are right. chunk: positions whose logits are in memory at once.
    Same clean columns in neighbouring rows are read once. The causal loss, if the batch has one, is not computed.
    """

    mask_id: int
    teach: float = 0.5
    own: float = 0.0
    feedback: float = 0.0
    confidence: float = 0.0
    keep: float = 0.1
    chunk: int = 512

    def __post_init__(self) -> None:
        for name in ("teach", "own", "feedback", "keep"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"{name} is {value}; it must lie between 0 and 1")

    def __call__(self, denoiser: Denoiser, batch: Batch) -> Tensor:
        """Raises ValueError for a batch whose canvas columns have nothing to learn."""
        width = int((batch.places.role[0] == CANVAS).sum())
        canvas, clean = columns(batch, slice(0, width)), columns(batch, slice(width, None))
        total = canvas.weight.sum()
        if not total > 0:
            raise ValueError("a batch has no position with a loss")
        recorded, law, row = self.read(denoiser, clean)
        tokens, weight = canvas.tokens, canvas.weight
        filled = torch.zeros_like(canvas.places.valid)
        if self.own:
            tokens, weight, filled = self._own(denoiser, canvas, recorded)
        heard = self._hear(denoiser, tokens, canvas.places, recorded, law[row]) if self.feedback else None
        x = denoiser.states(tokens, canvas.places, context_causal(), recorded, feedback=heard)
        where = weight > 0
        b, c = where.nonzero().unbind(-1)
        # the column of the clean row that speaks about the same position
        column = canvas.places.position[b, c] + denoiser.shift - 1
        exact = self.exact(denoiser, canvas, clean, tokens)[b, c]
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
    def read(self, denoiser: Denoiser, clean: Batch) -> tuple[Recorded, Tensor, Tensor]:
        """The clean stream, each text once: keys and values, normed states `[U, L, D]`, and which text each row has `[B]`."""
        same = (clean.tokens[1:] == clean.tokens[:-1]).all(-1)
        same &= (clean.places.valid[1:] == clean.places.valid[:-1]).all(-1)
        first = F.pad(~same, (1, 0), value=True)
        places = Places(*(x[first] for x in clean.places))
        cache = denoiser.new_cache(int(first.sum()), clean.tokens.shape[1])
        states = denoiser.states(clean.tokens[first], places, context_causal(), cache)
        row = first.cumsum(0) - 1
        return Recorded(cache, places, row), denoiser.norm(states), row

    def exact(self, denoiser: Denoiser, canvas: Batch, clean: Batch, tokens: Tokens) -> Where:
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

    @torch.no_grad()
    def _hear(self, denoiser: Denoiser, tokens: Tokens, places: Places, recorded: Recorded, law: Tensor) -> Tensor:
        """Feedback `[B, C, D]`: what a pass over the chosen rows says, zeros in others. A row itself is its seed.

        law `[B, L, D]`: normed clean states. Raises ValueError for a network without self-conditioning.
        """
        if not denoiser.self_conditioned:
            raise ValueError(f"feedback is {self.feedback}, but this network declares no feedback")
        draws = Draws.of((tokens * places.valid).sum(-1).cpu())
        chosen = (draws.uniform("feedback", torch.zeros(1, dtype=torch.int64))[:, 0] < self.feedback).to(tokens.device)
        found = torch.zeros((*tokens.shape, law.shape[-1]), device=tokens.device)
        if bool(chosen.any()):
            some = Places(*(x[chosen] for x in places))
            with _no_cached_casts(tokens.device.type):
                states = denoiser.norm(denoiser.states(tokens[chosen], some, context_causal(), recorded.of(chosen)))
                found[chosen] = self._feedback(denoiser, states, some, law[chosen])
        return found

    def _feedback(self, denoiser: Denoiser, states: Tensor, places: Places, law: Tensor) -> Tensor:
        """Feedback about each place `[B, C, D]` of normed states that speak about the next one where weights are shifted.

        Then nobody in a block speaks about its first place: the clean stream `law` `[B, L, D]` does.
        """
        first = F.pad(places.start[:, 1:] != places.start[:, :-1], (1, 0), value=True) & (denoiser.shift == 1)
        before = (places.position - 1).clamp(0, law.shape[1] - 1)
        clean = law.gather(1, before[..., None].expand_as(states))
        about = torch.where(first[..., None], clean, states.roll(denoiser.shift, 1))
        role = torch.where(first, CLEAN, CANVAS)
        b, c = (places.valid & ~(first & (places.position == 0))).nonzero().unbind(-1)
        found = torch.zeros(states.shape, device=states.device)
        for i, j in zip(torch.split(b, self.chunk), torch.split(c, self.chunk), strict=True):
            logits = denoiser.speak(about[i, j], role[i, j]).float()
            logits[:, self.mask_id] = -torch.inf
            heard = denoiser.encode_feedback(logits)
            assert heard is not None
            found[i, j] = heard.float()
        return found

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
        with _no_cached_casts(tokens.device.type):
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


def _no_cached_casts(kind: str) -> torch.autocast:
    """Autocast as it is, for a pass without gradient, whose casts the pass with one must not find."""
    return torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), cache_enabled=False)


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
