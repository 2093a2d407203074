"""Live translation over HTTP: a source that keeps being revised, and after each revision what is committed and what is draft.

POST /v1/translate/stream    all hypotheses of a source in one body (JSON, or a line each) -> an event for each
WS   /v1/translate/live      a message a hypothesis, an answer for each; what a newer one has overtaken is passed over

    -> {"source": "I have seen"}                       -> {"source": "I have seen the sea.", "final": true}
    <- {"rev": 1, "committed": "", "draft": "J'ai vu", ...}   <- {"rev": 2, "committed": "J'ai vu la mer.", "final": true, ...}

A browser's WebSocket sends no headers of ours, so a key may come as a protocol: `mezzotint, key.<base64url of the key>`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from pydantic import Field, ValidationError

from mezzotint.edit.ask import Report
from mezzotint.engine.engine import Engine
from mezzotint.live.translate import Live, Translator, Update, Writer
from mezzotint.server import chance
from mezzotint.server.errors import ApiError, bad, busy
from mezzotint.server.orders import fits
from mezzotint.server.service import Service, ignored
from mezzotint.server.sse import STREAMED, EventStream
from mezzotint.server.talk import Talk, accept, refuse
from mezzotint.server.wire import Body, param
from mezzotint.server.worker import Cancelled
from mezzotint.server.worker import Stream as Work

MOST_HYPOTHESES = 4096
MOST_WAITING = 64  # ended texts of a connection that wait for their translation
LINES = "application/x-ndjson"


class Following(Body):
    """How a source is followed; see `live/translate.py`. deadline_ms: for an update, the last of a text excepted."""

    source_language: Annotated[str, Field(min_length=1)] = "English"
    target_language: Annotated[str, Field(min_length=1)] = "French"
    rule: str = "agreement"
    n: int = 2
    threshold: float = 0.9
    hold: int = 0
    max_erasure: float | None = None
    max_replaced: int | None = None
    deadline_ms: Annotated[int | None, Field(ge=1, le=86_400_000)] = None

    def live(self, most: int) -> Live:
        """Raises ValueError."""
        return Live(
            self.source_language, self.target_language, self.rule, self.n, self.threshold, self.hold, self.max_erasure,
            self.max_replaced, self.deadline_ms and self.deadline_ms / 1000, most,
        )  # fmt: skip


class Stream(Following):
    """hypotheses: the source so far, again and again; it may grow, change and shrink. final: does it end with the last?"""

    hypotheses: Annotated[list[str], Field(min_length=1, max_length=MOST_HYPOTHESES)]
    final: bool = True


class Said(Following):
    """A message: the source so far, and whether it ends here. What it says of how to follow counts from a text's beginning.

    rev: any number of the client's; the answer repeats it as `of`.
    """

    source: str
    final: bool = False
    rev: int | None = None


def add(app: FastAPI, service: Service) -> None:
    open_now: set[WebSocket] = set()

    @app.post(
        "/v1/translate/stream", responses=STREAMED,
        openapi_extra={"requestBody": {"required": True, "content": {
            "application/json": {"schema": Stream.model_json_schema()}, LINES: {"schema": {"type": "string"}},
        }}},
    )  # fmt: skip
    async def stream(request: Request) -> Response:
        """A source as it was revised, translated after each revision: an event with `committed` and `draft` for every hypothesis.

        As application/x-ndjson each line is a hypothesis, a string or an object with `source`; an object without one says how to
        follow them.
        """
        body = _stream(await request.body(), request.headers.get("content-type", ""))
        service.engine_for(body)
        live = body.live(service.settings.max_tokens)
        engine = service.worker.ready()
        Writer(engine)
        id, notes = f"translation-{chance.digits()}", [*_notes(engine), *ignored(body)]

        def work(engine: Engine, report: Report) -> Iterator[Update]:
            translator = Translator(Writer(engine, report=report), live)
            for number, text in enumerate(body.hypotheses, 1):
                yield translator.update(text, body.final and number == len(body.hypotheses))

        updates = service.worker.each(work, service.settings.deadline)

        async def events() -> AsyncGenerator[dict[str, Any]]:
            calls = positions = 0
            warning = {"warning": "; ".join(notes)} if notes else {}
            try:
                async for update in updates:
                    calls, positions = calls + update.calls, positions + update.positions
                    yield {
                        "id": id,
                        "object": "translation.update",
                        "model": service.name,
                        **update.to_json(),
                        **warning,
                    }
                    warning = {}
                service.metrics.succeeded(["stop"], updates.age, updates.waited)
            finally:
                request.state.log |= {"calls": calls, "updates": len(body.hypotheses)}
                service.metrics.worked(0, 0, calls, positions)

        return EventStream(events(), updates, service.settings.patience, service.failed(request))

    @app.get("/v1/translate/live", responses={101: {"description": "a WebSocket, for one that asks for it"}})
    async def plain() -> Response:
        """A WebSocket: a message `{"source", "final"}` a hypothesis, `{"rev", "committed", "draft", "final", ...}` in answer.

        The first message of a text may say how to follow it, with the fields of /v1/translate/stream; after `final` another text
        may begin. A key: in Authorization, or as the protocol `key.<base64url>` beside `mezzotint`.
        """
        raise bad("this address is a WebSocket's; ask for an upgrade to one")

    @app.websocket("/v1/translate/live")
    async def live(socket: WebSocket) -> None:
        try:
            Writer(service.worker.ready())
            if len(open_now) >= service.settings.queue:
                raise busy(429, f"{service.settings.queue} connections are open, which is the most", "queue_full", 5)
        except (ApiError, ValueError) as error:
            await refuse(service, socket, error)
            return
        await accept(socket)
        open_now.add(socket)
        talk = _Translation(service, socket)
        try:
            await talk.run()
        finally:
            open_now.discard(socket)
            socket.state.log |= {"calls": talk.calls, "updates": talk.updates}
            service.metrics.worked(0, 0, talk.calls, talk.positions)


class _Translation(Talk):
    """Hypotheses come in while the engine is at work, and only the newest of a text waits."""

    def __init__(self, service: Service, socket: WebSocket) -> None:
        super().__init__(service, socket)
        self.calls = self.positions = self.updates = 0
        self.translator: Translator | None = None
        self.work: Work[Update] | None = None

    async def next(self) -> None:
        said = self.waiting.popleft()
        if isinstance(said, ApiError):
            await self.failed(said)
        else:
            await self._answer(said)

    def left(self) -> None:
        if self.work is not None:
            self.work.cancel()

    async def take(self, message: dict[str, Any]) -> None:
        self._take(message.get("text"))

    def _take(self, text: str | None) -> None:
        try:
            said = _said(text)
        except ApiError as error:
            self._queue(error)
            return
        last = self.waiting[-1] if self.waiting else None
        if isinstance(last, Said) and not last.final:
            fields = (
                said.model_fields_set | last.model_fields_set
            )  # what the first of a text says of how to follow holds
            kept = {name: getattr(last, name) for name in last.model_fields_set - {"source", "final", "rev"}}
            given = {name: getattr(said, name) for name in said.model_fields_set}
            self.waiting[-1] = Said.model_construct(fields, **(kept | given))
        else:
            self._queue(said)

    def _queue(self, item: Said | ApiError) -> None:
        if len(self.waiting) >= MOST_WAITING:
            item = busy(429, f"{MOST_WAITING} texts are waiting, which is the most", "queue_full", 5)
            self.waiting[-1] = item
        else:
            self.waiting.append(item)

    async def _answer(self, said: Said) -> None:
        service = self.service
        notes: list[str] = []
        try:
            engine = service.engine_for(said)
            fits(engine, said.source, "source")
            if self.translator is None or self.translator.ended:
                self.translator = Translator(Writer(engine), said.live(service.settings.max_tokens))
                notes = [*_notes(engine), *ignored(said)]
            translator = self.translator
            work = service.worker.call(
                lambda engine, report: translator.update(said.source, said.final, Writer(engine, report=report)),
                service.settings.deadline,
            )
            self.work = work
            if self.over:
                work.cancel()
            update = await anext(work)
        except Cancelled:
            raise
        except Exception as error:
            if (await self.failed(error, of=said.rev)).status == 503:
                await self.close(1012, "the server is shutting down")
                self.over = True
            return
        self.calls, self.positions = self.calls + update.calls, self.positions + update.positions
        self.updates += 1
        service.metrics.succeeded(["stop"], work.age, work.waited)
        warning = {"warning": "; ".join(notes)} if notes else {}
        await self.send(
            {"object": "translation.update", "model": service.name, "of": said.rev, **update.to_json(), **warning}
        )


def _notes(engine: Engine) -> list[str]:
    if engine.tokenizer.chat_template is not None:
        return []
    return ["the model has no chat template and reads no instructions: it continues the text"]


def _said(text: str | None) -> Said:
    """Raises ApiError."""
    if text is None:
        raise bad("a message is bytes; send JSON as text")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise bad("a message is not JSON") from None
    try:
        return Said.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        name, told = param(("body", *first["loc"])), first["msg"].removeprefix("Value error, ")
        raise bad(f"{name}: {told}" if name else f"a message is wrong: {told}", name) from None


def _stream(body: bytes, kind: str) -> Stream:
    """Raises RequestValidationError, as the framework does for other bodies, and ApiError."""
    try:
        if kind.partition(";")[0].strip().lower() == LINES:
            return Stream.model_validate(_of_lines(body))
        found = json.loads(body)
    except ValidationError as error:
        raise _refusal(error) from None
    except (ValueError, RecursionError):
        raise bad("the body is not JSON") from None
    if not isinstance(found, dict) or not kind.lower().startswith("application/json"):
        raise bad(
            "the body is not a JSON object, sent as content-type application/json, nor lines of application/x-ndjson"
        )
    try:
        return Stream.model_validate(found)
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> RequestValidationError:
    return RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in error.errors()])


def _of_lines(body: bytes) -> dict[str, Any]:
    """Lines as one body. Raises ApiError naming the line that is none."""
    told: dict[str, Any] = {}
    hypotheses: list[Any] = []
    for number, line in enumerate(body.splitlines(), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            raise bad(f"line {number} is not JSON") from None
        if isinstance(found, dict) and "source" not in found:
            told |= found
        elif isinstance(found, dict):
            hypotheses.append(found["source"])
        else:
            hypotheses.append(found)
    return {**told, "hypotheses": hypotheses}
