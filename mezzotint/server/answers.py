"""Answers: events of the engine made into what clients read, whole or chunk by chunk.

Frame, Text, Finished  ->  pieces (row, text, how it ended)  ->  choices, or deltas
                           stop strings cut, nothing of one let through
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mezzotint.constraint.formats import Format
from mezzotint.engine.engine import Engine
from mezzotint.engine.request import Finished, Text
from mezzotint.sampler.canvas import OPEN
from mezzotint.sampler.trace import Frame
from mezzotint.server.metrics import Metrics
from mezzotint.server.orders import Order
from mezzotint.server.stops import Stops
from mezzotint.server.tools import Deltas, message
from mezzotint.server.worker import Stream

NOISE = "\u2591"  # a position that is still noise, in a snapshot


class Piece(NamedTuple):
    """Text of a row, which replaces what was shown of it if it is a snapshot. reason: how the row ended, with its last piece."""

    row: int
    text: str
    reason: str | None = None


@dataclass
class Answer:
    """One request being answered: what was read of its stream, and what it cost."""

    kind: str  # chat or text
    model: str
    fingerprint: str
    order: Order
    stops: Sequence[str]
    metrics: Metrics
    tokens: int = 0
    calls: int = 0
    positions: int = 0
    reasons: dict[int, str] = field(default_factory=dict)
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = ""

    def __post_init__(self) -> None:
        self.id = f"{'chatcmpl' if self.kind == 'chat' else 'cmpl'}-{uuid.uuid4().hex}"

    async def pieces(self, stream: Stream[Any], snapshots: Engine | None = None) -> AsyncGenerator[Piece]:
        """Committed text of every row; snapshots: the first row's whole text after every call instead, drafts included."""
        cutters = [Stops(self.stops) for _ in self.order.requests]
        shown, last = "", stream.queued
        first = True
        try:
            async for item in stream:
                if isinstance(item, Frame):
                    self._count(item)
                    if snapshots is not None and item.kind != "read":
                        yield Piece(item.row, shown + cutters[0].held + _draft(snapshots, item))
                elif item.row in self.reasons:
                    continue
                elif isinstance(item, Text):
                    now = time.monotonic()
                    self.metrics.committed(now - last, first)
                    last, first = now, False
                    text, over = cutters[item.row].push(item.piece)
                    shown += text
                    if text or over:
                        yield self._piece(item.row, text, "stop" if over else None, shown if snapshots else None)
                elif isinstance(item, Finished):
                    text, over = cutters[item.row].push("", last=True)
                    shown += text
                    self.tokens -= item.reason == "stop"  # the end token is none of the text's
                    yield self._piece(item.row, text, "stop" if over else item.reason, shown if snapshots else None)
                if len(self.reasons) == len(self.order.requests):
                    break
        finally:
            self.metrics.worked(self.order.num_read, self.tokens, self.calls, self.positions)
        self.metrics.succeeded(list(self.reasons.values()), stream.age, stream.waited)

    def _count(self, frame: Frame) -> None:
        self.calls += frame.calls
        self.positions += frame.positions if frame.calls else 0
        self.tokens += frame.committed if frame.row not in self.reasons else 0

    def _piece(self, row: int, text: str, reason: str | None, whole: str | None) -> Piece:
        if reason is not None:
            self.reasons[row] = reason
        return Piece(row, text if whole is None else whole, reason)

    # -- whole ---------------------------------------------------------------------------------------------------------

    async def whole(self, stream: Stream[Any]) -> dict[str, Any]:
        texts = ["" for _ in self.order.requests]
        async for piece in self.pieces(stream):
            texts[piece.row] += piece.text
        return self.of_texts(texts)

    def of_texts(self, texts: Sequence[str]) -> dict[str, Any]:
        choices = []
        for row, text in enumerate(texts):
            said, reason = message(text, self.reasons[row], self._format(row))
            shown = {"message": said} if self.kind == "chat" else {"text": text}
            choices.append({"index": row, **shown, "finish_reason": reason, "logprobs": None})
        return self._object("", choices, usage=self.usage())

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
                for delta in speaking[piece.row].push(piece.text, piece.reason is not None):
                    yield self._chunk(piece.row, delta)
                if piece.reason is not None:
                    yield self._chunk(piece.row, {}, speaking[piece.row].reason(piece.reason))
        if include_usage:
            yield self._object(".chunk", [], usage=self.usage())

    def _chunk(self, row: int, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        said = {"delta": delta} if self.kind == "chat" else {"text": delta.get("content", "")}
        return self._object(".chunk", [{"index": row, **said, "finish_reason": reason, "logprobs": None}])

    def _object(self, chunk: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        name = f"chat.completion{chunk}" if self.kind == "chat" else "text_completion"
        head = {"id": self.id, "object": name, "created": self.created, "model": self.model}
        told = {"warning": "; ".join(self.order.notes)} if self.order.notes else {}
        return {
            **head, "choices": choices, "system_fingerprint": self.fingerprint, "seed": self.order.seed, **told, **more,
        }  # fmt: skip


def _draft(engine: Engine, frame: Frame) -> str:
    """The canvas of a call as text; what is still mask is shown as a shaded block."""
    mask, text, run = engine.checkpoint.facts.mask_id, "", list[int]()
    for token, status in zip(frame.tokens, frame.status, strict=True):
        if status == OPEN and token == mask:
            text, run = text + engine.tokenizer.decode(run) + NOISE, []
        else:
            run.append(token)
    return text + engine.tokenizer.decode(run)
