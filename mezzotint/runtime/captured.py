"""CapturedDenoiser: a Denoiser on a GPU whose passes are replayed, not launched: one CUDA graph for each shape of pass.

    CPU   tokens, places, who sees whom          -> buffers that stay where they are
    GPU   embedding, blocks, norm, head          = a graph for each shape of pass, captured at its first use
    CPU   logits, float32                        <- samplers count, choose and keep account where they always do

A small model's pass is hundreds of kernels of a few microseconds: launched one by one, the processor is what one waits for.
A graph reads and writes the same memory whenever it is replayed, so keys and values lie in buffers that are lent to one
cache after another, and the cache's room is a power of two: few shapes. Without a GPU the same code runs its passes in the
same buffers, uncaptured, which is how it is tested.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mezzotint.model.adapter import Gate
from mezzotint.model.cache import KVCache
from mezzotint.model.condition import Conditions
from mezzotint.model.denoiser import Denoiser, Prediction
from mezzotint.model.layers import PLAIN
from mezzotint.model.visibility import CANVAS, CLEAN, Places, Visibility
from mezzotint.runtime.cache import PagedCache
from mezzotint.shapes import Logits, Tokens

SMALLEST = 256  # positions of a cache's room
CHUNK = 256  # positions of one pass, when a text is read
WARM_UPS = 2  # before a capture: libraries set themselves up at their first call


class _Room:
    """Keys and values of one cache, `[layers, B, K, S, H]` each, in memory that graphs know."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)


class _Rooms:
    """Lends rooms, one to a cache, and takes them back when the cache is gone."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self.free: dict[tuple[int, ...], list[_Room]] = {}

    def lend(self, shape: tuple[int, ...]) -> _Room:
        free = self.free.get(shape)
        return free.pop() if free else _Room(shape, self.dtype, self.device)

    def take_back(self, room: _Room) -> None:
        self.free.setdefault(tuple(room.keys.shape), []).append(room)


class _LentCache(PagedCache):
    """A `PagedCache` in a lent room, whose length is a power of two."""

    rooms: _Rooms
    lent: _Room
    back: Any  # the finalizer that gives the room back

    def __init__(self, denoiser: CapturedDenoiser, rows: int, capacity: int) -> None:
        c = denoiser.held
        self.rooms, self.capacity = denoiser.rooms, capacity
        heads, size = c.cached
        self._borrow((c.num_layers, rows, heads, SMALLEST, size))
        self.lengths = torch.zeros(rows, dtype=torch.int64)
        self.conditions, self.ahead = None, None
        self.text, self.began = [[] for _ in range(rows)], [0] * rows
        self._set(self.lengths)

    def _borrow(self, shape: tuple[int, ...]) -> None:
        self.lent = self.rooms.lend(shape)
        self.keys, self.values = self.lent.keys, self.lent.values
        self.back = weakref.finalize(self, self.rooms.take_back, self.lent)

    def make_room(self, positions: int) -> None:
        room = self.room
        while room < positions:
            room *= 2
        if room > self.room:
            old, back = self.lent, self.back
            shape = (*self.keys.shape[:3], room, self.keys.shape[4])
            self._borrow(shape)
            for name in ("keys", "values"):
                getattr(self.lent, name)[:, :, :, : self._longest] = getattr(old, name)[:, :, :, : self._longest]
            back()

    def fork(self, rows: Tensor | Sequence[int], length: int | None = None, capacity: int | None = None) -> KVCache:
        plain = KVCache.fork(self, rows, length, self.room)
        new = object.__new__(_LentCache)
        new.__dict__.update(plain.__dict__)
        new.rooms, new.capacity = self.rooms, self.capacity if capacity is None else capacity
        new._borrow(tuple(plain.keys.shape))
        new.keys.copy_(plain.keys)
        new.values.copy_(plain.values)
        return new


@dataclass
class _Pass:
    """Buffers of one shape of pass, and its graph once it is captured. seen bool `[B, T, S]`; slots int64 `[B, T]`."""

    tokens: Tensor
    position: Tensor
    role: Tensor
    slots: Tensor
    seen: Tensor
    want: Tensor
    logits: Tensor | None = None
    hidden: Tensor | None = None
    graph: Any = None

    def fill(self, *given: Tensor) -> None:
        for buffer, tensor in zip(
            (self.tokens, self.position, self.role, self.slots, self.seen, self.want), given, strict=True
        ):
            buffer.copy_(tensor, non_blocking=True)


class _Places:
    """A cache as a block sees it: the new keys go into their slots, and all of the room is looked at."""

    def __init__(self, room: _Room, slots: Tensor) -> None:
        self.room, self.slots = room, slots
        self.row = torch.arange(len(slots), device=slots.device)[:, None]

    def view(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.room.keys[layer], self.room.values[layer]
        keys[self.row, :, self.slots] = k.transpose(1, 2)
        values[self.row, :, self.slots] = v.transpose(1, 2)
        return keys, values


class CapturedDenoiser(Denoiser):
    """The same network for decoding, one request or batch at a time. It cannot be trained, adapted, merged or saved."""

    lanes = False  # a pass over many texts has as many shapes

    def __init__(self, denoiser: Denoiser, device: torch.device | str, dtype: torch.dtype | None = None) -> None:
        """denoiser: goes to the device, and is this one's from now on. Raises ValueError for one whose passes take more
        than tokens and places: conditions, feedback, levels of noise, layers that differ, or text read in other ways."""
        c = denoiser.config
        told = {
            "layers that differ": c.variant, "a condition": c.condition, "the level of noise": c.level,
            "a reader": denoiser.reader, "self-conditioning": denoiser.self_conditioned or None,
        }  # fmt: skip
        if special := [name for name, one in told.items() if one is not None]:
            raise ValueError(f"passes of a network with {special[0]} are not captured; use the CPU for this checkpoint")
        self.__dict__.update(denoiser.to(device=device, dtype=dtype).requires_grad_(False).eval().__dict__)
        weight = self.embedding.weight
        self.rooms = _Rooms(weight.dtype, weight.device)
        self._passes: dict[tuple[object, ...], _Pass] = {}
        self._pool: Any = None  # memory that graphs share
        self.num_captures = 0

    def new_cache(self, rows: int, capacity: int) -> KVCache:
        return _LentCache(self, rows, capacity)

    def read(self, tokens: Tokens, counts: Tensor, cache: KVCache, every: bool = False) -> Prediction:
        """As `Denoiser.read`; a long text is read in pieces, which are padded to a power of two: few shapes."""
        count = tokens.shape[1]
        if count > CHUNK:
            parts = [
                self.read(tokens[:, at : at + CHUNK], (counts - at).clamp(0, min(CHUNK, count - at)), cache, every)
                for at in range(0, count, CHUNK)
            ]
            if every:
                return Prediction(*(torch.cat(field, 1) for field in zip(*parts, strict=True)))
            last, row = (counts - 1).clamp(min=0) // CHUNK, torch.arange(len(counts))
            return Prediction(*(torch.stack(field, 1)[row, last] for field in zip(*parts, strict=True)))
        if every or count <= 2:
            return super().read(tokens, counts, cache, every)
        width = min(1 << (count - 1).bit_length(), max(count, cache.capacity - int(cache.lengths.max())))
        return super().read(F.pad(tokens, (0, width - count)), counts, cache)

    def forward(
        self, tokens: Tokens, places: Places, visible: Visibility, cache: Any = None, want: Tensor | None = None,
        condition: Conditions | None = None, feedback: Tensor | None = None, logits: bool = True, sigma: Tensor | None = None,
    ) -> Prediction:  # fmt: skip
        for name, given in (("condition", condition), ("feedback", feedback), ("level of noise", sigma)):
            if given is not None:
                raise ValueError(f"this checkpoint declares no {name}")
        if int(places.position.max()) >= self.config.max_length:
            raise ValueError(f"position {int(places.position.max())} is beyond the model's {self.config.max_length}")
        rows, count = tokens.shape
        if cache is None:
            cache = self.new_cache(rows, count)
        assert isinstance(cache, _LentCache), type(cache).__name__
        longest = int(cache.lengths.max())
        if longest + count > cache.capacity:
            raise ValueError(
                f"a pass over {count} positions after {longest} does not fit the cache of {cache.capacity}"
            )
        cache.make_room(longest + count)
        wanted = torch.arange(count).expand(rows, -1) if want is None else want
        seen = torch.zeros(rows, count, cache.room, dtype=torch.bool)
        near = visible.dense(places, cache.places(places)) | ~places.valid[:, :, None]
        seen[:, :, : near.shape[2]] = near
        canvas = bool((places.role != CLEAN).any())
        slots = cache.lengths[:, None] + torch.arange(count)
        one = self._pass(rows, count, wanted.shape[1], cache, canvas)
        one.fill(tokens, places.position, places.role, slots, seen, wanted)
        self._run(one, cache, canvas)
        assert one.logits is not None and one.hidden is not None
        about = (places.position + torch.where(places.role == CLEAN, 1, self.shift)).gather(1, wanted)
        return Prediction(one.logits.to("cpu", copy=True), about, one.hidden.to("cpu", copy=True))

    def draft_among(self, hidden: Tensor, before: Tokens, among: Tensor) -> Logits:
        weight = self.embedding.weight
        there = (hidden.to(weight.device, weight.dtype), before.to(weight.device), among.to(weight.device))
        return super().draft_among(*there).float().cpu()

    def _pass(self, rows: int, count: int, wanted: int, cache: _LentCache, canvas: bool) -> _Pass:
        key = (rows, count, wanted, canvas, id(cache.lent))
        if key not in self._passes:
            device = self.embedding.weight.device
            ids = [torch.zeros(rows, n, dtype=torch.int64, device=device) for n in (count, count, count, count, wanted)]
            seen = torch.zeros(rows, count, cache.room, dtype=torch.bool, device=device)
            self._passes[key] = _Pass(ids[0], ids[1], ids[2], ids[3], seen, ids[4])
        return self._passes[key]

    def _run(self, one: _Pass, cache: _LentCache, canvas: bool) -> None:
        if one.graph is not None:
            one.graph.replay()
            return
        if one.tokens.device.type != "cuda":
            one.logits, one.hidden = self._compute(one, cache.lent, canvas)
            return
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's own
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UPS):
                self._compute(one, cache.lent, canvas)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            one.logits, one.hidden = self._compute(one, cache.lent, canvas)
        self._pool = self._pool or graph.pool()
        one.graph, self.num_captures = graph, self.num_captures + 1
        graph.replay()

    def _compute(self, one: _Pass, room: _Room, canvas: bool) -> tuple[Logits, Tensor]:
        """Logits `[B, W, V]` and normed states `[B, W, D]`, both float32. Nothing in it waits for the GPU."""
        adapter = self.adapter
        x = F.embedding(one.tokens, self.embedding.weight)
        places = Places(one.position, one.role, one.position, one.role, one.role == one.role)
        if self.canvas_role is not None and canvas:
            x = x + (one.role == CANVAS)[:, :, None] * self.canvas_role
        gate = None
        if adapter is not None:
            if canvas:
                x = adapter.embed(x, one.tokens, places)
            everywhere = adapter.config.gate == "all"
            if everywhere or canvas:
                gate = Gate(None, None if everywhere else (one.role != CLEAN)[:, :, None].to(x.dtype))
        cos, sin = (table[one.position][:, :, None].to(x.dtype) for table in (self.cos, self.sin))
        mask = one.seen[:, None].repeat(1, 1, self.config.num_heads // self.config.num_kv_heads, 1)
        view: Any = _Places(room, one.slots)  # a cache to the blocks, which write and look by `view` alone
        for layer, block in enumerate(self.blocks):
            terms = PLAIN if adapter is None or gate is None else adapter.terms(layer, gate)
            x = block(x, cos, sin, mask, layer, view, terms)
        x = x.gather(1, one.want[:, :, None].expand(-1, -1, x.shape[-1]))
        hidden = self.norm(x)
        logits = F.linear(hidden, self.embedding.weight) if self.head is None else self.head(hidden)
        if adapter is not None and canvas:
            logits = adapter.speak(logits, hidden, one.role.gather(1, one.want), some=True)
        return logits.float(), hidden.float()
