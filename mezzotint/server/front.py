"""Front: the ASGI application before the replicas. It hands calls on, and tells a stream again whose replica has died.

    a call gets its chance (`chance.py`)  ->  replica a:  event event event SIGKILL
                                          ->  replica b:  event event event event event [DONE]
    to the client                                         event event event event event [DONE]

With the same chance the second telling is the first, so the events that went out are known by their bytes and left out: no
character comes twice. One that differs, or that no replica takes up within `AGAIN` seconds, ends in an error event.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing, suppress
from types import SimpleNamespace

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from mezzotint.server.call import Call, beginning
from mezzotint.server.errors import ApiError, busy
from mezzotint.server.guard import respond
from mezzotint.server.metrics import Metrics, joined
from mezzotint.server.settings import Settings
from mezzotint.server.sse import event
from mezzotint.server.worker import client

AGAIN = 0.7  # seconds in which another replica must have taken up what a dead one left
HEALTH = ("/health", "/v1/health")  # of what lives, the server's end or not
TRACES = "/v1/traces/"
Ask = Callable[[Call], AsyncGenerator[Message]]


class Lost(Exception):
    """The replica that was asked is gone."""


class Front:
    """ask: a call's messages, from whichever replica takes it: `taken`, those of ASGI, `over`; raises Lost. Before
    `ready_count` is more than 0, and once it is draining, it refuses.
    """

    def __init__(self, ask: Ask, settings: Settings, metrics: Metrics) -> None:
        self._ask, self.settings, self.metrics = ask, settings, metrics
        self.ready_count = 0  # replicas that answer
        self.draining = False
        self._tasks: set[asyncio.Task[None]] = set()

    def drain(self) -> None:
        """Take no more calls; those there are go on."""
        self.draining = True

    def stop(self) -> None:
        """What there is ends with an error."""
        self.draining = True
        for task in list(self._tasks):
            task.cancel()

    def check(self) -> None:
        """Raises ApiError 503 while no replica answers, and at the end."""
        if self.draining:
            raise busy(503, "the server is shutting down", "shutting_down", 5)
        if not self.ready_count:
            raise busy(503, "the model is not loaded yet", "model_not_ready", 5)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            raise ApiError(501, "replicas answer no WebSockets; start a server without --replicas for them")
        path = scope["path"]
        if path not in HEALTH or not self.ready_count:
            self.check()
        if path in (*HEALTH, "/ready"):
            said = {"status": "ready" if path == "/ready" else "ok", "replicas": self.ready_count}
            await JSONResponse(said)(scope, receive, send)
            return
        if path == "/metrics":
            await PlainTextResponse(await self._metrics())(scope, receive, send)
            return
        body = (await receive())["body"]
        headers = tuple((name, value) for name, value in scope["headers"] if name != b"authorization")  # keys stay here
        call = Call(
            scope["method"], path, scope["query_string"], headers, body, client.get(),
            secrets.randbits(128), int(time.time()), beginning(body),
        )  # fmt: skip
        if path.startswith(TRACES):
            call = await self._holder(call)
        telling = Telling(self._ask, call, send, self.settings.patience, scope)
        task = asyncio.create_task(telling.run())
        self._tasks.add(task)
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                scope["state"]["log"]["ended"] = "client left"
                task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            if task.cancelled() and self.draining and not leaving.done():
                await telling.fail(busy(503, "the server is shutting down", "shutting_down", 5))
        finally:
            self._tasks.discard(task)
            task.cancel()
            leaving.cancel()

    async def _whole(self, call: Call) -> tuple[int, bytes]:
        """Its status and body. Raises ApiError."""
        status, body = 0, b""
        try:
            async with aclosing(self._ask(call)) as messages:
                async for message in messages:
                    status = message.get("status", status)
                    body += message.get("body", b"")
        except Lost:
            raise _died() from None
        return status, body

    def _everyone(self, call: Call) -> list[Call]:
        return [_turned(call, turn) for turn in range(self.ready_count)]

    async def _holder(self, call: Call) -> Call:
        """The same call, to the replica that keeps what it asks for; to any where none does."""
        for turned in self._everyone(call):
            status, _ = await self._whole(turned)
            if status != 404:
                return turned
        return call

    async def _metrics(self) -> str:
        call = Call("GET", "/metrics", b"", (), b"", None, 0, 0)
        found = await asyncio.gather(*(self._whole(turned) for turned in self._everyone(call)))
        texts = {str(number): body for number, (_, body) in enumerate(found)}
        return joined({"front": self.metrics.text(0, 0), **texts})  # it knows what was refused


class Telling:
    """One call being answered. scope: of the client's request; its log is told what became of it."""

    def __init__(self, ask: Ask, call: Call, send: Send, patience: float, scope: Scope) -> None:
        self._ask, self._call, self._send, self._patience, self._scope = ask, call, send, patience, scope
        self._started = self._streams = self._held = False  # held: a replica has taken this telling up
        self._sent: list[bytes] = []
        self._due: dict[int, deque[bytes]] = {}  # of an earlier telling, not yet told again; by choice

    async def run(self) -> None:
        lost: float | None = None
        log, now = self._scope["state"]["log"], asyncio.get_running_loop().time
        while True:
            try:
                await self._tell(lost)
                return
            except Lost:
                lost = now() if lost is None or self._held else lost
                log["replays"] = log.get("replays", 0) + 1
                self._due = _by_choice(self._sent)
                if now() - lost > AGAIN:
                    await self.fail(_died())
                    return
                await asyncio.sleep(0.02)
            except ApiError as error:
                await self.fail(error)
                return
            except (TimeoutError, OSError):
                log["ended"] = "client left"
                return

    async def _tell(self, lost: float | None) -> None:
        """Raises Lost, ApiError, and what writing to the client raises."""
        self._held = False
        start: Message | None = None
        whole = bytearray()
        async with aclosing(self._ask(self._call)) as messages:
            await self._taken(messages, lost)
            async for message in messages:
                kind = message["type"]
                if kind == "http.response.start":
                    start = message
                    self._streams = (
                        Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream")
                    )
                    if self._streams and not self._started:
                        await self._write(start)
                elif kind == "http.response.body" and self._streams:
                    if self._new(message["body"]):
                        self._sent.append(message["body"])
                        await self._write(message)
                elif kind == "http.response.body":
                    whole += message["body"]
                elif kind == "over":
                    self._scope["route"] = SimpleNamespace(path=message["route"])
                    self._scope["state"]["log"] |= message["log"]
        if not self._streams and start is not None:
            await self._write(start)
            await self._write({"type": "http.response.body", "body": bytes(whole)})

    async def _taken(self, messages: AsyncGenerator[Message], lost: float | None) -> None:
        """Until a replica has it. A call that was lost has so long only."""
        try:
            async with asyncio.timeout_at(None if lost is None else lost + AGAIN):
                message = await anext(messages)
        except TimeoutError:
            raise _died() from None
        self._held = True
        self._scope["state"]["log"]["replica"] = message["replica"]

    def _new(self, body: bytes) -> bool:
        """Is it an event that has not gone out? Raises ApiError where it should be one that has, and is not."""
        due = self._due.get(_choice(body)) if self._due else None
        if not due:
            return True
        if due.popleft() != body:
            raise _died()
        return False

    async def _write(self, message: Message) -> None:
        self._started = True
        async with asyncio.timeout(self._patience):
            await self._send(message)

    async def fail(self, error: ApiError) -> None:
        """An error as the answer, or as a stream's last event."""
        with suppress(TimeoutError, OSError):
            if not self._started:
                await respond(error, self._send)
            elif self._streams:
                self._scope["state"]["log"]["ended"] = error.code
                await self._write({"type": "http.response.body", "body": event(error.to_json())})


def _died() -> ApiError:
    return busy(503, "the replica that was answering has died; ask again", "replica_died", 1)


def _turned(call: Call, turn: int) -> Call:
    return Call(**{**call.__dict__, "turn": turn})


def _by_choice(events: Iterable[bytes]) -> dict[int, deque[bytes]]:
    found: dict[int, deque[bytes]] = defaultdict(deque)
    for one in events:
        found[_choice(one)].append(one)
    return dict(found)


def _choice(body: bytes) -> int:
    """Of which choice an event is: their order among one another is not the chance's. -1: of none."""
    try:
        return int(json.loads(body.partition(b"data: ")[2])["choices"][0]["index"])
    except (ValueError, KeyError, IndexError, TypeError):
        return -1


async def _left(receive: Receive) -> None:
    """Until the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
