"""Run: a socket, a worker that loads the model, and uvicorn between them, until a signal ends it.

SIGTERM or Ctrl-C: no new connections; what is being answered has the grace to end, the rest gets an error.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable

import uvicorn

from mezzotint.engine.engine import Engine
from mezzotint.server.app import build
from mezzotint.server.logs import log
from mezzotint.server.patient import patient
from mezzotint.server.preview import Preview
from mezzotint.server.settings import Settings
from mezzotint.server.worker import Worker

LAST = 2.0  # seconds for the errors to go out when the grace is over
HEADERS = 1 << 16  # bytes of all headers together


class Server(uvicorn.Server):
    """uvicorn, whose end is also the worker's. It listens for the preview's requests too."""

    def __init__(self, config: uvicorn.Config, worker: Worker, grace: float, preview: Preview) -> None:
        super().__init__(config)
        self.worker, self.grace, self.preview = worker, grace, preview

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        with self.preview.sock:
            super().run([*(sockets or []), self.preview.sock])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log("shutting_down")
        self.worker.drain()
        timer = asyncio.get_running_loop().call_later(self.grace, self.worker.stop)
        await super().shutdown(sockets)
        timer.cancel()
        self.worker.stop()


def serving(load: Callable[[], Engine], settings: Settings) -> Server:
    """A server that is ready to run, its worker started. load: makes the engine."""
    server: Server

    def failed() -> None:
        server.should_exit = True

    worker = Worker(load, settings.queue, failed)
    preview = Preview(_bound(settings, settings.preview_port))
    config = uvicorn.Config(
        build(worker, settings, preview), http=patient(settings.receive), ws="none", lifespan="off", log_config=None,
        access_log=False, server_header=False, proxy_headers=False, h11_max_incomplete_event_size=HEADERS,
        timeout_graceful_shutdown=round(settings.grace + LAST),
    )  # fmt: skip
    server = Server(config, worker, settings.grace, preview)
    worker.start()
    return server


def listen(settings: Settings) -> socket.socket:
    """Raises OSError when the address cannot be had."""
    return _bound(settings, settings.port)


def _bound(settings: Settings, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    return socket.create_server((settings.host, port), family=family, backlog=2048)


def url(bound: socket.socket) -> str:
    host, port, *_ = bound.getsockname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def serve(load: Callable[[], Engine], settings: Settings) -> None:
    """Until a signal. Raises OSError for an address that cannot be had, and what loading the model raised."""
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # it would quote what clients send
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # uvicorn takes it, and hands it on when all is done
    with listen(settings) as bound:
        server = serving(load, settings)
        log("listening", url=url(bound), model=settings.name)
        server.run(sockets=[bound])
    if server.worker.failure is not None:
        raise server.worker.failure
