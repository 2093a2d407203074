"""Lanes: the keys and values of texts that come and go, and one pass over places of many texts at once.

    lane      [ shared segment | shared segment | own: kept, scratch ]      one text, positions 0, 1, 2, ...
    pass      [ places of lane a | of lane b | of lane c ]                  as long as they are together: no padding
    linears   over all places of the pass at once; attention for each lane over its own text

- A segment that several lanes read, or that is remembered for texts to come, is never written again. A text that departs
  from it reads the part in common and writes what follows into a segment of its own.
- A lane's scratch is the place of the pass now running, as in `KVCache`: what is kept is decided after it.
- No number of one lane enters another's: neighbours change a text by rounding alone, and a lane of NaNs stays alone.

This is the whole interface between the scheduler and a network (`Network`): it makes segments, and it runs a pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mezzotint.model.condition import Condition
from mezzotint.model.config import ModelConfig
from mezzotint.model.visibility import Places
from mezzotint.shapes import Logits


class Segment:
    """Keys and values `[layers, K, capacity, H]` of consecutive positions. users: lanes and memories that hold it."""

    def __init__(self, config: ModelConfig, capacity: int, dtype: torch.dtype, device: torch.device | str) -> None:
        shape = (config.num_layers, config.num_kv_heads, capacity, config.head_size)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.users = 0

    @property
    def capacity(self) -> int:
        return self.keys.shape[2]

    @property
    def bytes(self) -> int:
        return 2 * self.keys.numel() * self.keys.element_size()

    def copy(self, source: Segment, count: int) -> None:
        """The first `count` positions of another."""
        self.keys[:, :, :count] = source.keys[:, :, :count]
        self.values[:, :, :count] = source.values[:, :, :count]


Path = list[tuple[Segment, int]]  # segments one behind the other, and how many positions of each are read


class Lane:
    """One text: ids that are in `shared` and in the first `kept` positions of `own`. ahead `[V]`: logits about the next."""

    def __init__(self, condition: Condition | None = None) -> None:
        self.ids: list[int] = []
        self.shared: Path = []
        self.own: Segment | None = None
        self.after: Segment | None = None  # becomes `own` when a prompt has been read into the present one
        self.kept = 0
        self.ahead: Tensor | None = None
        self.condition = condition

    @property
    def length(self) -> int:
        return len(self.ids)

    def keep(self, ids: Sequence[int]) -> None:
        """Keep the first places of the pass that has just run; they hold these ids."""
        self.ids += ids
        self.kept += len(ids)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None) -> Tensor:
        """q `[T, Q, H]` over this text and the new k, v `[T, K, H]`, which go into the scratch -> `[T, Q, H]`.

        hidden bool `[T, T]`: which of the new places a new place does not see; what is kept is seen by all.
        """
        assert self.own is not None, "a pass without room"
        count, heads, size = q.shape
        kv_heads, group, end = k.shape[1], heads // k.shape[1], self.kept + k.shape[0]
        self.own.keys[layer, :, self.kept : end] = k.transpose(0, 1)
        self.own.values[layer, :, self.kept : end] = v.transpose(0, 1)
        path = [*self.shared, (self.own, end)]
        q = q.view(count, kv_heads, group, size).permute(1, 2, 0, 3).reshape(kv_heads, group * count, size) * size**-0.5
        scores = [torch.bmm(q, segment.keys[layer, :, :length].transpose(1, 2)) for segment, length in path]
        if hidden is not None:
            new = scores[-1][:, :, -count:].view(kv_heads, group, count, count)
            new.masked_fill_(hidden, -torch.inf)
        # float32: in bfloat16 the sum of a long row of exponentials loses its small terms
        law = torch.cat(scores, -1).softmax(-1, dtype=torch.float32).to(v.dtype)  # [K, G T, S]
        mixed, at = q.new_zeros(q.shape), 0
        for segment, length in path:
            mixed.baddbmm_(law[:, :, at : at + length], segment.values[layer, :, :length])
            at += length
        return mixed.view(kv_heads, group, count, size).permute(2, 0, 1, 3).reshape(count, heads, size)


class Part(NamedTuple):
    """What one text has in a pass: T places, in the order in which they would be kept.

    tokens int64 `[T]`; places: each `[T]`; hidden bool `[T, T]`, None where all see all; want int64 `[W]`: places whose
    answer is asked for; feedback `[T, D]`, None for zeros.
    """

    lane: Lane
    tokens: Tensor
    places: Places
    hidden: Tensor | None
    want: Tensor
    feedback: Tensor | None = None


class Ragged:
    """A pass over N places of several lanes. places: each `[1, N]`; want int64 `[W]` into N; row int64 `[N]`: whose it is."""

    def __init__(self, parts: Sequence[Part], device: torch.device | str = "cpu") -> None:
        self.parts = parts
        counts = [len(part.tokens) for part in parts]
        starts = [sum(counts[:number]) for number in range(len(counts))]
        self.tokens = torch.cat([part.tokens for part in parts]).to(device)
        joined = zip(*(part.places for part in parts), strict=True)
        self.places = Places(*(torch.cat(field)[None].to(device) for field in joined))
        wanted = [part.want + start for part, start in zip(parts, starts, strict=True)]
        self.want = torch.cat(wanted).to(device)
        self.wants = [len(want) for want in wanted]
        self.row = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor(counts)).to(device)
        self.conditions = [part.lane.condition or Condition() for part in parts]
        self.feedback: Tensor | None = None
        given = next((part.feedback for part in parts if part.feedback is not None), None)
        if given is not None:
            heard = [
                given.new_zeros(count, given.shape[-1]) if part.feedback is None else part.feedback
                for part, count in zip(parts, counts, strict=True)
            ]
            self.feedback = torch.cat(heard)[None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q `[N, Q, H]`, k and v `[N, K, H]` -> `[N, Q, H]`, every lane by itself."""
        counts = [len(part.tokens) for part in self.parts]
        pieces = zip(self.parts, *(torch.split(x, counts) for x in (q, k, v)), strict=True)
        return torch.cat([part.lane.attend(layer, qs, ks, vs, part.hidden) for part, qs, ks, vs in pieces])


class Said(NamedTuple):
    """Answers at the wanted places of a pass, in order: logits `[W, V]`, states after the final norm `[W, D]`."""

    logits: Logits
    hidden: Tensor


class Network(Protocol):
    """All that the scheduler asks of a network. `Denoiser` is one; a runtime with other kernels is another.

    `run` writes each layer's keys and values into the scratch of the pass's lanes (`Ragged.attend` does both that and the
    attention) and keeps nothing. Which weights a place takes is told by its role: clean, or canvas. Raises ValueError for
    places beyond `max_length` and for conditions or feedback that it does not know. `encode_feedback`: what a
    self-conditioned network hears `[..., D]` of what it said `[..., V]`; None if it does not listen.
    """

    @property
    def config(self) -> ModelConfig: ...
    @property
    def shift(self) -> int: ...
    def segment(self, capacity: int) -> Segment: ...
    def run(self, batch: Ragged) -> Said: ...
    def encode_feedback(self, logits: Logits) -> Tensor | None: ...
