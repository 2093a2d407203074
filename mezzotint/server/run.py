"""Run: the keeper's socket, a worker that loads the model, and uvicorn between them, until a signal ends it.

SIGTERM or Ctrl-C: no new connections; what is being answered has the grace to end, the rest gets an error.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

import uvicorn
from starlette.types import ASGIApp

from mezzotint.engine.engine import Engine
from mezzotint.server.app import build
from mezzotint.server.keeper import Link, listen
from mezzotint.server.logs import log
from mezzotint.server.patient import patient
from mezzotint.server.preview import Preview
from mezzotint.server.settings import Settings
from mezzotint.server.worker import Worker

LAST = 2.0  # seconds for the errors to go out when the grace is over
HEADERS = 1 << 16  # bytes of all headers together
IDLE = 15  # seconds that an unused connection is kept: longer than clients keep theirs (httpx 5), or both would close at once


class Work(Protocol):
    """What a server answers with: it can be told to take no more, and to end."""

    def drain(self) -> None: ...

    def stop(self) -> None: ...


W = TypeVar("W", bound=Work)


class Server(uvicorn.Server, Generic[W]):
    """uvicorn, whose end is also the worker's. It listens for the preview's requests too, where there is one."""

    def __init__(
        self, config: uvicorn.Config, worker: W, grace: float, serving: Callable[[], None], preview: Preview | None = None
    ) -> None:  # fmt: skip
        super().__init__(config)
        self.worker, self.grace, self.serving, self.preview = worker, grace, serving, preview

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        with ExitStack() as stack:
            more = [stack.enter_context(self.preview.sock)] if self.preview is not None else []
            super().run([*(sockets or []), *more])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.serving()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log("shutting_down")
        self.worker.drain()
        timer = asyncio.get_running_loop().call_later(self.grace, self.worker.stop)
        await super().shutdown(sockets)
        timer.cancel()
        self.worker.stop()


def configured(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app, http=patient(settings.receive), ws="websockets-sansio", ws_max_size=settings.body_bytes,
        ws_per_message_deflate=False, lifespan="off", log_config=None,
        access_log=False, server_header=False, proxy_headers=False, h11_max_incomplete_event_size=HEADERS,
        timeout_keep_alive=IDLE, timeout_graceful_shutdown=round(settings.grace + LAST),
    )  # fmt: skip


def serving(
    load: Callable[[], Engine], settings: Settings, serves: Callable[[], None] = lambda: None
) -> Server[Worker]:
    """A server that is ready to run, its worker started. load: makes the engine. serves: called when it answers."""
    server: Server[Worker]

    def failed() -> None:
        server.should_exit = True

    worker = Worker(load, settings.queue, failed)
    preview = Preview(listen(replace(settings, port=settings.preview_port)))
    config = configured(build(worker, settings, preview), settings)
    server = Server(config, worker, settings.grace, serves, preview)
    worker.start()
    return server


def serve(load: Callable[[], Engine], settings: Settings, link: Link) -> None:
    """On the keeper's socket, until a signal. Raises what loading the model raised."""
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # it would quote what clients send
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # uvicorn takes it, and hands it on when all is done
    with link.bound as bound:
        server = serving(load, settings, link.serving)
        server.run(sockets=[bound])
    if server.worker.failure is not None:
        raise server.worker.failure
