"""Playground: the page's own addresses, all below /playground.

GET  /  /playground/  /playground/{file}           the page
GET  /playground/info                              what the model is, and what may be chosen
POST /playground/run                               an answer, as it is being made
GET  /playground/traces/{id}  POST .../open        every call of an answer; a saved one
POST /playground/alternatives  /playground/doubt   what the network says of a cell, of a text
POST /playground/preview                           an address, on another origin, for a page that was written
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse, RedirectResponse
from pydantic import Field

from mezzotint.edit.doubt import doubt
from mezzotint.edit.presets import presets
from mezzotint.engine.engine import Engine
from mezzotint.engine.request import Finished, Text
from mezzotint.sampler.decoding import POLICIES
from mezzotint.sampler.lens import Tilt
from mezzotint.sampler.quality import QUALITY
from mezzotint.sampler.trace import Frame, Trace
from mezzotint.server import cells, pages
from mezzotint.server.errors import bad
from mezzotint.server.orders import Order, chat_order, completion_order, fits, seed_of
from mezzotint.server.preview import Preview
from mezzotint.server.service import Service
from mezzotint.server.sse import EventStream
from mezzotint.server.traces import Kept
from mezzotint.server.wire import Body, Chat, Completion, Message
from mezzotint.server.worker import Stream

PACE = 0.05  # seconds between two pictures of a canvas; what is older than the newest is not sent
NEVER = -100.0  # nats
LONGEST = 1 << 20  # characters of a page, and of a text in doubt


class Typed(Body):
    """at: offset in the answer's tokens; no text: it is decided again."""

    at: Annotated[int, Field(ge=0)]
    text: str = ""


class Branch(Body):
    """From frame `frame` of a trace: what was decided stays, except where something was typed.

    instruction: in place of the last message, or of the text that is continued.
    """

    trace: str
    instruction: Annotated[str, Field(max_length=LONGEST)] = ""
    frame: Annotated[int, Field(ge=0)]
    typed: Annotated[list[Typed], Field(default_factory=list, max_length=256)]


class Run(Chat):
    """Instead of messages: prompt, text to continue, as it is; canvas, text with holes, as `[[4]]` of four tokens.

    branch: go on from a step of an earlier answer.
    """

    messages: Annotated[list[Message], Field(default_factory=list)]
    prompt: str | None = None
    canvas: str | None = None
    branch: Branch | None = None


class Cell(Body):
    trace: str
    frame: Annotated[int, Field(ge=0)]
    cell: Annotated[int, Field(ge=0)]


class Page(Body):
    html: Annotated[str, Field(max_length=LONGEST)]
    devices: bool = False


class Doubted(Body):
    document: Annotated[str, Field(min_length=1, max_length=LONGEST)]


class Opened(Body):
    lines: Annotated[str, Field(min_length=1)]


def add(app: FastAPI, service: Service, preview: Preview) -> None:
    """The playground's routes."""
    _page(app, preview)
    _looking(app, service)

    @app.get("/playground/info", include_in_schema=False)
    async def info(request: Request) -> dict[str, Any]:
        engine = service.worker.ready()
        facts = engine.checkpoint.facts
        named = presets()
        return {
            "model": service.name, "denoises": facts.trained_canvas, "leads": engine.canvas_leads,
            "noise": facts.noise, "canvas": facts.canvas_length,
            "chat": engine.tokenizer.chat_template is not None, "context": engine.denoiser.config.max_length,
            "quality": list(QUALITY), "policies": {name: policy.accepts for name, policy in POLICIES.items()},
            "presets": [
                {"name": p.name, "title": p.title, "needs": p.needs, "strength": p.strength, "budget": p.budget}
                for p in named.values()
            ],
            "preview": preview.origin(request.headers.get("host", "")), "most": service.settings.max_tokens,
            "remotes": list(service.settings.remotes),
        }  # fmt: skip

    @app.post("/playground/run", include_in_schema=False)
    async def run(body: Run, request: Request) -> Response:
        engine = service.engine_for(body)
        if body.branch is not None:
            order = await asyncio.to_thread(_branched, service, body.branch, seed_of(body.seed))
        else:
            order = await asyncio.to_thread(_order, service, body)
        asked = order.requests[0]
        kept = Kept([Trace(engine.header(asked))], asked)
        id = f"run-{uuid.uuid4().hex}"
        service.traces.keep(id, kept)
        stream = service.worker.generate(order.requests[:1], service.settings.deadline)
        request.state.log["read"] = order.num_read

        async def events() -> AsyncGenerator[dict[str, Any]]:
            yield {"id": id, "seed": order.seed, "notes": order.notes, "read": order.num_read}
            async for event in _pictures(service, stream, kept):
                yield event
            made = kept.trace
            request.state.log |= {"written": made.num_tokens, "calls": made.num_calls}
            service.metrics.worked(order.num_read, made.num_tokens, made.num_calls, made.num_positions)

        return EventStream(events(), stream, service.settings.patience, service.failed(request))


def _order(service: Service, body: Run) -> Order:
    """Raises ApiError."""
    engine, most = service.worker.ready(), service.settings.max_tokens
    told = body.model_dump(
        include={"decode", "quality", "policy", "seed", "temperature", "max_tokens"}, exclude_unset=True
    )
    if body.canvas is not None:
        return _filled(engine, body.canvas, told, most)
    if body.prompt is not None:
        return _drafted(engine, completion_order(engine, Completion(prompt=[body.prompt], **told), most))
    if not body.messages:
        raise bad("there is nothing to answer; give messages or a prompt", "messages")
    return _drafted(engine, chat_order(engine, body, most))


def _drafted(engine: Engine, order: Order) -> Order:
    """`verified` by the canvas's own drafts, if it has learnt to draft: here they are looked at, even where they cost time."""
    asked = order.requests[0]
    if asked.decode != "verified" or asked.draft != "auto" or asked.tilt or not engine.denoiser.drafts_in_order:
        return order
    return replace(order, requests=[replace(asked, draft="self")])


def _branched(service: Service, body: Branch, seed: int) -> Order:
    """Raises ApiError, and ValueError for a frame that there is not."""
    engine, given = service.worker.ready(), service.traces.get(body.trace)
    if given.request is None:
        raise bad("nothing can go on from an answer of the API; run its prompt in the playground", "branch")
    typed = {place.at: place.text for place in body.typed}
    asked = cells.branch(engine, given.request, given.trace, body.frame, seed, typed, body.instruction)
    fits(engine, asked.prompt, "branch")
    read = len(engine.prompt_ids(asked))
    room = engine.denoiser.config.max_length - read
    if room < 1:
        raise bad(f"the instruction has {read} tokens; the context has {read + room}", "branch")
    return Order([replace(asked, max_tokens=min(asked.max_tokens, room))], read, seed)


def _filled(engine: Engine, canvas: str, told: dict[str, Any], most: int) -> Order:
    """As `completion_order`, for text with holes: what stands between them is locked, and stands in the holes' canvas."""
    first, locks, length = cells.holes(engine, canvas)
    order = completion_order(engine, Completion(prompt=[first], **{**told, "max_tokens": length}), most)
    asked = order.requests[0]
    policy = POLICIES[asked.policy]() if isinstance(asked.policy, str) else asked.policy
    size = max(policy.canvas_length, min(length, engine.checkpoint.facts.canvas_length))
    going_on = Tilt(dict.fromkeys(engine.stop_ids, NEVER))  # an end in a hole would cut off what stands behind it
    asked = replace(asked, locks=locks, tilt=going_on, policy=replace(policy, canvas_length=size))
    return replace(order, requests=[asked])


async def _pictures(service: Service, stream: Stream[Any], kept: Kept) -> AsyncGenerator[dict[str, Any]]:
    """Committed text, all of it, and the newest canvas, at most every `PACE` seconds; at the end what it took."""
    engine = service.worker.ready()
    box: list[Any] = []
    fresh = asyncio.Event()

    async def fill() -> None:
        try:
            async for item in stream:
                box.append(item)
                fresh.set()
        except Exception as error:
            box.append(error)
        box.append(None)
        fresh.set()

    task = asyncio.create_task(fill())
    try:
        clock = asyncio.get_running_loop().time
        due = clock()
        over, reason, calls, tokens, positions = False, "length", 0, 0, 0
        while not over:
            await fresh.wait()
            fresh.clear()
            items, box[:] = box[:], []
            text, newest = "", None
            for item in items:
                if isinstance(item, Frame):
                    kept.trace.add(item)
                    newest = item
                    calls, tokens = calls + item.calls, tokens + item.committed
                    positions += item.positions if item.calls else 0
                elif isinstance(item, Text):
                    text += item.piece
                elif isinstance(item, Finished):
                    reason = item.reason
                elif isinstance(item, Exception):
                    raise item
                over = over or item is None
            if newest is not None or text:
                picture: dict[str, Any] = {"text": text, "calls": calls, "tokens": tokens, "positions": positions}
                if newest is not None:
                    shown = cells.cells(engine, newest.tokens[newest.committed :], newest.status[newest.committed :])
                    picture |= {"cells": shown, "kind": newest.kind, "frame": len(kept.trace.frames) - 1}
                    picture["seconds"] = newest.seconds
                yield picture
            now = clock()
            due = max(due + PACE, now + 0.5 * PACE)  # a picture that was late does not put off the next
            if not over:
                await asyncio.sleep(due - now)
        service.metrics.succeeded([reason], stream.age, stream.waited)
        yield {"done": reason, "waited": round(stream.waited, 4), **cells.counts(kept.trace)}
    finally:
        task.cancel()


def _looking(app: FastAPI, service: Service) -> None:
    """What can be asked of an answer's steps, and of a text."""

    @app.get("/playground/traces/{id}", include_in_schema=False)
    async def trace(id: str) -> dict[str, Any]:
        engine, kept = service.worker.ready(), service.traces.get(id)
        return {"id": id, **await asyncio.to_thread(cells.view, engine, kept.trace)}

    @app.get("/playground/traces/{id}/file", include_in_schema=False)
    async def file(id: str) -> Response:
        lines = await asyncio.to_thread(service.traces.get(id).trace.lines)
        return PlainTextResponse(lines, media_type="application/jsonl")

    @app.post("/playground/traces/open", include_in_schema=False)
    async def opened(body: Opened) -> dict[str, Any]:
        """A saved trace, drawn. It is not kept: nothing branches from it."""
        engine = service.worker.ready()
        return await asyncio.to_thread(lambda: cells.view(engine, cells.parsed(engine, body.lines)))

    @app.post("/playground/alternatives", include_in_schema=False)
    async def alternatives(body: Cell, request: Request) -> dict[str, Any]:
        service.engine_for(body)
        kept = service.traces.get(body.trace)
        asked = kept.request
        if asked is None:
            raise bad("nothing can be asked of an answer of the API; run its prompt in the playground", "trace")
        work = service.worker.call(
            lambda engine, report: cells.alternatives(engine, asked, kept.trace, body.frame, body.cell),
            service.settings.deadline,
        )
        return {"alternatives": await service.first(request, work)}

    @app.post("/playground/doubt", include_in_schema=False)
    async def doubted(body: Doubted, request: Request) -> dict[str, Any]:
        service.engine_for(body)
        work = service.worker.call(
            lambda engine, report: doubt(engine, body.document, report=report), service.settings.deadline
        )
        found = await service.first(request, work)
        return {**found.to_json(), "words": found.words()}


def _page(app: FastAPI, preview: Preview) -> None:
    files = pages.files()

    @app.get("/", include_in_schema=False)
    @app.get("/playground", include_in_schema=False)
    async def home() -> Response:
        return RedirectResponse("/playground/", 307)

    @app.get("/playground/", include_in_schema=False)
    async def index(request: Request) -> Response:
        return pages.index(files["index.html"], preview.origin(request.headers.get("host", "")))

    @app.post("/playground/preview", include_in_schema=False)
    async def show(body: Page, request: Request) -> dict[str, str]:
        return {"url": preview.add(body.html, body.devices, request.headers.get("host", ""))}

    @app.get("/playground/files/{path:path}", include_in_schema=False)
    async def file(path: str, request: Request) -> Response:
        return pages.answer(files.get(path), request)
