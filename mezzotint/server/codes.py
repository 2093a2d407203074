"""Code edited in Mercury's formats: one user message of tagged parts, an answer as a chat's.

    /v1/edit/completions    <|current_file_content|> .. <|code_to_edit|> .. <|cursor|> .. <|/code_to_edit|> ..
                            <|edit_diff_history|>         -> the region anew, in a fence of three backticks
    /v1/apply/completions   <|original_code|> <|update_snippet|>     -> the code with the snippet in it

A region is edited where it stands, the rest of the file locked, told the latest of the edits made before. A snippet is put
in its place without the network (`edit/merge.py`); one that has no place is an instruction, and followed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI, Request
from pydantic import Field

from mezzotint.edit.ask import Ask, Report
from mezzotint.edit.editor import Where, edit
from mezzotint.edit.hunks import Edit
from mezzotint.edit.merge import merge
from mezzotint.edit.router import choose
from mezzotint.engine.engine import Engine
from mezzotint.server import chance
from mezzotint.server.errors import bad
from mezzotint.server.orders import seed_of
from mezzotint.server.service import Service, ignored
from mezzotint.server.wire import Body, Message, default

CURSOR = "<|cursor|>"
LONGEST_HISTORY = 400  # characters of the latest edits that the model is told
CONTINUE = "Make the next edit that fits the latest ones."


class Tagged(Body):
    """messages: one, a user's, holding the tags. temperature as elsewhere."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1)]
    temperature: Annotated[float, default(0.0), Field(ge=0, le=2)] = 0.0
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    stream: Annotated[bool, default(False)] = False

    def text(self) -> str:
        """Raises ApiError for a stream and for another role."""
        if self.stream:
            raise bad("an edit is not streamed; leave stream out", "stream", "unsupported_parameter")
        if self.messages[0].role != "user":
            raise bad(f"the message is of role {self.messages[0].role!r}; it must be the user's", "messages[0].role")
        return self.messages[0].content


def tagged(text: str, name: str) -> str | None:
    """What stands between <|name|> and <|/name|>, without the line feeds that belong to the tags."""
    found = re.search(rf"<\|{name}\|>\n?(.*?)\n?<\|/{name}\|>", text, re.DOTALL)
    return found and found[1]


def edit_order(engine: Engine, body: Tagged, seed: int) -> tuple[str, Callable[[Engine, Report], Edit], int]:
    """The file, the work, and where its region begins. Raises ApiError."""
    text = body.text()
    content = tagged(text, "current_file_content")
    if content is None:
        raise bad("the message has no <|current_file_content|> .. <|/current_file_content|>", "messages[0].content")
    found = re.search(r"(.*?)<\|code_to_edit\|>\n?(.*?)\n?<\|/code_to_edit\|>\n?(.*)", content, re.DOTALL)
    if found is None:
        raise bad("the file has no <|code_to_edit|> .. <|/code_to_edit|>", "messages[0].content")
    above = re.sub(r"\Acurrent_file_path:[^\n]*\n", "", found[1])
    region, below = found[2].replace(CURSOR, "", 1), found[3]
    document = f"{above}{region}\n{below}" if below else above + region
    start, end = len(above), len(above) + len(region)
    history = (tagged(text, "edit_diff_history") or "").strip()[-LONGEST_HISTORY:]
    ask = Ask(f"{CONTINUE}\n{history}" if history else CONTINUE, temperature=body.temperature, seed=seed)
    locks = [span for span in ((0, start), (end, len(document))) if span[0] < span[1]]
    where = Where(locks)
    choose(engine, ask, "auto")
    where.of(document)

    def run(engine: Engine, report: Report) -> Edit:
        if not region.strip():
            return Edit(document, [])
        return edit(engine, document, ask, where, "auto", report)

    return document, run, start


def region_of(done: Edit, start: int, end: int) -> str:
    """What became of the characters start:end, the only ones that were free."""
    return done.after[start : end + len(done.after) - len(done.before)]


def apply_order(engine: Engine, body: Tagged, seed: int) -> str | Callable[[Engine, Report], Edit]:
    """The result, or the work that makes it. Raises ApiError."""
    text = body.text()
    original, snippet = tagged(text, "original_code"), tagged(text, "update_snippet")
    for name, part in (("original_code", original), ("update_snippet", snippet)):
        if not (part or "").strip():
            raise bad(f"the message has no <|{name}|> .. <|/{name}|> with text in it", "messages[0].content")
    assert original is not None and snippet is not None
    merged = merge(original, snippet)
    if merged is not None:
        return merged
    ask = Ask(snippet, temperature=body.temperature, seed=seed)
    choose(engine, ask, "auto")
    return lambda engine, report: edit(engine, original, ask, Where(), "auto", report)


def add(app: FastAPI, service: Service) -> None:
    def told(kind: str, text: str, calls: int, seed: int, body: Tagged, read: int, *notes: str) -> dict[str, Any]:
        engine = service.worker.ready()
        written = len(engine.tokenizer.encode(text))
        warning = "; ".join([*notes, *ignored(body)])
        choice = {
            "index": 0, "message": {"role": "assistant", "content": text, "refusal": None}, "finish_reason": "stop",
            "logprobs": None,
        }  # fmt: skip
        usage = {
            "prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written,
            "diffusion": {"calls": calls},
        }  # fmt: skip
        return {
            "id": f"{kind}cmpl-{chance.digits()}", "object": f"{kind}.completion", "created": chance.created(),
            "model": service.name, "choices": [choice], "usage": usage, "seed": seed,
            **({"warning": warning} if warning else {}),
        }  # fmt: skip

    async def worked(request: Request, work: Callable[[Engine, Report], Edit]) -> Edit:
        done = await service.first(request, service.worker.call(work, service.settings.deadline))
        service.metrics.worked(0, 0, done.num_calls, 0)
        request.state.log["calls"] = done.num_calls
        return done

    @app.post("/v1/edit/completions")
    async def next_edit(body: Tagged, request: Request) -> dict[str, Any]:
        """The region of a file as it would be edited next."""
        engine, seed = service.engine_for(body), seed_of(body.seed)
        document, work, start = await asyncio.to_thread(edit_order, engine, body, seed)
        done = await worked(request, work)
        content = tagged(body.text(), "code_to_edit") or ""
        region = region_of(done, start, start + len(content.replace(CURSOR, "", 1)))
        read = len(engine.tokenizer.encode(document))
        return told("edit", f"```\n{region}\n```", done.num_calls, seed, body, read, *done.notes)

    @app.post("/v1/apply/completions")
    async def apply(body: Tagged, request: Request) -> dict[str, Any]:
        """Code with an update in it."""
        engine, seed = service.engine_for(body), seed_of(body.seed)
        found = await asyncio.to_thread(apply_order, engine, body, seed)
        read = len(engine.tokenizer.encode(body.text()))
        if isinstance(found, str):
            return told("apply", found, 0, seed, body, read)
        done = await worked(request, found)
        return told("apply", done.after, done.num_calls, seed, body, read, *done.notes)
