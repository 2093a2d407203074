"""Work: the one thread that owns the engine. An editor's messages are answered beside it, so typing never waits for it.

    await work.run(function, newest="complete")     a newer one of that name ends this one before its next step

Cancelling the task that waits ends the work too.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from mezzotint.edit.ask import Report

if TYPE_CHECKING:
    from mezzotint.engine.engine import Engine

T = TypeVar("T")
Progress = Callable[[str, int, int], None]


class Cancelled(Exception):
    """Nobody waits for this work any more."""


class Superseded(Exception):
    """A newer request took the place of this one, or what it was about has changed."""


class Job:
    """A piece of work, which looks between its steps whether it goes on."""

    def __init__(self, progress: Progress | None = None) -> None:
        self.cancelled = threading.Event()
        self._progress = progress

    def between_steps(self, what: str = "", done: int = 0, total: int = 0) -> None:
        """A `Report`. Raises Cancelled."""
        if self.cancelled.is_set():
            raise Cancelled
        if self._progress is not None and what:
            self._progress(what, done, total)


class Work:
    """load: makes the engine, in the thread, when `start` says so or the first work comes."""

    def __init__(self, load: Callable[[], Engine]) -> None:
        self._load = load
        self._engine: Engine | None = None
        self._failure: Exception | None = None
        self._pool = ThreadPoolExecutor(1, "engine")
        self._newest: dict[str, Job] = {}
        self._jobs = set[Job]()

    def start(self) -> asyncio.Future[str]:
        """Load the engine; -> the model's name. Raises what loading raises."""
        return asyncio.get_running_loop().run_in_executor(self._pool, lambda: self._ready().checkpoint.name)

    def _ready(self) -> Engine:
        if self._failure is not None:
            raise self._failure
        if self._engine is None:
            try:
                self._engine = self._load()
            except Exception as error:  # it would fail again, as slowly
                self._failure = error
                raise
        return self._engine

    async def run(
        self, function: Callable[[Engine, Report], T], newest: str = "", progress: Progress | None = None
    ) -> T:
        """What the function makes of the engine. progress: called in the thread, between steps.

        Raises Superseded, the function's own errors, and asyncio.CancelledError.
        """
        job = Job(progress)
        if newest:
            self.drop(newest)
            self._newest[newest] = job

        def do() -> T:
            job.between_steps()
            return function(self._ready(), job.between_steps)

        self._jobs.add(job)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, do)
        except Cancelled:
            raise Superseded from None
        finally:
            job.cancelled.set()
            self._jobs.discard(job)
            if self._newest.get(newest) is job:
                del self._newest[newest]

    def drop(self, newest: str) -> None:
        """End the work of this name before its next step, if there is any."""
        if (older := self._newest.get(newest)) is not None:
            older.cancelled.set()

    def stop(self) -> None:
        """End what is being done before its next step; the thread then ends."""
        for job in list(self._jobs):
            job.cancelled.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
