"""Keeper: the process that holds the address, and starts the one that serves anew when that is killed.

    keeper    binds the socket; answers 503 while nobody serves; passes signals on
    server    inherits the socket, loads the model, serves        killed -> another one, at once

A server that ends by itself, with whatever exit code, ends the keeper too: a model that cannot be loaded now will not be
loaded later. When the keeper is gone the server ends as on SIGTERM. Nothing of torch is imported here.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from mezzotint.server.errors import busy
from mezzotint.server.logs import log
from mezzotint.server.settings import Settings

DESCRIPTORS = "MEZZOTINT_SERVE_FDS"  # of the socket and of the link, for the server
QUICK = 10.0  # seconds of life below which a server's death is no accident, and the next one waits
READY = b"1"


def listen(settings: Settings) -> socket.socket:
    """Raises OSError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    return socket.create_server((settings.host, settings.port), family=family, backlog=2048)


def url(bound: socket.socket) -> str:
    host, port, *_ = bound.getsockname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


class Link:
    """The server's end: it says when it serves, and learns when the keeper is gone."""

    def __init__(self, bound: socket.socket, line: socket.socket) -> None:
        self.bound, self._line = bound, line
        threading.Thread(target=self._watch, name="keeper", daemon=True).start()

    def serving(self) -> None:
        with suppress(OSError):
            self._line.send(READY)

    def _watch(self) -> None:
        with suppress(OSError):
            while self._line.recv(1):
                pass
        os.kill(os.getpid(), signal.SIGTERM)


def inherited() -> Link | None:
    """The link of a process that a keeper has started; None in any other."""
    numbers = os.environ.pop(DESCRIPTORS, None)
    if numbers is None:
        return None
    bound, line = (socket.socket(fileno=int(number)) for number in numbers.split(","))
    return Link(bound, line)


def keep(
    settings: Settings, command: Sequence[str] | None = None, listening: Callable[[str], None] = lambda url: None
) -> int:
    """Serve until a server ends by itself -> its exit code. command: starts one; as this process was started by default.
    listening: called with the API's address when it is known.

    Raises OSError for an address that cannot be had.
    """
    command = command or [sys.executable, "-m", "mezzotint", *sys.argv[1:]]
    servers: list[subprocess.Popen[bytes]] = []
    told: list[int] = []

    def pass_on(number: int, _: object) -> None:
        told.append(number)
        if servers:
            servers[-1].send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    with listen(settings) as bound:
        bound.setblocking(False)  # shared with the server, which wants it so
        log("listening", url=url(bound), model=settings.name)
        listening(url(bound))
        quick = 0
        while True:
            began = time.monotonic()
            here, there = socket.socketpair()
            with here:
                with there:
                    server = _start(command, bound, there)
                servers.append(server)
                if told:
                    server.send_signal(told[-1])
                log("server_started", pid=server.pid)
                _refuse_until(bound, here)
                code = server.wait()
            if told:
                return max(code, 0)
            if code >= 0:
                return code
            log("server_died", signal=-code)
            quick = quick + 1 if time.monotonic() - began < QUICK else 0
            _refuse_until(bound, None, min(30.0, 2.0**quick - 1), told)
            if told:
                return 0


def _start(command: Sequence[str], bound: socket.socket, line: socket.socket) -> subprocess.Popen[bytes]:
    passed = (bound.fileno(), line.fileno())
    env = {**os.environ, DESCRIPTORS: ",".join(map(str, passed))}
    return subprocess.Popen(command, pass_fds=passed, env=env, start_new_session=True)


def _refuse_until(
    bound: socket.socket, line: socket.socket | None, seconds: float | None = None, told: Sequence[int] = ()
) -> None:
    """Answer 503 to whoever comes, until the line speaks or closes, or the time is over, or a signal came."""
    end = None if seconds is None else time.monotonic() + seconds
    while not told and (end is None or time.monotonic() < end):
        wanted = [bound] if line is None else [bound, line]
        ready, _, _ = select.select(wanted, [], [], 0.1)
        if line is not None and line in ready:
            return
        if bound in ready:
            with suppress(OSError):
                link, _ = bound.accept()
                threading.Thread(target=_refuse, args=(link,), daemon=True).start()


def _refuse(link: socket.socket) -> None:
    error = busy(503, "the model is not loaded yet", "model_not_ready", 5)
    body = json.dumps(error.to_json()).encode()
    head = (
        f"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        f"retry-after: {error.headers['Retry-After']}\r\nrefresh: 1\r\nconnection: close\r\n\r\n"  # browsers ask again
    )
    with link, suppress(OSError):
        link.settimeout(2)
        link.recv(1 << 16)  # what was asked does not matter
        link.sendall(head.encode() + body)
        link.shutdown(socket.SHUT_WR)
        while link.recv(1 << 16):  # a body that is still coming: closing now would reset the answer
            pass
