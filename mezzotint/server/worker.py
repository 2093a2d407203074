"""Worker: the scheduler's thread, and the bounded queue in front of it, as the event loop sees them.

event loop                                        worker thread
generate(requests), call(function)  -> queue ->   the scheduler: all of them together, step by step
async for item in stream            <- items <-   looks between steps which were cancelled
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from mezzotint.edit.ask import Report
from mezzotint.engine.engine import Engine
from mezzotint.engine.request import Event, Request
from mezzotint.engine.scheduler import Cancelled, End, Job, Scheduler, Work, iter_once
from mezzotint.server.errors import ApiError, busy

__all__ = ["Cancelled", "Stream", "Worker"]
T = TypeVar("T")
client: ContextVar[Hashable] = ContextVar("client", default=None)  # who asks, where there are several; the guard knows


class Stream(Job[T], Generic[T]):
    """What a piece of work yields, read on the event loop that asked for it. `cancel` ends the work before its next step.

    Reading raises Cancelled, the work's own error, or ApiError once the deadline is over. at: `time.monotonic()` when the item
    that was read last came out of the work. patient: nobody needs an item before the last; the loop is woken for that alone.
    asleep: kinds of items that can wait for the next of another kind. interval: seconds for which a reader that has been woken
    rests, before it looks again and is woken again, since each time costs the work its core; the end is not waited for.
    """

    def __init__(
        self, seconds: float, ended: Callable[[Stream[T]], None], patient: bool = False, asleep: tuple[type, ...] = (),
        interval: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self._loop, self._ended, self._patient, self._asleep = asyncio.get_running_loop(), ended, patient, asleep
        self._interval, self._resting, self._rested = interval, False, 0.0  # until when, in the loop's time
        self._items: deque[tuple[float, T | Exception | End]] = deque()
        self._some = asyncio.Event()
        self._seconds, self._deadline = seconds, self._loop.time() + seconds
        self.at = self.queued

    @property
    def age(self) -> float:
        """Seconds since it was asked for."""
        return time.monotonic() - self.queued

    @property
    def waited(self) -> float:
        """Seconds of them before its turn came."""
        return (self.started or time.monotonic()) - self.queued

    def __aiter__(self) -> Stream[T]:
        return self

    async def __anext__(self) -> T:
        while not self._items or (self._patient and not self._some.is_set()):
            self._some.clear()
            try:
                async with asyncio.timeout_at(self._deadline):
                    await self._wait()
            except TimeoutError:
                self.cancel()
                message = f"the request took longer than the {self._seconds:g} s it may"
                raise ApiError(504, message, "deadline_exceeded", headers={"x-should-retry": "false"}) from None
        self.at, item = self._items.popleft()
        if isinstance(item, End):
            raise StopAsyncIteration
        if isinstance(item, Exception):
            raise item
        return item

    async def _wait(self) -> None:
        """Until something came that is worth waking for, or the rest is over."""
        if self._loop.time() >= self._rested:
            await self._some.wait()
            self._rested = self._loop.time() + self._interval
            return
        self._resting = True
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._rested):
                    await self._some.wait()
        finally:
            self._resting = False
        if self._items:
            self._rested = self._loop.time() + self._interval

    def cancel(self, reason: Exception | None = None) -> None:
        """From any thread; again is no harm. Whoever reads gets `reason`, or Cancelled."""
        if not self.cancelled.is_set():
            self.cancelled.set()
            self.put(reason or Cancelled())

    def put(self, item: T | Exception | End) -> None:
        """From any thread."""
        last = isinstance(item, (Exception, End))
        if last:
            self._ended(self)
        self._items.append((time.monotonic(), item))
        if last or not (self._patient or self._resting or isinstance(item, self._asleep)):
            with suppress(RuntimeError):  # the loop has closed: nobody reads
                self._loop.call_soon_threadsafe(self._some.set)


class Worker:
    """load: makes the engine, in the worker's own thread. failed: called there when that fails; `failure` says how.

    queue: pieces of work that may wait. memory, rows: see `Scheduler`.
    """

    def __init__(
        self, load: Callable[[], Engine], queue: int, failed: Callable[[], None] = lambda: None, memory: int = 1 << 30,
        rows: int = 32,
    ) -> None:  # fmt: skip
        self._load, self._limit, self._failed, self._sizes = load, queue, failed, (memory, rows)
        self._live: set[Stream[Any]] = set()
        self._mean = 1.0  # seconds a piece of work, lately
        self.scheduler: Scheduler | None = None
        self.engine: Engine | None = None
        self.failure: Exception | None = None
        self.draining = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def num_waiting(self) -> int:
        return self.scheduler.num_waiting if self.scheduler else 0

    @property
    def num_running(self) -> int:
        return self.scheduler.num_running if self.scheduler else 0

    def ready(self) -> Engine:
        """The engine, to look things up in. Raises ApiError 503 while there is none, and at the end."""
        if self.draining:
            raise busy(503, "the server is shutting down", "shutting_down", 5)
        if self.engine is None or not self.alive:
            raise busy(503, "the model is not loaded yet", "model_not_ready", 5)
        return self.engine

    def generate(
        self, requests: Sequence[Request], seconds: float, patient: bool = False, asleep: tuple[type, ...] = (),
        interval: float = 0.0,
    ) -> Stream[Event]:  # fmt: skip
        """Decode requests, each event with the row it is of. patient, asleep, interval: see `Stream`. Raises ApiError when the
        queue is full."""
        works = [Scheduler.decoding(request) for request in requests]
        return self._submit(works, seconds, True, patient, asleep, interval)

    def call(self, function: Callable[[Engine, Report], T], seconds: float) -> Stream[T]:
        """Anything else: a stream of its one result. The function calls its `Report` between steps. Raises as above."""
        return self._submit([lambda engine, report: iter_once(function(engine, report))], seconds, numbered=False)

    def each(self, function: Callable[[Engine, Report], Iterator[T]], seconds: float) -> Stream[T]:
        """All that a function yields. It calls its `Report` between steps. Raises as above."""
        return self._submit([function], seconds, numbered=False)

    def _submit(
        self, works: Sequence[Work[T]], seconds: float, numbered: bool = True, patient: bool = False,
        asleep: tuple[type, ...] = (), interval: float = 0.0,
    ) -> Stream[T]:  # fmt: skip
        self.ready()
        assert self.scheduler is not None
        asks, whose, most, count = client.get(), "", self._limit, self.num_waiting
        if asks is not None and count < most:  # the last quarter of the queue is for the other clients
            whose, most, count = " of this key", max(1, most * 3 // 4), self.scheduler.num_waiting_of(asks)
        if count >= most:
            message = f"{most} requests{whose} are waiting, which is the most; try again later"
            raise busy(429, message, "queue_full", self._mean * most)
        stream: Stream[T] = Stream(seconds, self._over, patient, asleep, interval)
        self._live.add(stream)
        self.scheduler.add(stream, works, numbered, asks)
        return stream

    def _over(self, stream: Stream[Any]) -> None:
        """From any thread, when the work has ended or was given up."""
        self._live.discard(stream)
        if stream.started is not None:
            self._mean += (time.monotonic() - stream.started - self._mean) / 8

    def drain(self) -> None:
        """Take no more work; what there is goes on."""
        self.draining = True

    def stop(self) -> None:
        """Take no more work; what there is ends with an error, and so does the thread."""
        self.draining = True
        for stream in list(self._live):
            stream.cancel(busy(503, "the server is shutting down", "shutting_down", 5))
        if self.scheduler is not None:
            self.scheduler.stop()

    def _run(self) -> None:
        try:
            engine = self._load()
            memory, rows = self._sizes
            self.scheduler = Scheduler(engine, memory, rows=rows)
        except Exception as error:
            self.failure = error
            self._failed()
            return
        self.engine = engine
        self.scheduler.run()
