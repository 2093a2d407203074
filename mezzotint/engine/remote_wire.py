"""What goes over the wire to a remote model, and what comes back: bodies of requests, chunks of answers, refusals as words.

Request -> {"model", "messages", "max_tokens", ...}      what the server cannot do is refused here, before anything is sent
chunk, chunk, ... -> Text, or Snapshot in place of the one before -> Ended with usage
"""

from __future__ import annotations

import email.utils
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mezzotint.constraint.formats import JsonSchema
from mezzotint.engine.request import Request, Text
from mezzotint.sampler.lens import Tilt
from mezzotint.sse_client import Refused

LONGEST_MESSAGE = 300  # characters of what a server says that are shown
MERCURY_TEMPERATURES = (0.5, 1.0)  # others are reset there


class RemoteError(RuntimeError):
    """A remote model did not answer. status: of HTTP, 0 where there was none; code: the server's own name of the error."""

    def __init__(self, message: str, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True)
class Usage:
    """Tokens as the server counts them, None where it does not say. calls, positions: of the network; ours says so."""

    prompt: int | None = None
    completion: int | None = None
    reasoning: int | None = None
    cached: int | None = None
    calls: int | None = None
    positions: int | None = None


@dataclass(frozen=True)
class Snapshot:
    """A whole draft of a row, in place of the one before. progress: 0 to 1, where the server says."""

    row: int
    text: str
    progress: float | None = None


@dataclass(frozen=True)
class Ended:
    """A row is over. reason: the server's (stop, length, content_filter, ...), or deadline. notes: what it warned of."""

    row: int
    reason: str
    usage: Usage = field(default_factory=Usage)
    notes: tuple[str, ...] = ()


Heard = Text | Snapshot | Ended


# -- what is asked -----------------------------------------------------------------------------------------------------


def body_of(request: Request, model: str, mercury: bool) -> tuple[str, dict[str, Any]]:
    """(path, body) of a request. Raises ValueError for what only weights on this machine can do."""
    _possible(request)
    if request.raw:
        if not isinstance(request.prompt, str):
            raise ValueError("a raw prompt must be a text, not messages")
        path, said = "/completions", dict[str, Any](prompt=request.prompt)
    else:
        messages = request.prompt
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        path, said = "/chat/completions", {"messages": [dict(message) for message in messages]}
    body: dict[str, Any] = {
        "model": model,
        **said,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
    }
    if not mercury:  # whose interface has no seed
        body["seed"] = request.seed + request.choice
    if request.decode != "verified":
        body["decode"] = request.decode
    if request.policy != "threshold":
        body["policy"] = request.policy
    tilt = request.tilt
    told = {"top_p": tilt.top_p, "presence_penalty": tilt.presence, "frequency_penalty": tilt.frequency}
    body |= {name: value for name, value in told.items() if value != (1.0 if name == "top_p" else 0.0)}
    if isinstance(request.format, JsonSchema):
        schema = request.format.schema
        body["response_format"] = {"type": "json_object"} if schema is None else {
            "type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}
        }  # fmt: skip
    return path, body


def _possible(request: Request) -> None:
    tilt = request.tilt
    needs = {
        "locks": bool(request.locks),
        "a condition": request.condition is not None,
        "guidance": request.guidance != 1,
        "drafts of your own": request.draft not in ("auto", "fixed-point") or bool(request.draft_text),
        "several blocks in flight": request.blocks_in_flight != 1,
        "logprobs": request.logprobs is not None,
        "a policy made of rules": not isinstance(request.policy, str),
        "logit bias": bool(tilt.bias),
        "repetition penalty, top_k and min_p": tilt != Tilt(
            tilt.bias, tilt.presence, tilt.frequency, top_p=tilt.top_p, temperature=tilt.temperature
        ),
        "a format other than a JSON schema": not isinstance(request.format, JsonSchema | None),
    }  # fmt: skip
    if lacking := [name for name, needed in needs.items() if needed]:
        raise ValueError(
            f"a remote model cannot be given {lacking[0]}; it needs weights on this machine, or none of it"
        )


def warned(body: Mapping[str, Any], mercury: bool) -> list[str]:
    """What is known not to be followed."""
    low, high = MERCURY_TEMPERATURES
    if mercury and not low <= body.get("temperature", low) <= high:
        return [
            f"Mercury takes temperatures from {low} to {high}; {body['temperature']} may be reset to its own default"
        ]
    return []


RENAMED = {"max_tokens": "max_completion_tokens"}
DISPENSABLE = ("stream_options", "seed")


def without_refused(body: dict[str, Any], told: Refusal) -> tuple[dict[str, Any], str] | None:
    """The same request without a field that a server does not know, and what that means; None if it must stay.

    OpenAI's reasoning models want max_completion_tokens; Gemini's endpoint has no seed.
    """
    if told.status not in (400, 422):
        return None
    for old, new in RENAMED.items():
        if old in body and (told.param == old or f"'{old}'" in told.message) and new in told.message:
            return {(new if name == old else name): value for name, value in body.items()}, ""
    for name in DISPENSABLE:
        if name in body and (told.param == name or re.search(rf"\b{name}\b", told.message)):
            return {key: value for key, value in body.items() if key != name}, f"the server does not take {name}"
    return None


# -- what is answered --------------------------------------------------------------------------------------------------


class Reader:
    """Chunks of one streamed answer, made into events. snapshots: a delta is the whole text."""

    def __init__(self, row: int, snapshots: bool) -> None:
        self._row, self._snapshots = row, snapshots
        self._reason, self._done, self._declined = "", False, False
        self._usage, self._notes = Usage(), list[str]()
        self.text = ""

    def done(self) -> None:
        """The stream said [DONE]."""
        self._done = True

    def push(self, chunk: Mapping[str, Any]) -> Iterator[Heard]:
        """Raises RemoteError for an error in the stream, TypeError and the like for a chunk of another form."""
        if chunk.get("error"):
            told = refusal(200, json.dumps(chunk).encode())
            raise RemoteError(f"the server stopped: {told.message}", told.status, told.code)
        if warning := chunk.get("warning"):
            self._notes += [str(warning)] if str(warning) not in self._notes else []
        if usage := chunk.get("usage"):
            self._usage = usage_of(usage)
        for choice in (chunk.get("choices") or [])[:1]:
            said = choice.get("delta") or choice.get("message") or choice
            text = said.get("content") or said.get("refusal") or said.get("text") or ""
            self._declined = self._declined or bool(said.get("refusal"))
            places = (chunk, choice, said)
            meta: dict[str, Any] = next((p["diffusion_meta"] for p in places if p.get("diffusion_meta")), {})
            if self._snapshots:
                text = text or meta.get("diffusion_content") or ""
                if text and (text != self.text or meta):
                    self.text = text
                    yield Snapshot(self._row, text, meta.get("diffusion_progress"))
            elif text:
                self.text += text
                yield Text(self._row, text)
            self._reason = choice.get("finish_reason") or self._reason

    def end(self, reason: str = "") -> Iterator[Heard]:
        """What is left. reason: why we ended it. Raises Refused for a stream that was cut."""
        if not (reason or self._reason or self._done):
            raise Refused("the answer broke off")
        if self._snapshots and self.text:
            yield Text(self._row, self.text)
        ended = "content_filter" if self._declined else self._reason or "stop"  # OpenAI says `stop` of a refusal
        yield Ended(self._row, reason or ended, self._usage, tuple(self._notes))


def usage_of(table: Mapping[str, Any]) -> Usage:
    """OpenAI's `usage`, Mercury's words for parts of it, and our `diffusion`."""

    def inside(key: str) -> Mapping[str, Any]:
        found = table.get(key)
        return found if isinstance(found, Mapping) else {}

    def number(*values: Any) -> int | None:
        return next((value for value in values if type(value) is int), None)

    more, read, made = inside("completion_tokens_details"), inside("prompt_tokens_details"), inside("diffusion")
    return Usage(
        number(table.get("prompt_tokens")), number(table.get("completion_tokens")),
        number(table.get("reasoning_tokens"), more.get("reasoning_tokens")),
        number(table.get("cached_input_tokens"), read.get("cached_tokens")),
        number(made.get("calls")), number(made.get("positions")),
    )  # fmt: skip


@dataclass(frozen=True)
class Refusal:
    """What a server said when it did not answer."""

    status: int
    message: str
    code: str = ""
    param: str = ""


def refusal(status: int, body: bytes) -> Refusal:
    """OpenAI's envelope, Gemini's list of one, FastAPI's detail, or the text itself."""
    text = body.decode("utf-8", "replace")
    try:
        table = json.loads(text)
    except ValueError:
        return Refusal(status, plain(re.sub(r"<[^>]*>", " ", text)))
    table = table[0] if isinstance(table, list) and table else table
    inner = table.get("error", table) if isinstance(table, Mapping) else table
    if not isinstance(inner, Mapping):
        return Refusal(status, plain(str(inner)))
    message = inner.get("message") or inner.get("detail") or json.dumps(inner)
    code, param = (inner.get(key) for key in ("code", "param"))
    kind = inner.get("type") if isinstance(inner.get("type"), str) else ""
    return Refusal(status, plain(str(message)), code if isinstance(code, str) else kind or "", str(param or ""))


def plain(text: str) -> str:
    """One line that is safe to show on a terminal."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= LONGEST_MESSAGE else text[: LONGEST_MESSAGE - 3] + "..."


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to be left alone: a number, or a date. None where it does not say."""
    value = headers.get("retry-after", "").strip()
    try:
        if milliseconds := headers.get("retry-after-ms", "").strip():
            return max(0.0, float(milliseconds) / 1000)
        return max(0.0, float(value)) if value else None
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


# -- code, in Mercury's formats ----------------------------------------------------------------------------------------


def edit_message(
    before: str, region: str, after: str, path: str, cursor: int | None, recent: Sequence[tuple[str, str]],
    history: Sequence[str],
) -> str:  # fmt: skip
    """The user message of /edit/completions. cursor: offset in the region. Raises ValueError for text that holds a tag."""
    at = len(region) if cursor is None else cursor
    if not 0 <= at <= len(region):
        raise ValueError(f"cursor is {cursor}; it must lie between 0 and {len(region)}, the region's length")
    for text in (before, region, after, path, *(part for pair in recent for part in pair), *history):
        _untagged(text)
    snippets = "\n".join(
        f"<|recently_viewed_code_snippet|>\ncode_snippet_file_path: {name}\n{code}\n<|/recently_viewed_code_snippet|>"
        for name, code in recent
    )
    parts = {
        "recently_viewed_code_snippets": snippets,
        "current_file_content": f"current_file_path: {path}\n{before}<|code_to_edit|>\n{region[:at]}<|cursor|>{region[at:]}\n"
        f"<|/code_to_edit|>\n{after}",
        "edit_diff_history": "\n".join(history),
    }  # fmt: skip
    return "\n\n".join(f"<|{name}|>\n{content}\n<|/{name}|>" for name, content in parts.items())


def apply_message(original: str, snippet: str) -> str:
    """The user message of /apply/completions. Raises ValueError for text that holds a tag."""
    for text in (original, snippet):
        _untagged(text)
    return f"<|original_code|>\n{original}\n<|/original_code|>\n\n<|update_snippet|>\n{snippet}\n<|/update_snippet|>"


TAG = re.compile(
    r"<\|/?(?:recently_viewed_code_snippets?|current_file_content|code_to_edit|cursor|edit_diff_history|original_code|"
    r"update_snippet)\|>"
)


def _untagged(text: str) -> None:
    if (found := TAG.search(text)) is not None:
        raise ValueError(f"the text holds {found[0]}, which Mercury's format uses itself; it cannot be sent")


def unwrapped(text: str) -> str:
    """An edited region without the fence, or the tag, that it comes in."""
    found = re.fullmatch(r"\s*```[\w+-]*\n(.*?)\n?```\s*", text, re.DOTALL)
    found = found or re.fullmatch(r"\s*<\|updated_code\|>\n?(.*?)\n?<\|/updated_code\|>\s*", text, re.DOTALL)
    return found[1] if found else text
