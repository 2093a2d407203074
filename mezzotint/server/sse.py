"""Server-sent events: one JSON object a `data:` line, a blank line after it, [DONE] at the end.

A client that leaves ends the work that was done for it; one that does not read is left.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mezzotint.server.errors import of
from mezzotint.server.worker import Cancelled, Stream

EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {"data": {"type": "string"}, "event": {"type": "string"}},
}
STREAMED: dict[int | str, dict[str, Any]] = {  # what the OpenAPI file says of an answer that may be a stream of such
    200: {"content": {"text/event-stream": {"schema": EVENT}}}
}
DONE = b"data: [DONE]\n\n"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def event(data: dict[str, Any]) -> bytes:
    """A key "type" beginning with "response." names the event too, as clients of the Responses API expect."""
    name = str(data.get("type", ""))
    head = f"event: {name}\n".encode() if name.startswith("response.") else b""
    return head + b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


@asynccontextmanager
async def watched(receive: Receive, stream: Stream[Any]) -> AsyncIterator[None]:
    """Cancel `stream` when the client leaves, and at the end in any case. The body has been received by now."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        stream.cancel()

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        stream.cancel()


class EventStream(Response):
    """A response of events. patience: seconds that the client may take to read one. ending: what comes after the last."""

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[dict[str, Any]], stream: Stream[Any], patience: float, failed: Callable[[Exception], None],
        ending: bytes = DONE,
    ) -> None:  # fmt: skip
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self.events, self.stream, self.patience, self.failed = events, stream, patience, failed
        self.ending = ending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write(body: bytes, more: bool = True) -> None:
            async with asyncio.timeout(self.patience):
                await send({"type": "http.response.body", "body": body, "more_body": more})

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with watched(receive, self.stream):
            await self._write(write)

    async def _write(self, write: Callable[..., Awaitable[None]]) -> None:
        try:
            async with aclosing(self.events) as events:
                async for data in events:
                    await write(event(data))
            await write(self.ending, False)
        except (Cancelled, TimeoutError, OSError) as error:
            self.failed(Cancelled() if not isinstance(error, Cancelled) else error)
        except Exception as error:
            self.failed(error)
            with suppress(TimeoutError, OSError):
                await write(event(of(error).to_json()), False)
