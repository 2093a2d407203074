"""Worker: the one thread that owns the engine, and the bounded queue in front of it.

    event loop                                        worker thread
    generate(requests), call(function)  -> queue ->   one piece of work at a time, step by step
    async for item in stream            <- items <-   looks between steps whether it was cancelled

This is all that the server knows of how work is done: a scheduler with the same three methods can take its place.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from typing import Any, Generic, TypeVar

from mezzotint.edit.ask import Report
from mezzotint.engine.engine import Engine
from mezzotint.engine.request import Event, Request
from mezzotint.server.errors import ApiError, busy

T = TypeVar("T")
Work = Callable[[Engine, Report], Iterator[T]]


class Cancelled(Exception):
    """The work was given up: nobody waits for it any more."""


class _End:
    pass


class Stream(Generic[T]):
    """What a piece of work yields, read on the event loop that asked for it. `cancel` ends the work before its next step.

    Reading raises Cancelled, the work's own error, or ApiError once the deadline is over.
    """

    def __init__(self, worker: Worker, work: Work[T], seconds: float) -> None:
        self._worker, self.work = worker, work
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[T | Exception | _End] = asyncio.Queue()
        self._seconds, self._deadline = seconds, self._loop.time() + seconds
        self.cancelled = threading.Event()
        self.queued = time.monotonic()
        self.started: float | None = None  # when its turn came

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
        try:
            async with asyncio.timeout_at(self._deadline):
                item = await self._items.get()
        except TimeoutError:
            self.cancel()
            message = f"the request took longer than the {self._seconds:g} s it may"
            raise ApiError(504, message, "deadline_exceeded", headers={"x-should-retry": "false"}) from None
        if isinstance(item, _End):
            raise StopAsyncIteration
        if isinstance(item, Exception):
            raise item
        return item

    def cancel(self, reason: Exception | None = None) -> None:
        """From any thread; again is no harm. Whoever reads gets `reason`, or Cancelled."""
        if not self.cancelled.is_set():
            self.cancelled.set()
            self._worker.forget(self)
            self.put(reason or Cancelled())

    def put(self, item: T | Exception | _End) -> None:
        """From any thread."""
        with suppress(RuntimeError):  # the loop has closed: nobody reads
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)

    def between_steps(self, what: str = "", done: int = 0, total: int = 0) -> None:
        """A `Report`. Raises Cancelled when the work was given up."""
        if self.cancelled.is_set():
            raise Cancelled


class Worker:
    """load: makes the engine, in the worker's own thread. failed: called there when that fails; `failure` says how."""

    def __init__(self, load: Callable[[], Engine], queue: int, failed: Callable[[], None] = lambda: None) -> None:
        self._load, self._limit, self._failed = load, queue, failed
        self._waiting: deque[Stream[Any]] = deque()
        self._changed = threading.Condition()
        self._mean = 1.0  # seconds a piece of work, lately
        self.running: Stream[Any] | None = None
        self.engine: Engine | None = None
        self.failure: Exception | None = None
        self.draining = self.stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def ready(self) -> Engine:
        """The engine, to look things up in. Raises ApiError 503 while there is none, and at the end."""
        if self.draining:
            raise busy(503, "the server is shutting down", "shutting_down", 5)
        if self.engine is None or not self.alive:
            raise busy(503, "the model is not loaded yet", "model_not_ready", 5)
        return self.engine

    def generate(self, requests: Sequence[Request], seconds: float) -> Stream[Event]:
        """Decode rows together. Raises ApiError when the queue is full."""
        return self._submit(lambda engine, report: engine.stream(requests), seconds)

    def call(self, function: Callable[[Engine, Report], T], seconds: float) -> Stream[T]:
        """Anything else: a stream of its one result. The function calls its `Report` between steps. Raises as above."""

        def work(engine: Engine, report: Report) -> Iterator[T]:
            yield function(engine, report)

        return self._submit(work, seconds)

    def _submit(self, work: Work[T], seconds: float) -> Stream[T]:
        stream = Stream(self, work, seconds)
        with self._changed:
            self.ready()
            if len(self._waiting) >= self._limit:
                message = f"{self._limit} requests are waiting, which is the most; try again later"
                raise busy(429, message, "queue_full", self._mean * self._limit)
            self._waiting.append(stream)
            self._changed.notify()
        return stream

    def forget(self, stream: Stream[Any]) -> None:
        """Take it out of the queue, if it is there."""
        with self._changed, suppress(ValueError):
            self._waiting.remove(stream)

    def drain(self) -> None:
        """Take no more work; what there is goes on."""
        self.draining = True

    def stop(self) -> None:
        """Take no more work; what there is ends with an error, and so does the thread."""
        with self._changed:
            self.draining = self.stopping = True
            left = [*self._waiting, *([self.running] if self.running else [])]
            self._changed.notify()
        for stream in left:
            stream.cancel(busy(503, "the server is shutting down", "shutting_down", 5))

    # -- in the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self.engine = self._load()
        except Exception as error:
            self.failure = error
            self._failed()
            return
        while (stream := self._next()) is not None:
            began = time.monotonic()
            self._do(self.engine, stream)
            self._mean += (time.monotonic() - began - self._mean) / 8
            self.running = None

    def _next(self) -> Stream[Any] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self.stopping)
            if self.stopping:
                return None
            self.running = self._waiting.popleft()
            self.running.started = time.monotonic()
            return self.running

    def _do(self, engine: Engine, stream: Stream[Any]) -> None:
        try:
            stream.between_steps()
            with closing(stream.work(engine, stream.between_steps)) as items:  # type: ignore[type-var]  # all are generators
                for item in items:
                    stream.between_steps()
                    stream.put(item)
            stream.put(_End())
        except Cancelled:
            pass
        except BaseException as error:  # the tokenizer's panics are no Exceptions, and this thread must live
            stream.put(error if isinstance(error, Exception) else RuntimeError(type(error).__name__))
