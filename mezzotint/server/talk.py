"""Talk: what every WebSocket does. Messages come in while an answer to those before them is made."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from contextlib import suppress
from typing import Any

from fastapi import Response, WebSocket
from starlette.websockets import WebSocketDisconnect

from mezzotint.server.errors import ApiError, of
from mezzotint.server.logs import where
from mezzotint.server.service import Service
from mezzotint.server.worker import Cancelled

PROTOCOL = "mezzotint"  # the subprotocol; a key may be another


async def accept(socket: WebSocket) -> None:
    await socket.accept(PROTOCOL if PROTOCOL in socket.scope.get("subprotocols", []) else None)


async def refuse(service: Service, socket: WebSocket, error: Exception) -> None:
    """Instead of accepting: an answer of HTTP."""
    told = of(error)
    await socket.send_denial_response(
        Response(json.dumps(told.to_json()), told.status, told.headers, "application/json")
    )
    service.metrics.failed(told.status)


class Talk:
    """One connection. A kind of it says what it takes from a message, and what it does next."""

    def __init__(self, service: Service, socket: WebSocket) -> None:
        self.service, self.socket = service, socket
        self.waiting: deque[Any] = deque()  # what was taken and not yet answered
        self.fresh = asyncio.Event()
        self.over = False

    async def take(self, message: dict[str, Any]) -> None:
        """Put what an ASGI message says into `waiting`."""
        raise NotImplementedError

    async def next(self) -> None:
        """Answer what waits longest. What it raises is answered by `failed`, but for a lost connection and `Cancelled`."""
        raise NotImplementedError

    async def run(self) -> None:
        """Until the client leaves, says nothing for as long as a request may take, or the server ends."""
        reader = asyncio.create_task(self._read())
        try:
            while not self.over:
                try:
                    async with asyncio.timeout(self.service.settings.deadline):
                        await self.fresh.wait()
                except TimeoutError:
                    await self.close(1001, "nothing was said for too long")
                    return
                self.fresh.clear()
                while self.waiting and not self.over:
                    await self.next()
            if self.waiting:
                self.service.metrics.cancelled()
        except (WebSocketDisconnect, TimeoutError, OSError, RuntimeError, Cancelled):
            self.service.metrics.cancelled()
        finally:
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader

    async def _read(self) -> None:
        try:
            while (message := await self.socket.receive())["type"] != "websocket.disconnect":
                await self.take(dict(message))
                self.fresh.set()
        except RuntimeError:  # it has been closed
            pass
        finally:
            self.over = True
            self.fresh.set()
            self.left()

    def left(self) -> None:
        """The client has gone."""

    async def failed(self, error: Exception, **told: Any) -> ApiError:
        """Tell the client of an error, and what else there is to say; the log, of one that is ours."""
        answer = of(error)
        if answer.status == 500:
            self.socket.state.log["error"] = where(error)
        self.service.metrics.failed(answer.status)
        await self.send({**answer.to_json(), **told})
        return answer

    async def send(self, data: dict[str, Any]) -> None:
        async with asyncio.timeout(self.service.settings.patience):
            await self.socket.send_text(json.dumps(data, separators=(",", ":")))

    async def close(self, code: int, reason: str) -> None:
        with suppress(RuntimeError, OSError):
            await self.socket.close(code, reason)
