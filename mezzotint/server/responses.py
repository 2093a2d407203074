"""/v1/responses: a chat in the form of OpenAI's Responses API, whole or as named events. Nothing is stored.

response.created  .in_progress  .output_item.added  .content_part.added
.output_text.delta ..                                       committed text
.output_text.done  .content_part.done  .output_item.done  .completed (.incomplete where the length ended it)
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from mezzotint.server import chance
from mezzotint.server.answers import Answer, Piece
from mezzotint.server.errors import bad
from mezzotint.server.orders import chat_order
from mezzotint.server.service import Service
from mezzotint.server.sse import STREAMED, EventStream
from mezzotint.server.wire import Chat, Message, Sampling, default

PARTS = ("input_text", "output_text", "text")


def _text(content: Any) -> Any:
    """Content as one text; a list holds parts of text."""
    if not isinstance(content, list):
        return content
    for part in content:
        if not isinstance(part, dict) or part.get("type") not in PARTS or not isinstance(part.get("text"), str):
            raise ValueError("a part of it is not of type input_text, and this model reads text alone")
    return "".join(part["text"] for part in content)


class Item(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_text)]


class Format(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    type: Literal["text"] = "text"


class TextOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    format: Annotated[Format, default({})] = Format()


class Responses(Sampling):
    """input: a text or messages; instructions: a system message before them."""

    input: str | Annotated[list[Item], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Annotated[int | None, Field(ge=1)] = None
    text: Annotated[TextOptions, default({})] = TextOptions()
    previous_response_id: str | None = None
    background: Annotated[bool, default(False)] = False

    def chat(self) -> Chat:
        """The same question. Raises ApiError for what needs a memory of earlier answers."""
        for name in ("previous_response_id", "background"):
            if getattr(self, name):
                raise bad(f"{name} is not supported: nothing is stored; send the conversation as input", name)
        if self.n != 1:
            raise bad("a response is one answer; leave n out", "n")
        given = [Item(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        messages = [Message(role=item.role, content=item.content) for item in given]
        if self.instructions:
            messages.insert(0, Message(role="system", content=self.instructions))
        shared = {name: getattr(self, name) for name in Sampling.model_fields if name != "stream_options"}
        extra = {name: value for name, value in self.extra.items() if name not in Chat.model_fields}  # of a chat alone
        return Chat.model_construct(**extra, **shared, messages=messages, max_completion_tokens=self.max_output_tokens)


class Told:
    """One response as it is being made."""

    def __init__(self, body: Responses, answer: Answer) -> None:
        self.body, self.answer = body, answer
        self.id, self.item = f"resp_{chance.digits()}", f"msg_{chance.digits()}"

    def response(self, status: str, text: str | None = None) -> dict[str, Any]:
        body, answer, usage = self.body, self.answer, self.answer.usage()
        done = status in ("completed", "incomplete")
        return {
            "id": self.id, "object": "response", "created_at": answer.created, "status": status, "model": answer.model,
            "output": [] if text is None else [self.message(text, status)], "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.instructions, "max_output_tokens": body.max_output_tokens, "metadata": {},
            "parallel_tool_calls": True, "previous_response_id": None, "temperature": body.temperature, "top_p": body.top_p,
            "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "truncation": "disabled",
            "store": False, "seed": answer.order.seed,
            "usage": {
                "input_tokens": usage["prompt_tokens"], "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": usage["completion_tokens"], "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage["total_tokens"], "diffusion": usage["diffusion"],
            } if done else None,
            **({"warning": "; ".join(answer.order.notes)} if answer.order.notes else {}),
        }  # fmt: skip

    def message(self, text: str | None, status: str) -> dict[str, Any]:
        content = [] if text is None else [self.part(text)]
        return {"id": self.item, "type": "message", "role": "assistant", "status": status, "content": content}

    def part(self, text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    @property
    def status(self) -> str:
        return "incomplete" if self.answer.reasons.get(0) == "length" else "completed"

    async def events(self, pieces: AsyncGenerator[Piece]) -> AsyncGenerator[dict[str, Any]]:
        number = 0

        def event(kind: str, **fields: Any) -> dict[str, Any]:
            nonlocal number
            number += 1
            return {"type": f"response.{kind}", "sequence_number": number - 1, **fields}

        place = {"item_id": self.item, "output_index": 0, "content_index": 0}
        yield event("created", response=self.response("in_progress"))
        yield event("in_progress", response=self.response("in_progress"))
        yield event("output_item.added", output_index=0, item=self.message(None, "in_progress"))
        yield event("content_part.added", **place, part=self.part(""))
        text = ""
        async with aclosing(pieces):
            async for piece in pieces:
                if piece.text:
                    text += piece.text
                    yield event("output_text.delta", **place, delta=piece.text, logprobs=[])
        yield event("output_text.done", **place, text=text, logprobs=[])
        yield event("content_part.done", **place, part=self.part(text))
        yield event("output_item.done", output_index=0, item=self.message(text, self.status))
        yield event(self.status, response=self.response(self.status, text))


def add(app: FastAPI, service: Service) -> None:
    @app.post("/v1/responses", responses=STREAMED)
    async def responses(body: Responses, request: Request) -> Response:
        """An answer in the form of the Responses API."""
        service.engine_for(body)
        order = await service.ordered(chat_order, body.chat(), service.settings.max_tokens)
        answer = service.answer("chat", order, body)
        told, stream = Told(body, answer), service.queued(answer)
        answer.id = told.id
        if not body.stream:
            whole = await service.whole(request, answer, stream)
            return JSONResponse(told.response(told.status, whole["choices"][0]["message"]["content"]))

        async def events() -> AsyncGenerator[dict[str, Any]]:
            try:
                async with aclosing(told.events(answer.pieces(stream))) as made:
                    async for event in made:
                        yield event
            finally:
                service.done(request, answer)

        return EventStream(events(), stream, service.settings.patience, service.failed(request), ending=b"")
