"""Guard: what every request passes before anything reads it.

who asks (key; without keys: Host and Origin of this machine)     401, 421, 403
how much, and how soon (body size, time to send it)               413, 408
what went out: x-request-id on every answer, one line in the log, OpenAI's envelope for every error
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mezzotint.server.errors import ApiError, of
from mezzotint.server.logs import log, where
from mezzotint.server.metrics import Metrics
from mezzotint.server.settings import LOOPBACK, Settings
from mezzotint.server.worker import client

OPEN = ("/health", "/ready", "/v1/health")  # asked by machines that have no key
PAGE = ("/", "/playground", "/playground/")  # holds no secret, and asks its user for the key
FILES = "/playground/files/"
SOUND = "/v1/audio/transcriptions"  # longer than any text
KEY = "key."  # a WebSocket's protocol that is a key, in base64url


class Guard:
    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self._keys = [_digest(key.encode()) for key in settings.keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        if scope["type"] != "http":
            return
        began, status = time.monotonic(), 0
        number = f"req_{uuid.uuid4().hex}"
        told = scope.setdefault("state", {})["log"] = {}

        async def write(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", number.encode())]
            await send(message)

        try:
            self._admit(scope)
            body = await self._body(scope, receive)
            await self.app(scope, _replay(body, receive), write)
        except Exception as error:
            told["error"] = where(error)
            if not status:
                await respond(of(error), write)
        if status >= 400:
            self.metrics.failed(status)
        route = getattr(scope.get("route"), "path", None)  # of the table, never what was asked for
        seconds = round(time.monotonic() - began, 4)
        log("request", id=number, method=scope["method"][:16], route=route, status=status, seconds=seconds, **told)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket. Who may not have one gets the answer that a request would get."""
        began, status, number = time.monotonic(), 101, f"req_{uuid.uuid4().hex}"
        told = scope.setdefault("state", {})["log"] = {}
        try:
            self._admit(scope)
            await self.app(scope, receive, send)
        except ApiError as error:
            status = error.status
            self.metrics.failed(status)
            await respond(error, send, "websocket.http.response")
        except Exception as error:
            told["error"], status = where(error), 500
        route = getattr(scope.get("route"), "path", None)
        seconds = round(time.monotonic() - began, 4)
        log("request", id=number, method="WEBSOCKET", route=route, status=status, seconds=seconds, **told)

    def _admit(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if self._keys:
            path = scope["path"]
            if path in (*OPEN, *PAGE) or path.startswith(FILES):
                return
            if not (number := self._known(headers.get("authorization") or _offered(scope))):
                raise ApiError(401, "the API key is missing or wrong", "invalid_api_key")
            if len(self._keys) > 1:
                client.set(number)  # of this request's task; each key has its share of the engine
        else:
            if _host(f"//{headers.get('host', '')}") not in LOOPBACK:
                raise ApiError(421, "this server answers to the names of its own machine alone", "unknown_host")
            if "origin" in headers and _host(headers["origin"]) not in LOOPBACK:
                raise ApiError(403, "pages of other sites may not ask this server", "unknown_origin")

    def _known(self, authorization: str) -> int:
        """Which key it is, from 1; 0 for none. Compared with every key to the end, so that time tells nothing."""
        kind, _, key = authorization.partition(" ")
        given = _digest(key.strip().encode("latin-1", "replace"))
        found = [hmac.compare_digest(given, known) for known in self._keys]
        return found.index(True) + 1 if any(found) and kind.lower() == "bearer" else 0

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body. Raises ApiError for one that is too long or too slow."""
        most = self.settings.audio_bytes if scope["path"] == SOUND else self.settings.body_bytes
        declared = Headers(scope=scope).get("content-length", "0")
        too_long = ApiError(413, f"the body is longer than the {most} bytes it may be", "request_too_large")
        if declared.isdecimal() and int(declared[:20]) > most:
            raise too_long
        body = bytearray()
        try:
            async with asyncio.timeout(self.settings.receive):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(400, "the client left before its request was whole")
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > most:
                        raise too_long
        except TimeoutError:
            raise ApiError(408, f"the request took longer than {self.settings.receive:g} s to arrive") from None
        return bytes(body)


def _offered(scope: Scope) -> str:
    """The key that a WebSocket offers as a protocol, as an Authorization header has it: browsers let pages set no header."""
    for name in scope.get("subprotocols", []):
        if name.startswith(KEY):
            with suppress(ValueError):
                text = name.removeprefix(KEY)
                return f"Bearer {base64.urlsafe_b64decode(text + '=' * (-len(text) % 4)).decode('latin-1')}"
    return ""


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _host(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body in one message; after it whatever comes, which is the client's leaving."""
    first: Iterable[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def again() -> Message:
        for message in first:
            return message
        return await receive()

    return again


async def respond(error: ApiError, send: Send, kind: str = "http.response") -> None:
    body = json.dumps(error.to_json()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
    if error.status in (408, 413):
        headers["connection"] = "close"  # the rest of the body is not read
    pairs = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": f"{kind}.start", "status": error.status, "headers": pairs})
    await send({"type": f"{kind}.body", "body": body})
