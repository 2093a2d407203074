"""KVCache: what has been read, per row, in one static buffer a layer.

    row b   [ k_0 k_1 ... k_(n-1) | scratch: the places of the pass now running | free ]
              clean positions 0..n-1, n = lengths[b]

Every pass writes its keys and values into the scratch behind what is kept and attends to a slice of the buffer: nothing
is concatenated. `keep` then moves the border over the places that were clean and are to stay; the rest is overwritten by
the next pass. So storing nothing (a canvas pass), storing a prefix (partial acceptance) and taking back (`truncate`) are
the same operation: setting `lengths`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from mezzotint.model.condition import Condition
from mezzotint.model.config import ModelConfig
from mezzotint.model.visibility import CLEAN, Places

PIECE = 512  # positions of a long text that one pass reads


class KVCache:
    """Keys and values of `rows` texts. `lengths` int64 `[B]` on the CPU: clean positions kept, a row each.

    `conditions`: what each row follows, for networks that know conditions; None is the null for all.
    """

    def __init__(
        self,
        config: ModelConfig,
        rows: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:
        """`capacity`: places a row can hold, scratch included; more than the model's max_length is allowed, because a pass
        may hold a position several times (one canvas for each outcome of a draft). Raises ValueError below 1."""
        if capacity < 1:
            raise ValueError(f"cache capacity is {capacity}; it must be at least 1")
        self.capacity = capacity
        self.lengths = torch.zeros(rows, dtype=torch.int64)
        heads, size = config.cached
        shape = (config.num_layers, rows, heads, capacity, size)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.conditions: tuple[Condition, ...] | None = None
        self.text: list[list[int]] = [[] for _ in range(rows)]  # ids, for networks that read text again (`stale.py`)
        self.began = [0] * rows  # how long the text was that was read first, for the same
        self.ahead: Tensor | None = None  # [B, V]: causal logits about position lengths[b], set by Denoiser.read
        self._longest = 0  # of lengths: asked for once a layer, so counted once a pass
        self._even = True  # all rows have the same length: slices instead of scatters

    @property
    def rows(self) -> int:
        return self.lengths.shape[0]

    def view(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put k, v `[B, K, T, H]` into the scratch; -> keys and values `[B, K, S, H]`, S = longest row + T."""
        count, longest = k.shape[2], self._longest
        if longest + count > self.capacity:
            raise ValueError(f"a pass over {count} positions after {longest} does not fit the cache of {self.capacity}")
        keys, values = self.keys[layer], self.values[layer]
        if k.shape[1] * k.shape[3] != keys.shape[1] * keys.shape[3]:  # a layer smaller than the largest
            keys, values = keys[:, : k.shape[1], :, : k.shape[3]], values[:, : k.shape[1], :, : k.shape[3]]
        if self._even:
            keys[:, :, longest : longest + count] = k
            values[:, :, longest : longest + count] = v
        else:
            row = torch.arange(self.rows, device=k.device)[:, None]
            slot = self.lengths.to(k.device)[:, None] + torch.arange(count, device=k.device)
            keys[row, :, slot] = k.transpose(1, 2)
            values[row, :, slot] = v.transpose(1, 2)
        return keys[:, :, : longest + count], values[:, :, : longest + count]

    def places(self, new: Places) -> Places:
        """Places of what `view` returns, for a pass over `new` `[B, T]`: cached, then scratch, then nothing. -> `[B, S]`"""
        count = new.position.shape[1]
        device = new.position.device
        slot = torch.arange(self._longest + count, device=device).expand(self.rows, -1)
        cached = slot < self.lengths.to(device)[:, None]
        index = slot - self.lengths.to(device)[:, None]
        source = index.clamp(0, count - 1)
        gathered = Places(*(x.gather(1, source) for x in new))
        document = new.document[:, :1].expand_as(slot)
        return Places(
            torch.where(cached, slot, gathered.position),
            torch.where(cached, CLEAN, gathered.role),
            torch.where(cached, slot, gathered.start),
            torch.where(cached, document, gathered.document),
            cached | (gathered.valid & (index < count)),
        )

    def keep(self, counts: Tensor | Sequence[int]) -> None:
        """Keep the first `counts[b]` places of the pass that has just run (append of different counts)."""
        self._set(self.lengths + torch.as_tensor(counts, dtype=torch.int64))

    def truncate(self, lengths: Tensor | Sequence[int]) -> None:
        """Take rows back to the given lengths. Raises ValueError for a length that a row does not have."""
        lengths = torch.as_tensor(lengths, dtype=torch.int64).expand_as(self.lengths)
        if bool(((lengths < 0) | (lengths > self.lengths)).any()):
            raise ValueError(f"cannot truncate rows of length {self.lengths.tolist()} to {lengths.tolist()}")
        if not torch.equal(lengths, self.lengths):
            self.ahead = None  # it was about a position that is no longer next
        if any(self.text):
            self.text = [ids[:n] for ids, n in zip(self.text, lengths.tolist(), strict=True)]
        self._set(lengths.clone())

    def rewind(self, lengths: Tensor) -> None:
        """Move the border without a claim about what lies before it (`stale.py` keeps account of that)."""
        self._set(lengths.clone())

    def fork(self, rows: Tensor | Sequence[int], length: int | None = None, capacity: int | None = None) -> KVCache:
        """A new cache whose row i is a copy of row `rows[i]`: reorder, drop or repeat.

        length: keep at most so many positions of each; capacity: another than this one's.
        """
        index = torch.as_tensor(rows, dtype=torch.int64)
        new = object.__new__(KVCache)
        new.capacity = self.capacity if capacity is None else capacity
        lengths = self.lengths[index] if length is None else self.lengths[index].clamp(max=length)
        shape = list(self.keys.shape)
        shape[1], shape[3] = len(index), new.capacity
        longest = int(lengths.max())
        new.keys, new.values = self.keys.new_zeros(shape), self.values.new_zeros(shape)
        new.keys[:, :, :, :longest] = self.keys[:, index, :, :longest]
        new.values[:, :, :, :longest] = self.values[:, index, :, :longest]
        same = torch.equal(lengths, self.lengths[index])
        new.conditions = None if self.conditions is None else tuple(self.conditions[i] for i in index.tolist())
        new.ahead = self.ahead[index] if same and self.ahead is not None else None
        new.text = [self.text[i][:n] for i, n in zip(index.tolist(), lengths.tolist(), strict=True)]
        new.began = [self.began[i] for i in index.tolist()]
        new._set(lengths)
        return new

    def _set(self, lengths: Tensor) -> None:
        longest = int(lengths.max())
        if longest > self.capacity:
            raise ValueError(f"rows of length {lengths.tolist()} do not fit the cache of {self.capacity}")
        self.lengths, self._longest = lengths, longest
        self._even = bool((lengths == lengths[0]).all())


class Recorded:
    """Clean text read once, without gradient, for canvases that are trained on it: nothing is ever written into it.

    rows: which row of the cache each row of a canvas pass reads, so that several canvases share one text.
    """

    def __init__(self, cache: KVCache, places: Places, rows: Tensor | None = None) -> None:
        """`cache`: after a pass over `places` `[B, S]`, which had it to itself."""
        index = torch.arange(cache.rows) if rows is None else rows
        length = places.position.shape[1]
        self.keys = cache.keys[:, :, :, :length].index_select(1, index.to(cache.keys.device))
        self.values = cache.values[:, :, :, :length].index_select(1, index.to(cache.keys.device))
        self.read = Places(*(x[index.to(x.device)] for x in places))

    def of(self, rows: Tensor) -> Recorded:
        """What these rows read; bool `[B]` or indices."""
        new = copy.copy(self)
        new.keys, new.values, new.read = self.keys[:, rows], self.values[:, rows], Places(*(x[rows] for x in self.read))
        return new

    def view(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v `[B, K, T, H]` of a pass -> keys and values `[B, K, S + T, H]`; gradients reach k and v alone."""
        keys, values = self.keys[layer].to(k.dtype), self.values[layer].to(v.dtype)
        return torch.cat((keys, k), 2), torch.cat((values, v), 2)

    def places(self, new: Places) -> Places:
        return self.read.cat(new)
