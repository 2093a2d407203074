"""Rows: a request's own code, and the network as that code sees it.

    row's code      read(...)   denoise(...)            straight-line code for one request, any decoder, unchanged
    RowDenoiser     Call        Call                    the row is paused until the scheduler has run the call
    scheduler          one pass over the calls of many rows

- A read whose answer nobody looks at is carried by the row's next call: committing a canvas and the first step of the next
  are one call (`fuses_reads` tells the decoder, so that its frames count calls rightly).
- The first text that a cache reads is a prompt: what of it is remembered is not read again, and it is remembered.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from mezzotint.engine.memory import Memory
from mezzotint.model.condition import Condition, Conditions
from mezzotint.model.config import ModelConfig
from mezzotint.model.denoiser import Denoiser, Prediction
from mezzotint.model.lanes import Lane, Network, Part, Path, Said
from mezzotint.model.visibility import CLEAN, Places, Visibility, context_causal
from mezzotint.shapes import Logits, Tokens, Where

NOTHING = torch.zeros(0, dtype=torch.int64)


def _clean(first: int, end: int) -> Places:
    position = torch.arange(first, end)
    zeros = torch.zeros_like(position)
    return Places(position, zeros, position, zeros, torch.ones_like(position, dtype=torch.bool))


class Call:
    """What a row asks about one text: `read` is read and kept, then `tokens` are looked at behind it.

    every: answers about all that is read are wanted, else about its last. tokens, places: each `[T]`; want `[W]`: of them.
    It may take several passes: a long text is read chunk by chunk.
    """

    def __init__(
        self, lane: Lane, read: Sequence[int], every: bool = False, tokens: Tensor = NOTHING, places: Places | None = None,
        visible: Visibility | None = None, want: Tensor = NOTHING, feedback: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.lane, self.read, self.every = lane, list(read), every
        self.tokens, self.places, self.want, self.feedback = tokens, places or _clean(0, 0), want, feedback
        self.visible = visible or context_causal()
        self.fresh = not lane.ids and bool(read)
        self.done = 0  # of `read`
        self.heard: list[Said] = []  # about what was read
        self.said: Said | None = None  # about `want`
        self.then: Callable[[], None] = lambda: None  # when all has been read
        self._now = 0, False

    @property
    def over(self) -> bool:
        return self.done == len(self.read) and (self.said is not None or not len(self.tokens))

    def _next(self, most: int) -> tuple[int, bool]:
        """How many places the next pass reads, at most `most`, and whether it looks at `tokens` as well."""
        count = min(len(self.read) - self.done, most)
        ends = self.done + count == len(self.read)
        # a prompt has a segment of its own, without room behind it
        return count, bool(len(self.tokens)) and ends and not (self.fresh and count)

    def size(self, most: int) -> int:
        """Places of `part(most)`."""
        count, looks = self._next(most)
        return count + len(self.tokens) * looks

    def part(self, most: int) -> Part:
        """What of it goes into the next pass."""
        self._now = count, looks = self._next(most)
        ends = self.done + count == len(self.read)
        first = self.lane.length
        places, want = _clean(first, first + count), torch.arange(count) if self.every else NOTHING
        if count and ends and not self.every:
            want = torch.tensor([count - 1])
        tokens = torch.tensor(self.read[self.done : self.done + count], dtype=torch.int64)
        feedback = None
        if looks:
            tokens, places = torch.cat((tokens, self.tokens)), places.cat(self.places)
            want = torch.cat((want, self.want + count))
            if self.feedback is not None:
                feedback = torch.cat((self.feedback.new_zeros(count, self.feedback.shape[-1]), self.feedback))
            batched = Places(*(field[None] for field in places))
            hidden = ~self.visible.dense(batched, batched)[0]
        else:
            hidden = torch.ones(count, count, dtype=torch.bool).triu(1)
        return Part(self.lane, tokens, places, hidden if bool(hidden.any()) else None, want, feedback)

    def answer(self, logits: Tensor, states: Tensor) -> None:
        """What the pass said about the wanted places of the last part, `[W, V]` and `[W, D]`."""
        count, looks = self._now
        self.lane.keep(self.read[self.done : self.done + count])
        self.done += count
        about = len(logits) - (len(self.want) if looks else 0)
        if about:
            self.heard.append(Said(logits[:about], states[:about]))
            self.lane.ahead = logits[about - 1].clone()
        elif count:
            self.lane.ahead = None
        if looks:
            self.said = Said(logits[about:], states[about:])
        if count and self.done == len(self.read):
            self.then()


class Row(Protocol):
    """The scheduler's side of a row. ask and make_room return when it has been done, other rows having had their turns."""

    def ask(self, calls: list[Call]) -> None: ...
    def has_room(self, positions: int) -> bool: ...
    def make_room(self, positions: int) -> None: ...


class RowCache:
    """`KVCache`, its rows in lanes. `pending`: what is read, a row each, and not yet known to the network."""

    def __init__(self, owner: RowDenoiser, lanes: list[Lane], capacity: int) -> None:
        self.owner, self.lanes, self.capacity = owner, lanes, capacity
        self.pending: list[list[int]] = [[] for _ in lanes]
        self.bases = [0 for _ in lanes]  # lengths before the pass whose places `keep` speaks of
        self.looked: list[list[int]] = [[] for _ in lanes]  # the ids of that pass

    @property
    def rows(self) -> int:
        return len(self.lanes)

    @property
    def lengths(self) -> Tensor:
        return torch.tensor([lane.length + len(ids) for lane, ids in zip(self.lanes, self.pending, strict=True)])

    @property
    def ahead(self) -> Tensor | None:
        self.owner.flush(self)
        known = next((lane.ahead for lane in self.lanes if lane.ahead is not None), None)
        if known is None:
            return None
        return torch.stack([torch.zeros_like(known) if lane.ahead is None else lane.ahead for lane in self.lanes])

    @property
    def conditions(self) -> tuple[Condition, ...]:
        return tuple(lane.condition or Condition() for lane in self.lanes)

    def keep(self, counts: Tensor | Sequence[int]) -> None:
        """Keep the first `counts[b]` places of the last pass over tokens and places."""
        for row, count in enumerate(torch.as_tensor(counts).tolist()):
            lane, base = self.lanes[row], self.bases[row]
            if base + count > lane.length:  # a prompt among them is kept already
                lane.keep(self.looked[row][lane.length - base : count])
                lane.ahead = None

    def truncate(self, lengths: Tensor | Sequence[int]) -> None:
        wanted = torch.as_tensor(lengths, dtype=torch.int64).expand(self.rows)
        have = self.lengths
        if bool(((wanted < 0) | (wanted > have)).any()):
            raise ValueError(f"cannot truncate rows of length {have.tolist()} to {wanted.tolist()}")
        changed = not torch.equal(wanted, have)
        for lane, ids, length in zip(self.lanes, self.pending, wanted.tolist(), strict=True):
            del ids[max(0, length - lane.length) :]
            self.owner.memory.truncate(lane, length)
            lane.ahead = None if changed else lane.ahead

    def fork(self, rows: Tensor | Sequence[int], length: int | None = None, capacity: int | None = None) -> RowCache:
        self.owner.flush(self)
        index = torch.as_tensor(rows, dtype=torch.int64).tolist()
        lanes = [self.owner.memory.fork(self.lanes[row], length) for row in index]
        return self.owner.hold(RowCache(self.owner, lanes, self.capacity if capacity is None else capacity))

    def release(self) -> None:
        for lane in self.lanes:
            self.owner.memory.release(lane)


class _Reading:
    """The answer to a read, `[B, 1, V]`: asked of the network when it is looked at, if not before."""

    def __init__(self, cache: RowCache) -> None:
        self._cache = cache

    @property
    def logits(self) -> Logits:
        ahead = self._cache.ahead
        assert ahead is not None, "nothing was read"
        return ahead[:, None]

    def _replace(self, logits: Logits) -> Prediction:
        return Prediction(logits, self._cache.lengths[:, None], logits.new_empty(len(logits), 1, 0))

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._replace(self.logits))


class RowDenoiser:
    """A `Denoiser` to the code of one row. What is not here is the network's own."""

    fuses_reads = True

    def __init__(self, network: Network, row: Row, memory: Memory) -> None:
        self.network, self.row, self.memory = network, row, memory
        self._following: Conditions | None = None
        self._held: list[RowCache] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copying asks an object that has no network yet
            raise AttributeError(name)
        return getattr(self.network, name)

    @property
    def config(self) -> ModelConfig:
        return self.network.config

    @property
    def shift(self) -> int:
        return self.network.shift

    def encode_feedback(self, logits: Logits) -> Tensor | None:
        return self.network.encode_feedback(logits)

    def following(self, conditions: Conditions) -> RowDenoiser:
        other = copy.copy(self)
        other._following = tuple(conditions)
        return other

    def new_cache(self, rows: int, capacity: int) -> RowCache:
        told: Sequence[Condition | None] = self._following or [None] * rows
        assert len(told) == rows, f"{len(told)} conditions for {rows} rows"
        return self.hold(RowCache(self, [Lane(condition) for condition in told], capacity))

    def hold(self, cache: RowCache) -> RowCache:
        """It is freed with the row."""
        self._held.append(cache)
        return cache

    def release(self) -> None:
        """Free all that the row holds."""
        for cache in self._held:
            cache.release()
        self._held.clear()

    @property
    def holds_memory(self) -> bool:
        return any(lane.own is not None or lane.shared for cache in self._held for lane in cache.lanes)

    def remember(self) -> None:
        """What has been read and written, for a conversation that goes on. The row must have come to its end."""
        for cache in self._held:
            for lane in cache.lanes:
                self.memory.remember_answer(lane)

    # -- what the row's code calls ---------------------------------------------------------------------------------

    def read(self, tokens: Tokens, counts: Tensor, cache: RowCache, every: bool = False) -> Any:
        """`Denoiser.read`; without `every` it waits for the row's next call, or until its answer is looked at."""
        ids = [row[:count] for row, count in zip(tokens.tolist(), counts.tolist(), strict=True)]
        if not every:
            for pending, new in zip(cache.pending, ids, strict=True):
                pending += new
            return _Reading(cache)
        self.flush(cache)
        about = cache.lengths[:, None] + 1 + torch.arange(tokens.shape[1])
        calls = {b: Call(cache.lanes[b], new, every=True) for b, new in enumerate(ids) if new}
        self._ask(list(calls.values()), cache.capacity)
        heard = {b: torch.cat([said.logits for said in call.heard]) for b, call in calls.items()}
        some = next(iter(heard.values()))
        logits = some.new_zeros(len(ids), tokens.shape[1], some.shape[-1])
        for b, said in heard.items():
            logits[b, : len(said)] = said
        return Prediction(logits, about, logits.new_empty(*about.shape, 0))

    def denoise(
        self, tokens: Tokens, positions: Tensor, valid: Where, cache: Any, condition: Conditions | None = None,
        feedback: Tensor | None = None, sigma: Tensor | None = None,
    ) -> Logits:  # fmt: skip
        return Denoiser.denoise(cast(Denoiser, self), tokens, positions, valid, cache, condition, feedback, sigma)

    def denoise_with_shadow(
        self, tokens: Tokens, positions: Tensor, valid: Where, cache: Any, masks: Tokens
    ) -> tuple[Logits, Logits]:
        return Denoiser.denoise_with_shadow(cast(Denoiser, self), tokens, positions, valid, cache, masks)

    def _unshift(self, logits: Logits, cache: Any) -> Logits:
        return Denoiser._unshift(cast(Denoiser, self), logits, cache)

    def __call__(
        self, tokens: Tokens, places: Places, visible: Visibility, cache: RowCache | None = None,
        want: Tensor | None = None, condition: Conditions | None = None, feedback: Tensor | None = None, logits: bool = True,
        sigma: Tensor | None = None,
    ) -> Prediction:  # fmt: skip
        """`Denoiser.forward`. Raises ValueError for a visibility under which what is kept is not seen by all."""
        assert condition is None, "for training and for callers without a cache of lanes"
        assert sigma is None, "networks that are told the level of noise have no lanes"
        if not logits:  # states alone, of a text that nobody goes on with: a pass of its own
            assert cache is None and feedback is None
            found: Prediction = cast(Denoiser, self.network)(tokens, places, visible, None, want, logits=False)
            return found
        if len(visible.rules) > 1:
            raise ValueError(f"visibility {visible.name!r} hides part of what is kept; lanes show all of it")
        alone = cache is None
        kept = self.new_cache(len(tokens), tokens.shape[1]) if cache is None else cache
        wanted = torch.arange(tokens.shape[1]).expand_as(tokens) if want is None else want
        calls = [self._call(kept, b, tokens[b], Places(*(x[b] for x in places)), visible, wanted[b], feedback)
                 for b in range(len(tokens))]  # fmt: skip
        kept.pending = [[] for _ in kept.lanes]
        self._ask([call for call, _ in calls if not call.over], kept.capacity)
        answers = [answer() for _, answer in calls]
        if alone:
            self._held.remove(kept)
            kept.release()
        about = places.position + torch.where(places.role == CLEAN, 1, self.shift)
        return Prediction(
            torch.stack([said for said, _ in answers]), about.gather(1, wanted), torch.stack([h for _, h in answers])
        )

    def _call(
        self, cache: RowCache, b: int, tokens: Tensor, places: Places, visible: Visibility, want: Tensor,
        feedback: Tensor | None,
    ) -> tuple[Call, Callable[[], tuple[Tensor, Tensor]]]:  # fmt: skip
        """Row b's call, and what gives logits `[W, V]` and states `[W, D]` at `want` once it is over."""
        there = places.valid.nonzero()[:, 0]
        ids, places = tokens[there], Places(*(x[there] for x in places))
        lane, read = cache.lanes[b], cache.pending[b]
        cache.bases[b], cache.looked[b] = lane.length + len(read), ids.tolist()
        where = torch.full_like(tokens, -1).scatter(0, there, torch.arange(len(there)))[want]  # -1: padding
        prompt = 0
        if cache.bases[b] == 0 and visible.name in ("causal", "context-causal"):  # causal reading, in chunks
            other = (places.role != CLEAN).nonzero()[:, 0]
            prompt = int(other[0]) if len(other) else len(ids)
        asked = torch.unique(where[where >= prompt])
        early = torch.unique(where[(where >= 0) & (where < prompt)])
        every = bool(len(early)) and early.tolist() != [prompt - 1]
        heard = None if feedback is None else feedback[b, there][prompt:]
        call = Call(
            lane, [*read, *ids[:prompt].tolist()], every, ids[prompt:], Places(*(x[prompt:] for x in places)), visible,
            asked - prompt, heard,
        )  # fmt: skip

        def answer() -> tuple[Tensor, Tensor]:
            answers = [*(call.heard if prompt else []), *([call.said] if call.said is not None else [])]
            if not answers:  # padding alone
                return torch.zeros(len(want), self.config.vocab_size), torch.zeros(len(want), self.config.width)
            logits, states = (torch.cat([said[field] for said in answers]) for field in (0, 1))
            ahead = len(logits) - len(asked)
            of_prompt = where + len(read) if every else torch.zeros_like(where)
            index = torch.where(where < prompt, of_prompt, ahead + torch.searchsorted(asked, where))
            index = torch.where(where < 0, 0, index)  # padding: any
            if torch.equal(index, torch.arange(len(logits))):
                return logits, states
            return logits[index], states[index]

        return call, answer

    # -- its side to the scheduler ---------------------------------------------------------------------------------

    def flush(self, cache: RowCache) -> None:
        """Have the network read what waits."""
        calls = [Call(lane, ids) for lane, ids in zip(cache.lanes, cache.pending, strict=True) if ids]
        if calls:
            cache.pending = [[] for _ in cache.lanes]
            self._ask(calls, cache.capacity)

    def _ask(self, calls: list[Call], capacity: int) -> None:
        """Room for what the calls will write, then their answers. Raises ValueError for what can never have room."""
        if not calls:
            return
        plans = [self._plan(call, capacity, recall=True) for call in calls]
        if not self.row.has_room(sum(plan.positions for plan in plans)):
            for plan in plans:
                self.memory.drop(plan.path)
            whole = sum(self._plan(call, capacity, recall=False).positions for call in calls)
            self.row.make_room(whole)
            plans = [self._plan(call, capacity, recall=True) for call in calls]
        for call, plan in zip(calls, plans, strict=True):
            self._begin(call, plan)
        self.row.ask(calls)

    def _plan(self, call: Call, capacity: int, recall: bool) -> _Plan:
        lane = call.lane
        if call.fresh:
            path = self.memory.recall(call.read, repr(lane.condition)) if recall and not call.every else []
            left = len(call.read) - sum(length for _, length in path)
            return _Plan(path, [left, max(capacity - len(call.read), len(call.tokens), 1)])
        needed = lane.kept + len(call.read) - call.done + len(call.tokens)
        if lane.own is not None and needed <= lane.own.capacity:
            return _Plan([], [])
        return _Plan([], [max(needed, capacity - lane.length + lane.kept)])

    def _begin(self, call: Call, plan: _Plan) -> None:
        lane, memory = call.lane, self.memory
        if call.fresh:
            lane.shared, lane.own, after = plan.path, memory.take(plan.sizes[0]), memory.take(plan.sizes[1])
            call.done = sum(length for _, length in plan.path)
            lane.ids = call.read[: call.done]
            lane.after = after
            call.then = lambda: memory.remember_prompt(lane)
        elif plan.sizes:
            memory.grow(lane, plan.sizes[0])


class _Plan(NamedTuple):
    """What a call needs: the segments of a text read before, and sizes of new ones, in positions."""

    path: Path
    sizes: list[int]

    @property
    def positions(self) -> int:
        return sum(self.sizes)
