"""PagedCache: a KVCache whose buffer grows by pages, so that a graph attends to little more than what is there.

keys of a layer   [B, K, S, H], S the longest row rounded up to whole pages      (what stands behind a row's end is masked)
a pass            reads them, and leaves its own keys and values in `fresh`; only `keep` copies them in
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from mezzotint.model.cache import KVCache
from mezzotint.model.config import ModelConfig
from mezzotint.model.visibility import CLEAN, Places

PAGE = 64  # positions


class Binder(Protocol):
    """A graph that is given tensors by name; `cache` remembers which buffer its keys and values are bound to."""

    cache: tuple[int, ...]

    def give(self, name: str, tensor: Tensor) -> None: ...


class PagedCache(KVCache):
    def __init__(self, config: ModelConfig, rows: int, capacity: int) -> None:
        super().__init__(config, rows, min(capacity, PAGE))
        self.capacity = capacity
        self.fresh: tuple[Tensor, Tensor] | None = None  # [N, B, K, T, H] of the pass that has just run
        self._grow(PAGE)

    @property
    def room(self) -> int:
        """Positions of the buffer."""
        return self.keys.shape[3]

    def _grow(self, positions: int) -> None:
        room = max(-(-positions // PAGE), 1) * PAGE
        if room <= self.room:
            return
        shape = (*self.keys.shape[:3], room, self.keys.shape[4])
        for name in ("keys", "values"):
            new = self.keys.new_zeros(shape)
            new[:, :, :, : self._longest] = getattr(self, name)[:, :, :, : self._longest]
            setattr(self, name, new)

    def bind(self, graph: Binder) -> None:
        """Give the graph this cache's keys and values, unless it has them already."""
        if (here := (self.keys.data_ptr(), self.values.data_ptr(), *self.keys.shape)) == graph.cache:
            return
        for layer in range(self.keys.shape[0]):
            graph.give(f"keys{layer}", self.keys[layer])
            graph.give(f"values{layer}", self.values[layer])
        graph.cache = here

    def filled(self) -> Tensor:
        """Which slots of the buffer hold something, bool `[B, S]`."""
        return torch.arange(self.room) < self.lengths[:, None]

    def slots(self, new: Places) -> Places:
        """The buffer as places of the same documents as `new`: `[B, S]`."""
        filled = self.filled()
        slot = torch.arange(self.room).expand(self.rows, -1)
        return Places(slot, torch.full_like(slot, CLEAN), slot, new.document[:, :1].expand_as(slot), filled)

    def keep(self, counts: Tensor | Sequence[int]) -> None:
        counts = torch.as_tensor(counts, dtype=torch.int64)
        assert self.fresh is not None, "nothing has been read"
        lengths = self.lengths + counts
        longest = int(lengths.max())
        if longest > self.capacity:
            raise ValueError(f"rows of length {lengths.tolist()} do not fit the cache of {self.capacity}")
        self._grow(longest)
        for row, (start, count) in enumerate(zip(self.lengths.tolist(), counts.tolist(), strict=True)):
            for buffer, new in zip((self.keys, self.values), self.fresh, strict=True):
                buffer[:, row, :, start : start + count] = new[:, row, :, :count]
        self._set(lengths)

    def fork(self, rows: Tensor | Sequence[int], length: int | None = None, capacity: int | None = None) -> KVCache:
        plain = super().fork(rows, length, self.room)
        new = object.__new__(PagedCache)
        new.__dict__.update(plain.__dict__)
        new.capacity = self.capacity if capacity is None else capacity
        new.fresh = None
        return new
