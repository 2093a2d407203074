"""A server in this process, on a real socket, and an engine whose steps the test can hold."""

import json
import socket
import threading
import time
from contextlib import contextmanager

import httpx

import mezzotint as mz
from mezzotint.server.keeper import listen, url
from mezzotint.server.run import serving
from mezzotint.server.settings import Settings


class Held(mz.Engine):
    """An engine that makes a step only while `go` is set, and that keeps what it was asked: `asked`."""

    def __init__(self, engine):
        self.__dict__.update(engine.__dict__)
        self.go, self.pause = threading.Event(), 0.0
        self.counts = {"steps": 0, "closed": 0}  # shared with the copy that each row has
        self.asked = []
        self.go.set()

    @property
    def steps(self):
        return self.counts["steps"]

    @property
    def closed(self):
        return self.counts["closed"]

    def stream(self, requests):
        self.asked.append(requests)
        try:
            for event in super().stream(requests):
                self.go.wait(20)
                time.sleep(self.pause)
                self.counts["steps"] += 1
                yield event
        finally:
            self.counts["closed"] += 1


@contextmanager
def slowed(engine, seconds):
    """Every step takes so much longer."""
    engine.pause = seconds
    try:
        yield
    finally:
        engine.pause = 0.0


@contextmanager
def running(engine, **settings):
    """The server's base address, and the server."""
    settings = Settings(port=0, **{"name": "tiny", **settings})
    with listen(settings) as bound:
        server = serving(lambda: engine, settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            base = url(bound).removesuffix("/v1")
            # the socket is bound before the server runs, and a busy machine may take its time in between
            wait(lambda: httpx.get(f"{base}/health", timeout=60).status_code == 200, 60)
            yield base, server
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def connected(base):
    """A socket to the server, for what no client sends."""
    return socket.create_connection(httpx.URL(base).netloc.split(b":"), timeout=20)


def request(path, body):
    """A whole request as bytes."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    return head.encode() + content


def wait(true, seconds=10.0):
    """Until it is true. Fails when it does not become so in time."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def metric(base, name):
    """The sum of a metric's series."""
    lines = httpx.get(f"{base}/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"mezzotint:{name}{{"))
