"""PagedCache: a KVCache whose buffer grows by pages, so that a graph attends to little more than what is there.

keys of a layer   [B, K, S, H], S whole pages      what stands behind a row's end is masked
a pass            writes its places behind that end, in the same memory, as `KVCache` says
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mezzotint.model.cache import KVCache
from mezzotint.model.config import ModelConfig

PAGE = 64  # positions


class PagedCache(KVCache):
    def __init__(self, config: ModelConfig, rows: int, capacity: int) -> None:
        super().__init__(config, rows, min(capacity, PAGE))
        self.capacity = capacity
        self.make_room(PAGE)

    @property
    def room(self) -> int:
        """Positions of the buffer, S."""
        return self.keys.shape[3]

    def make_room(self, positions: int) -> None:
        """For so many in all. What has been read stays."""
        room = max(-(-positions // PAGE), 1) * PAGE
        if room <= self.room:
            return
        shape = (*self.keys.shape[:3], room, self.keys.shape[4])
        for name in ("keys", "values"):
            new = self.keys.new_zeros(shape)
            new[:, :, :, : self._longest] = getattr(self, name)[:, :, :, : self._longest]
            setattr(self, name, new)

    def slots(self, count: int) -> Tensor:
        """Where the next `count` places of each row go: (row, head, slot), `[B, K, count, 3]`. Raises ValueError for too many."""
        if self._longest + count > self.capacity:
            raise ValueError(
                f"a pass over {count} positions after {self._longest} does not fit the cache of {self.capacity}"
            )
        self.make_room(self._longest + count)
        shape = (self.rows, self.keys.shape[2], count)
        slot = self.lengths[:, None, None] + torch.arange(count)
        places = (torch.arange(self.rows)[:, None, None], torch.arange(shape[1])[:, None], slot)
        return torch.stack([part.expand(shape) for part in places], -1)

    def fork(self, rows: Tensor | Sequence[int], length: int | None = None, capacity: int | None = None) -> KVCache:
        plain = super().fork(rows, length, self.room)
        new = object.__new__(PagedCache)
        new.__dict__.update(plain.__dict__)
        new.capacity = self.capacity if capacity is None else capacity
        return new
