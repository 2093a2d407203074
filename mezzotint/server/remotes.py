"""Remotes: models elsewhere that the playground may ask, those alone that this server was started with. Their keys stay here.

POST /playground/remote     an answer, as it comes: the events of /playground/run, with one cell for a whole draft
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, cast

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from mezzotint.engine.remote import Ended, Remote, RemoteError, Snapshot
from mezzotint.engine.request import Request as Asked
from mezzotint.engine.request import Text
from mezzotint.server.errors import ApiError, bad
from mezzotint.server.service import Service
from mezzotint.server.sse import EventStream
from mezzotint.server.tools import as_text
from mezzotint.server.wire import Message
from mezzotint.server.worker import Stream


class Asking(BaseModel):
    """remote: one of the names that /playground/info lists. prompt: a user's message, or messages: a conversation."""

    model_config = ConfigDict(strict=True, extra="ignore")
    remote: str
    prompt: Annotated[str, Field(max_length=1 << 20)] = ""
    messages: Annotated[list[Message], Field(default_factory=list, max_length=1 << 12)]
    max_tokens: Annotated[int, Field(ge=1)] = 128
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0


class Heard:
    """What a remote model says, as it comes; it stops when it is cancelled."""

    def __init__(self, remote: Remote, request: Asked) -> None:
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self._task = asyncio.create_task(self._fill(remote, request))

    async def _fill(self, remote: Remote, request: Asked) -> None:
        try:
            async with aclosing(remote.events(request)) as events:
                async for event in events:
                    self._queue.put_nowait(event)
        except RemoteError as error:
            self._queue.put_nowait(ApiError(502, str(error), "remote_failed"))
        except ValueError as error:
            self._queue.put_nowait(bad(str(error)))
        finally:
            self._queue.put_nowait(None)

    def cancel(self) -> None:
        self._task.cancel()

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (item := await self._queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item


def add(app: FastAPI, service: Service) -> None:
    """Raises ValueError for a remote model without a key, or of another name."""
    remotes = {name: Remote.of(name, diffusing=name.startswith("mercury:")) for name in service.settings.remotes}

    @app.post("/playground/remote", include_in_schema=False)
    async def remote(body: Asking, request: Request) -> Response:
        if body.remote not in remotes:
            known = ", ".join(remotes) or "none; start the server with --remote openai:NAME"
            raise ApiError(
                404, f"there is no remote model {body.remote!r} here; known: {known}", "model_not_found", "remote"
            )
        said = [{"role": message.role, "content": as_text(message.model_dump())} for message in body.messages]
        if not (said or body.prompt.strip()):
            raise bad("there is nothing to answer; give messages or a prompt", "messages")
        asked = Asked(
            said or body.prompt, max_tokens=min(body.max_tokens, service.settings.max_tokens), temperature=body.temperature,
            deadline=time.monotonic() + service.settings.deadline,
        )  # fmt: skip
        heard = Heard(remotes[body.remote], asked)
        stream = cast("Stream[Any]", heard)  # of which the response needs no more than `cancel`
        return EventStream(_pictures(heard), stream, service.settings.patience, service.failed(request))


async def _pictures(heard: Heard) -> AsyncGenerator[dict[str, Any]]:
    """tokens: as the server counts them at the end; until then pieces of text."""
    began, pieces = time.perf_counter(), 0
    async for event in heard:
        seconds = round(time.perf_counter() - began, 4)
        if isinstance(event, Snapshot):
            yield {"text": "", "cells": [[event.text, "draft"]], "tokens": 0, "calls": 0, "seconds": seconds}
        elif isinstance(event, Text):
            pieces += 1
            yield {"text": event.piece, "cells": [], "tokens": pieces, "calls": 0, "seconds": seconds}
        elif isinstance(event, Ended):
            usage = event.usage
            tokens = pieces if usage.completion is None else usage.completion
            yield {
                "done": event.reason,
                "tokens": tokens,
                "calls": usage.calls or 0,
                "seconds": seconds,
                "notes": event.notes,
            }
