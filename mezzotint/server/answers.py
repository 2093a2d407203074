"""Answers: events of the engine made into what clients read, whole or chunk by chunk.

Frame, Scores, Text, Finished  ->  pieces (row, text, how it ended, log-probabilities)  ->  choices, or deltas
                                   stop strings cut, nothing of one let through
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mezzotint.constraint.formats import Format
from mezzotint.engine.engine import Engine
from mezzotint.engine.request import Finished, Scores, Text
from mezzotint.sampler.trace import Frame, Trace
from mezzotint.server import chance
from mezzotint.server.frames import Film, draft
from mezzotint.server.metrics import Metrics
from mezzotint.server.orders import Order
from mezzotint.server.scores import Placed, Row, chat_logprobs, text_logprobs
from mezzotint.server.stops import Stops
from mezzotint.server.tools import Deltas, message
from mezzotint.server.worker import Stream


class Piece(NamedTuple):
    """Text of a row, which replaces what was shown of it if it is a snapshot. reason: how the row ended, with its last piece.

    scores: of the tokens that begin in it, if they were asked for. frame: what a call did, in a piece without text.
    """

    row: int
    text: str
    reason: str | None = None
    scores: Sequence[Placed] | None = None
    frame: dict[str, Any] | None = None


@dataclass
class Answer:
    """One request being answered: what was read of its stream, and what it cost.

    filmed: frames are among the pieces. traced: they are kept in `traces`.
    """

    kind: str  # chat or text
    model: str
    fingerprint: str
    order: Order
    stops: Sequence[str]
    metrics: Metrics
    engine: Engine
    filmed: bool = False
    traced: bool = False
    tokens: int = 0
    calls: int = 0
    positions: int = 0
    late: bool = False  # its own deadline ended it
    reasons: dict[int, str] = field(default_factory=dict)
    traces: list[Trace] = field(default_factory=list)
    created: int = field(default_factory=chance.created)
    id: str = ""

    def __post_init__(self) -> None:
        self.id = f"{'chatcmpl' if self.kind == 'chat' else 'cmpl'}-{chance.digits()}"
        if self.traced:
            self.traces = [Trace(self.engine.header(request)) for request in self.order.requests]

    @property
    def scored(self) -> bool:
        return any(request.logprobs is not None for request in self.order.requests)

    async def pieces(self, stream: Stream[Any], snapshots: bool = False) -> AsyncGenerator[Piece]:
        """Committed text of every row; snapshots: the first row's whole text after every call instead, drafts included."""
        cutters = [Stops(self.stops) for _ in self.order.requests]
        films = [Film(self.engine) for _ in self.order.requests]
        scores = [Row(self.engine.tokenizer) for _ in self.order.requests]
        texts = ["" for _ in self.order.requests]
        last, first = stream.queued, True
        try:
            async for item in stream:
                if isinstance(item, Frame):
                    self._count(item)
                    if snapshots and item.kind != "read":
                        yield Piece(item.row, texts[0] + cutters[0].held + draft(self.engine, item))
                    if self.filmed and item.kind != "read" and item.row not in self.reasons:
                        yield Piece(item.row, "", frame=films[item.row].shot(item))
                    continue
                row = item.row
                if isinstance(item, Scores):
                    self.calls, self.positions = self.calls + item.calls, self.positions + item.positions
                    scores[row].push(item.scores)
                if row in self.reasons or isinstance(item, Scores):
                    continue
                reason = None
                if isinstance(item, Text):
                    self.metrics.committed(stream.at - last, first)
                    last, first = stream.at, False
                    text, over = cutters[row].push(item.piece)
                elif isinstance(item, Finished):
                    text, over = cutters[row].push("", last=True)
                    self.tokens -= item.reason == "stop"  # the end token is none of the text's
                    self.late |= item.reason == "deadline"
                    reason = "length" if item.reason == "deadline" else item.reason
                reason = "stop" if over else reason
                texts[row] += text
                if reason is not None:
                    self.reasons[row] = reason
                if text or reason is not None:
                    placed = (
                        scores[row].shown(len(texts[row]), reason is not None and not over) if self.scored else None
                    )
                    yield Piece(row, texts[row] if snapshots else text, reason, placed)
                if len(self.reasons) == len(self.order.requests):
                    break
        finally:
            self.metrics.worked(self.order.num_read, self.tokens, self.calls, self.positions)
        self.metrics.succeeded(list(self.reasons.values()), stream.age, stream.waited)

    def _count(self, frame: Frame) -> None:
        if self.traces:
            self.traces[frame.row].add(frame)
        self.calls += frame.calls
        self.positions += frame.positions if frame.calls else 0
        self.tokens += frame.committed if frame.row not in self.reasons else 0

    # -- whole ---------------------------------------------------------------------------------------------------------

    async def whole(self, stream: Stream[Any]) -> dict[str, Any]:
        texts = ["" for _ in self.order.requests]
        scores: list[list[Placed]] = [[] for _ in self.order.requests]
        async for piece in self.pieces(stream):
            texts[piece.row] += piece.text
            scores[piece.row] += piece.scores or []
        return self.of_texts(texts, scores if self.scored else None)

    def of_texts(self, texts: Sequence[str], scores: Sequence[Sequence[Placed]] | None = None) -> dict[str, Any]:
        choices = []
        for row, text in enumerate(texts):
            said, reason = message(text, self.reasons[row], self._format(row))
            shown = {"message": {"refusal": None, **said}} if self.kind == "chat" else {"text": text}
            logprobs = None if scores is None else self._logprobs(scores[row])
            choices.append({"index": row, **shown, "finish_reason": reason, "logprobs": logprobs})
        return self._object("", choices, usage=self.usage())

    def _logprobs(self, placed: Sequence[Placed]) -> dict[str, Any]:
        return (chat_logprobs if self.kind == "chat" else text_logprobs)(self.engine.tokenizer, placed)

    def _format(self, row: int) -> Format | None:
        return self.order.requests[row].format if self.order.requests else None

    def counts(self) -> dict[str, int]:
        """For the log."""
        return {"read": self.order.num_read, "written": self.tokens, "calls": self.calls}

    def usage(self) -> dict[str, Any]:
        """calls, positions: of the network, over all choices."""
        return {
            "prompt_tokens": self.order.num_read, "completion_tokens": self.tokens,
            "total_tokens": self.order.num_read + self.tokens, "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
            "diffusion": {
                "calls": self.calls, "positions": self.positions,
                "tokens_per_call": round(self.tokens / self.calls, 4) if self.calls else 0.0,
                **({"ended_by": "deadline"} if self.late else {}),
            },
        }  # fmt: skip

    # -- chunk by chunk --------------------------------------------------------------------------------------------

    async def chunks(self, pieces: AsyncGenerator[Piece], include_usage: bool) -> AsyncGenerator[dict[str, Any]]:
        """Role first, then text; an empty delta says how a choice ended; usage comes last, if it was asked for."""
        if self.kind == "chat":
            for row in range(len(self.order.requests)):
                yield self._chunk(row, {"role": "assistant", "content": ""})
        speaking = [Deltas(self._format(row)) for row in range(max(1, len(self.order.requests)))]
        async with aclosing(pieces):
            async for piece in pieces:
                if piece.frame is not None:
                    yield self._chunk(piece.row, {}, diffusion=piece.frame)
                deltas = speaking[piece.row].push(piece.text, piece.reason is not None)
                if piece.scores and not deltas:
                    deltas = [{"content": ""}]
                for i, delta in enumerate(deltas):
                    yield self._chunk(piece.row, delta, scores=None if i else piece.scores)
                if piece.reason is not None:
                    yield self._chunk(piece.row, {}, speaking[piece.row].reason(piece.reason))
        if include_usage:
            yield self._object(".chunk", [], usage=self.usage())

    def _chunk(
        self, row: int, delta: dict[str, Any], reason: str | None = None, scores: Sequence[Placed] | None = None, **more: Any
    ) -> dict[str, Any]:  # fmt: skip
        said = {"delta": delta} if self.kind == "chat" else {"text": delta.get("content", "")}
        logprobs = self._logprobs(scores) if scores else None
        return self._object(".chunk", [{"index": row, **said, "finish_reason": reason, "logprobs": logprobs}], **more)

    def _object(self, chunk: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        name = f"chat.completion{chunk}" if self.kind == "chat" else "text_completion"
        head = {"id": self.id, "object": name, "created": self.created, "model": self.model}
        told = {"warning": "; ".join(self.order.notes)} if self.order.notes else {}
        return {
            **head, "choices": choices, "system_fingerprint": self.fingerprint, "seed": self.order.seed, **told, **more,
        }  # fmt: skip
