"""Scheduler: many requests on one network, each at its own step.

    tick   admit       new rows begin as memory allows, first come first served; cancelled ones are gone
           schedule    calls of the rows that have waited longest, up to a number of positions, shared by clients (`shares.py`)
           step        one pass over them all, whatever they are: reading, denoising, verifying, committing
           emit        each row's own code takes its answer, sends its events out and asks for its next call

- A row is a request's own decoder (`Engine.stream`), run in a greenlet: it is paused at every call of the network. So any
  decoder, policy and edit can be in a tick with any other, and a row leaves at the step that ends it.
- Random numbers are counted by seed and position, and no number of one row enters another's: what a row writes does not
  depend on its neighbours (beyond rounding), nor on when it was admitted.
- A row that fails (a refused value, an answer that is not a number) fails alone.
- A network without lanes (`Denoiser.lanes`) makes each row's passes by itself: rows take turns then, an event each, no more
  than `TURNS` of them at once, since nobody counts their memory.
"""

from __future__ import annotations

import copy
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, Generic, TypeVar, cast

import torch
from greenlet import greenlet

from mezzotint.engine.engine import Engine
from mezzotint.engine.memory import Memory
from mezzotint.engine.request import Event, Request
from mezzotint.engine.rows import Call, RowDenoiser
from mezzotint.engine.shares import Demand, Shares
from mezzotint.model.denoiser import Denoiser
from mezzotint.model.lanes import Network, Part, Ragged, Said

TURNS = 4
T = TypeVar("T")
Report = Callable[[str, int, int], None]
Work = Callable[[Engine, Report], Iterator[T]]


class Cancelled(Exception):
    """The work was given up: nobody waits for it any more."""


class End:
    """The last thing that a job puts out when all went well."""


class Job(ABC, Generic[T]):
    """A piece of work and whoever waits for it. queued, started: `time.monotonic()`; started is None before its turn."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.queued = time.monotonic()
        self.started: float | None = None
        self.left = 0  # rows that have not ended

    @abstractmethod
    def put(self, item: T | Exception | End) -> None:
        """Take what the work yields, in the scheduler's thread; at the end its error or `End`."""


class Stream(Job[T]):
    """What the work yields, to be iterated over in any thread while the scheduler runs. Raises the work's error."""

    def __init__(self) -> None:
        super().__init__()
        self._items: queue.SimpleQueue[T | Exception | End] = queue.SimpleQueue()

    def put(self, item: T | Exception | End) -> None:
        self._items.put(item)

    def cancel(self) -> None:
        """From any thread: the work ends before its next step, and with it this stream."""
        self.cancelled.set()

    def __iter__(self) -> Iterator[T]:
        while not isinstance(item := self._items.get(), End):
            if isinstance(item, Cancelled):
                return
            if isinstance(item, Exception):
                raise item
            yield item


class _Row:
    """One request in work, or one function that calls the network."""

    def __init__(
        self, scheduler: Scheduler, job: Job[Any], work: Work[Any], number: int | None, client: Hashable = None
    ) -> None:  # fmt: skip
        self.scheduler, self.job, self.work, self.number, self.client = scheduler, job, work, number, client
        self.calls: list[Call] = []  # not answered yet
        self.hungry = 0  # positions of memory that it waits for
        self.denoiser = RowDenoiser(scheduler.network, self, scheduler.memory)
        self.greenlet: greenlet | None = None  # made in the scheduler's thread, the only one that can run it

    def resume(self, error: Exception | None = None) -> bool:
        """Run its code to the next pause -> has it ended? Raises what the code raised."""
        if self.greenlet is None:
            self.greenlet = greenlet(self._run)
        if error is None:
            self.greenlet.switch()
        else:
            self.greenlet.throw(error)
        return bool(self.greenlet.dead)

    def _run(self) -> None:
        engine = copy.copy(self.scheduler.engine)
        if self.scheduler.lanes:
            engine.denoiser = cast(Denoiser, self.denoiser)
        with closing(self.work(engine, self.report)) as items:  # type: ignore[type-var]  # all are generators
            for item in items:
                if self.job.cancelled.is_set():
                    raise Cancelled
                self.job.put(item if self.number is None else replace(item, row=self.number))
                if not self.scheduler.lanes:
                    self.pause()
        if self.number is not None:
            self.denoiser.remember()

    def pause(self) -> None:
        """Give the others their turn. Raises what the scheduler throws into the row."""
        assert self.greenlet is not None and self.greenlet.parent is not None
        self.greenlet.parent.switch()

    def report(self, what: str, done: int, total: int) -> None:
        """Between two steps of work other than a request."""
        self.pause()

    def ask(self, calls: list[Call]) -> None:
        self.calls = calls
        self.pause()

    def has_room(self, positions: int) -> bool:
        """Who holds memory goes before those who have not begun: its end is what frees some."""
        mine = not self.scheduler.hungry or self.denoiser.holds_memory
        return positions == 0 or (mine and self.scheduler.memory.make_room(positions))

    def make_room(self, positions: int) -> None:
        """Raises ValueError where there can never be room, MemoryError where nobody would make any."""
        memory = self.scheduler.memory
        if (needed := positions * memory.per_position) > memory.limit:
            raise ValueError(
                f"the request needs {needed / 1e6:.1f} MB of keys and values, for {positions} positions of prompt, answer and "
                f"canvas; this engine has {memory.limit / 1e6:.1f} MB in all: shorten it, or give the engine more"
            )
        self.hungry = positions
        line = self.scheduler.hungry
        (line.appendleft if self.denoiser.holds_memory else line.append)(self)
        self.pause()
        self.hungry = 0


class Scheduler:
    """engine: whose network and tokenizer are used; its denoiser is a `lanes.Network`. memory: bytes of keys and values.

    positions: most places in one pass, though one call of one row always fits; chunk: most places of a prompt that are read
    in one pass; rows: most at once. Use it as a context manager, or `start` and `stop` it; without a thread, `tick`.
    """

    def __init__(
        self, engine: Engine, memory: int = 1 << 30, positions: int = 512, chunk: int = 128, rows: int = 32
    ) -> None:
        for name, value in (("memory", memory), ("positions", positions), ("chunk", chunk), ("rows", rows)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        self.lanes = engine.denoiser.lanes
        self.engine, self.positions, self.chunk = engine, positions, chunk
        self.limit = rows if self.lanes else min(rows, TURNS)
        self.network = cast(Network, engine.denoiser)
        self.memory = Memory(memory, self.network.segment, self.network.segment(1).bytes)
        self.rows: list[_Row] = []  # in work; the one that has waited longest first
        self.hungry: deque[_Row] = deque()
        self.shares = Shares(positions)
        self.num_ticks = 0
        self._new: deque[_Row] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None

    # -- from any thread -------------------------------------------------------------------------------------------

    def submit(self, requests: Request | Sequence[Request]) -> Stream[Event]:
        """Events of one request, or of several that end and fail together (`row` tells them apart)."""
        rows = [requests] if isinstance(requests, Request) else list(requests)
        stream: Stream[Event] = Stream()
        self.add(stream, [self.decoding(request) for request in rows])
        return stream

    def call(self, function: Callable[[Engine, Report], T]) -> Stream[T]:
        """Anything that calls the engine's network: a stream of its one result. It has a turn whenever it calls or reports."""
        stream: Stream[T] = Stream()
        self.add(stream, [lambda engine, report: iter_once(function(engine, report))], numbered=False)
        return stream

    @staticmethod
    def decoding(request: Request) -> Work[Event]:
        return lambda engine, report: engine.stream(request)

    def add(self, job: Job[Any], works: Sequence[Work[Any]], numbered: bool = True, client: Hashable = None) -> None:
        """client: whose work it is; each gets its share, and none but None more than three quarters of the rows.

        Raises ValueError for no work at all, RuntimeError once stopped.
        """
        if not works:
            raise ValueError("no requests were given; there must be at least one")
        job.left = len(works)
        with self._changed:
            if self._stopping:
                raise RuntimeError("the scheduler has stopped")
            self._new.extend(_Row(self, job, work, n if numbered else None, client) for n, work in enumerate(works))
            self._changed.notify()

    @property
    def num_waiting(self) -> int:
        """Jobs whose turn has not come."""
        return len({id(row.job) for row in self._lined_up()})

    def num_waiting_of(self, client: Hashable) -> int:
        """Those of one client."""
        return len({id(row.job) for row in self._lined_up() if row.client == client})

    def _lined_up(self) -> list[_Row]:
        return [row for row in list(self._new) if row.job.started is None and not row.job.cancelled.is_set()]

    @property
    def num_running(self) -> int:
        return len({id(row.job) for row in list(self.rows)})

    @property
    def busy(self) -> bool:
        return bool(self._new or self.rows)

    def start(self) -> Scheduler:
        self._thread = threading.Thread(target=self.run, name="scheduler", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """What is in work is cancelled. Returns when the thread has ended."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> Scheduler:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    # -- in the scheduler's thread ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Tick as long as there is work, until stopped."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.busy or self._stopping)
                if self._stopping:
                    break
            self.tick()
        for row in [*self.rows, *self._new]:
            row.job.cancelled.set()
        self._admit()

    @torch.inference_mode()
    def tick(self) -> None:
        """One step of everything: admit, schedule, step, emit."""
        self._admit()
        began = time.perf_counter()
        parts = self._schedule()
        for row in self._step(parts):
            self._resume(row)
        if parts:
            self.shares.took(sum(len(part.tokens) for _, _, part in parts), time.perf_counter() - began)
        self.num_ticks += 1

    def _admit(self) -> None:
        for row in [row for row in self.rows if row.job.cancelled.is_set()]:
            self._resume(row, Cancelled())
        self._feed()
        self._new_begin()
        for row in [row for row in self.rows if not row.calls and not row.hungry]:
            self._resume(row)
        if self.hungry and not any(row.calls or not row.hungry for row in self.rows):
            self._resume(
                self.hungry[-1], MemoryError("no memory is left for keys and values, and nobody would free any")
            )

    def _feed(self) -> None:
        """Rows that wait for memory, in their order: nobody passes the first."""
        while self.hungry and self.memory.make_room(self.hungry[0].hungry):
            self._resume(self.hungry.popleft())

    def _new_begin(self) -> None:
        while (row := self._next_new()) is not None:
            self._new.remove(row)
            if row.job.cancelled.is_set():
                self._ended(row, Cancelled())
                continue
            row.job.started = row.job.started or time.monotonic()
            self.rows.append(row)
            self._resume(row)

    def _next_new(self) -> _Row | None:
        """The next row to begin: the first that has come of the client with fewest in work."""
        firsts: dict[Hashable, _Row] = {}
        for row in list(self._new):
            if row.job.cancelled.is_set():
                return row
            firsts.setdefault(row.client, row)
        if not firsts or self._full:
            return None
        held, most = Counter(row.client for row in self.rows), max(1, self.limit * 3 // 4)
        allowed = [row for client, row in firsts.items() if client is None or held[client] < most]
        return min(allowed, key=lambda row: held[row.client], default=None)

    @property
    def _full(self) -> bool:
        return len(self.rows) >= self.limit or bool(self.hungry)

    def _schedule(self) -> list[tuple[_Row, Call, Part]]:
        """What goes into the next pass; who was served goes to the end of the line."""
        parts: list[tuple[_Row, Call, Part]] = []
        room, credit = self.positions, self._credit()
        for row in list(self.rows):
            for call in row.calls:
                most = max(1, min(self.chunk, room, int(credit.get(row.client, room))))
                if call.over or (parts and call.size(most) > room) or call.size(most) > credit.get(row.client, 1 << 30):
                    continue
                part = call.part(most)
                room -= len(part.tokens)
                if credit:
                    credit[row.client] -= len(part.tokens)
                parts.append((row, call, part))
            if any(served is row for served, _, _ in parts):
                self.rows.remove(row)
                self.rows.append(row)
            if room <= 0:
                break
        return parts

    def _credit(self) -> dict[Hashable, float]:
        """Places that each client may have in the next pass; none are counted where there is but one."""
        if len({row.client for row in self.rows if row.calls}) < 2:
            return {}
        sizes: dict[Hashable, list[tuple[int, int]]] = {}
        for row in self.rows:
            for call in row.calls:
                if not call.over:
                    sizes.setdefault(row.client, []).append((call.size(self.chunk), call.size(1)))
        return self.shares.grant(
            {
                client: Demand(sum(whole for whole, _ in all_), min(least for _, least in all_))
                for client, all_ in sizes.items()
            }
        )

    def _step(self, parts: list[tuple[_Row, Call, Part]]) -> list[_Row]:
        """One pass -> the rows whose calls have all been answered."""
        if not parts:
            return []
        try:
            self._answer(parts, self.network.run(Ragged([part for _, _, part in parts])))
        except Exception as error:
            rows = list(dict.fromkeys(row for row, _, _ in parts))
            if len(rows) == 1:
                self._resume(rows[0], error)
                return []
            alone = [self._step([entry for entry in parts if entry[0] is row]) for row in rows]  # who was it?
            return [row for done in alone for row in done]
        rows = list(dict.fromkeys(row for row, _, _ in parts))
        return [row for row in rows if row.calls and all(call.over for call in row.calls)]

    def _answer(self, parts: list[tuple[_Row, Call, Part]], said: Said) -> None:
        counts = [len(part.want) for _, _, part in parts]
        finite = said.logits.amax(-1).isfinite()
        answers = zip(parts, *(torch.split(x, counts) for x in (said.logits, said.hidden, finite)), strict=True)
        wrong: dict[_Row, int] = {}  # and the first position of it
        for (row, call, part), logits, states, good in answers:
            if not bool(good.all()):
                wrong.setdefault(row, int(part.places.position[part.want[~good][0]]))
            elif row not in wrong:
                call.answer(logits, states)
        for row, position in wrong.items():
            self._resume(row, FloatingPointError(f"the network's answer at position {position} is not a number"))

    def _resume(self, row: _Row, error: Exception | None = None) -> None:
        """Run the row's own code to its next call, or to its end."""
        row.calls = []
        if error is not None and row in self.hungry:
            self.hungry.remove(row)
            row.hungry = 0
        failure: BaseException | None = None
        try:
            ended = row.resume(error)
        except BaseException as raised:  # the tokenizer's panics are no Exceptions, and the others must live
            ended, failure = True, raised
        if ended:
            row.denoiser.release()
            self.rows.remove(row)
            self._ended(row, failure)
        if isinstance(failure, (KeyboardInterrupt, SystemExit)):
            raise failure

    def _ended(self, row: _Row, failure: BaseException | None) -> None:
        """Tell who waits: the end when all rows have come to it, an error at once, which ends the others too."""
        job = row.job
        job.left -= 1
        if failure is None:
            if job.left == 0:
                job.put(End())
            return
        job.put(failure if isinstance(failure, Exception) else RuntimeError(type(failure).__name__))
        job.cancelled.set()


def iter_once(value: T) -> Iterator[T]:
    yield value
