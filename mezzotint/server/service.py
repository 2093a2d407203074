"""Service: what the routes share. It queues work, watches over its client, and counts what it took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.responses import JSONResponse

import mezzotint
from mezzotint.edit.infill import Infilled
from mezzotint.engine.engine import Engine
from mezzotint.engine.request import Scores
from mezzotint.sampler.trace import Frame
from mezzotint.server.answers import Answer, Piece
from mezzotint.server.errors import ApiError, of
from mezzotint.server.metrics import Metrics
from mezzotint.server.orders import Order, seed_of, suffix_order
from mezzotint.server.settings import Settings
from mezzotint.server.sse import EventStream, watched
from mezzotint.server.traces import Kept, Traces
from mezzotint.server.wire import Body, Completion, Sampling
from mezzotint.server.worker import Cancelled, Stream, Worker

T = TypeVar("T")
B = TypeVar("B", bound=Body)


class Service:
    def __init__(self, worker: Worker, settings: Settings) -> None:
        self.worker, self.settings, self.name = worker, settings, settings.name
        self.metrics = Metrics(settings.name)
        self.traces = Traces()
        self.began = int(time.time())

    def engine_for(self, body: Body) -> Engine:
        """Raises ApiError while the model is loading, and for a model that is not served."""
        engine = self.worker.ready()
        if body.model is not None:
            self.check_name(body.model)
        return engine

    def check_name(self, name: str) -> None:
        if name != self.name:
            raise ApiError(404, f"there is no such model; this server has {self.name!r}", "model_not_found", "model")

    def answer(self, kind: str, order: Order, body: Sampling) -> Answer:
        order.notes.extend(ignored(body))
        return Answer(
            kind, self.name, f"mezzotint-{mezzotint.__version__}", order, body.stop, self.metrics, self.worker.ready(),
            filmed=body.stream and body.stream_options.include_diffusion, traced=body.trace,
        )  # fmt: skip

    async def first(self, request: Request, stream: Stream[T]) -> T:
        """The one result of a call."""
        async with watched(request.receive, stream):
            async for result in stream:
                self.metrics.succeeded(["stop"], stream.age, stream.waited)
                return result
        raise Cancelled

    def failed(self, request: Request) -> Callable[[Exception], None]:
        """Notes a stream that did not reach its end: its status went out long ago."""

        def note(error: Exception) -> None:
            if isinstance(error, Cancelled):
                self.metrics.cancelled()
                request.state.log["ended"] = "client left"
            else:
                told = of(error)
                self.metrics.failed(told.status)
                request.state.log["ended"] = told.code or type(error).__name__

        return note

    def streamed(
        self, request: Request, body: Sampling, answer: Answer, pieces: AsyncGenerator[Piece], stream: Stream[Any]
    ) -> Response:  # fmt: skip
        """Pieces as events, with what they cost in the log."""

        async def chunks() -> AsyncGenerator[dict[str, Any]]:
            try:
                async with aclosing(answer.chunks(pieces, body.stream_options.include_usage)) as events:
                    async for event in events:
                        yield event
            finally:
                self.done(request, answer)

        return EventStream(chunks(), stream, self.settings.patience, self.failed(request))

    async def decode(self, request: Request, body: Sampling, answer: Answer, snapshots: bool = False) -> Response:
        """Queue the rows of an answer, and give it whole or as a stream."""
        stream = self.queued(answer, not (body.stream or snapshots or body.stop), snapshots)
        if body.stream or snapshots:
            return self.streamed(request, body, answer, answer.pieces(stream, snapshots), stream)
        return JSONResponse(await self.whole(request, answer, stream))

    async def ordered(self, make: Callable[[Engine, B, int], Order], body: B, most: int) -> Order:
        """An order, made off the event loop: it tokenises."""
        return await asyncio.to_thread(make, self.engine_for(body), body, most)

    def queued(self, answer: Answer, patient: bool = False, snapshots: bool = False) -> Stream[Any]:
        """patient: nobody reads it before it is whole, nor does a stop string end it. snapshots: each call is shown."""
        seconds = min(self.settings.deadline, answer.order.seconds)
        if answer.filmed or snapshots:
            return self.worker.generate(answer.order.requests, seconds)
        return self.worker.generate(answer.order.requests, seconds, patient, (Frame, Scores), self.settings.interval)

    async def whole(self, request: Request, answer: Answer, stream: Stream[Any]) -> dict[str, Any]:
        async with watched(request.receive, stream):
            whole = await answer.whole(stream)
        self.done(request, answer)
        return whole

    def done(self, request: Request, answer: Answer) -> None:
        """What is kept of an answer: its costs in the log, its trace if that was asked for."""
        request.state.log |= answer.counts()
        if answer.traces:
            self.traces.keep(answer.id, Kept(answer.traces))

    async def fill(self, request: Request, body: Completion) -> Response:
        """A completion that ends where its suffix begins."""
        answer, text, stream = await self.filled(request, body)
        if body.stream:
            return self.streamed(request, body, answer, _one(Piece(0, text, "stop")), stream)
        request.state.log |= answer.counts()
        return JSONResponse(answer.of_texts([text]))

    async def filled(self, request: Request, body: Completion) -> tuple[Answer, str, Stream[Infilled]]:
        """What stands before a suffix, up to the first stop string."""
        engine, seed = self.engine_for(body), seed_of(body.seed)
        work = await asyncio.to_thread(suffix_order, engine, body, self.settings.max_tokens, seed)
        stream = self.worker.call(work, self.settings.deadline)
        result = await self.first(request, stream)
        (hole,) = result.holes
        text = hole.text
        for stop in body.stop:
            text = text.partition(stop)[0]
        answer = self.answer("text", Order([], result.trace.num_tokens - hole.length, seed), body)
        answer.tokens, answer.calls, answer.positions = hole.length, result.num_calls, result.trace.num_positions
        answer.reasons[0] = "stop"
        if body.trace:
            self.traces.keep(answer.id, Kept([result.trace]))
        self.metrics.worked(answer.order.num_read, answer.tokens, answer.calls, answer.positions)
        return answer, text, stream


def ignored(body: Body) -> list[str]:
    """A note on the fields that were not read, if there are any."""
    names = body.ignored()
    return [f"ignored: {', '.join(names)}"] if names else []


async def _one(piece: Piece) -> AsyncGenerator[Piece]:
    yield piece
