"""Wire: the bodies that clients send. Fields that nobody here knows are left alone and named in a warning.

Numbers are numbers: `true`, "1" and 1.5 are no counts. A field that would change the text and that the engine does not have
(echo, a schema to follow) is refused, unless it says what is done anyway.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mezzotint.engine.request import MOST_TOP
from mezzotint.server.errors import bad
from mezzotint.server.settings import (
    LONGEST_STOP,
    MOST_BIASES,
    MOST_CHOICES,
    MOST_FIELDS,
    MOST_MESSAGES,
    MOST_PROMPTS,
    MOST_STOPS,
)
from mezzotint.server.tools import ResponseFormat, ToolChoice, Tools

NEUTRAL: dict[str, tuple[Any, ...]] = {  # field -> values that ask for nothing
    "typical_p": (1,), "best_of": (1,), "echo": (False,), "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"), "function_call": ("none", "auto"),
}  # fmt: skip
SHOWN = 20  # ignored fields named in a warning


def _text(content: Any) -> Any:
    """Content as one text: null is none, a list holds parts of type text."""
    if content is None:
        return ""
    if not isinstance(content, list):
        return content
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError("a part of it is not of type text, and this model reads text alone")
    return "".join(part["text"] for part in content)


def listed(value: Any) -> Any:
    """null, one or several, as a list."""
    return [] if value is None else value if isinstance(value, list) else [value]


def default(value: Any) -> BeforeValidator:
    """null is the default."""
    return BeforeValidator(lambda given: value if given is None else given)


Stop = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]


class FunctionCalled(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    name: str
    arguments: str = "{}"


class CallMade(BaseModel):
    """A call that an earlier answer made."""

    model_config = ConfigDict(strict=True, extra="ignore")
    function: FunctionCalled


class Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str, BeforeValidator(_text)] = ""
    tool_calls: list[CallMade] | None = None


class StreamOptions(BaseModel):
    """include_diffusion: a chunk for every call too, with an empty delta and what the call did (`frames.py`)."""

    model_config = ConfigDict(strict=True, extra="ignore")
    include_usage: Annotated[bool, default(False)] = False
    include_diffusion: Annotated[bool, default(False)] = False


class ConditionBody(BaseModel):
    """One of: a class or an embedding, for weights that know them, or text before the prompt."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    class_label: Annotated[int | None, Field(ge=0)] = None
    embedding: Annotated[list[float] | None, Field(max_length=8192)] = None
    prompt: Annotated[str | None, Field(min_length=1)] = None


class Body(BaseModel):
    """What every request may say."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    model: str | None = None
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None

    @model_validator(mode="before")
    @classmethod
    def _spelled(cls, body: Any) -> Any:
        if isinstance(body, dict) and len(body) > MOST_FIELDS:
            raise ValueError(f"it has {len(body)} fields; at most {MOST_FIELDS} are read")
        try:
            json.dumps(body if isinstance(body, dict) else {}, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a text holds a lone surrogate, which no encoding spells") from None
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        return body

    @property
    def extra(self) -> dict[str, Any]:
        return {key: value for key, value in (self.model_extra or {}).items() if value is not None}

    def refuse_unsupported(self) -> None:
        """Raises ApiError for a field that asks for what is not there."""
        extra = self.extra
        for name, neutral in NEUTRAL.items():
            if name in extra and extra[name] not in neutral:
                told = " or ".join(map(repr, neutral))
                raise bad(f"{name} is not supported; leave it out or give {told}", name, "unsupported_parameter")

    def ignored(self) -> list[str]:
        """Names of the fields that were not read."""
        return [name[:40] for name in self.extra if name not in NEUTRAL][:SHOWN]


Bias = Annotated[float, Field(ge=-100, le=100)]


class Sampling(Body):
    """decode, quality, policy: as on the command line; quality and policy mean diffusion.

    Penalties count committed tokens. logit_bias: {id: nats}. logprobs_at: which log-probabilities are meant (`lens.py`).
    condition, guidance: what is followed beside the prompt, and how strongly; guidance means diffusion. deadline_ms: the
    answer comes by then with the best text that there is. trace: keep every call for /v1/traces/{id}.
    """

    n: Annotated[int, default(1), Field(ge=1, le=MOST_CHOICES)] = 1
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    temperature: Annotated[float, default(0.0), Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, default(1.0), Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, default(-1), Field(ge=-1)] = -1
    min_p: Annotated[float, default(0.0), Field(ge=0, le=1)] = 0.0
    presence_penalty: Annotated[float, default(0.0), Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, default(0.0), Field(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[float, default(1.0), Field(gt=0, le=10)] = 1.0
    logit_bias: Annotated[dict[str, Bias], default({}), Field(max_length=MOST_BIASES)] = {}
    logprobs_at: Literal["commit", "final", "causal"] = "commit"
    condition: ConditionBody | None = None
    guidance: Annotated[float, default(1.0), Field(ge=0, le=100)] = 1.0
    deadline_ms: Annotated[int | None, Field(ge=1, le=86_400_000)] = None
    trace: Annotated[bool, default(False)] = False
    stop: Annotated[list[Stop], BeforeValidator(listed), Field(max_length=MOST_STOPS)] = []
    stream: Annotated[bool, default(False)] = False
    stream_options: Annotated[StreamOptions, default({})] = StreamOptions()
    decode: Literal["ar", "verified", "diffusion"] | None = None
    quality: Literal["fast", "balanced", "best"] | None = None
    policy: str | None = None

    @property
    def scored(self) -> int | None:
        """How many likeliest tokens are named beside each log-probability; None where none are asked for."""
        return None


class Chat(Sampling):
    """diffusing: a stream of snapshots, each in place of the one before. response_format, tools, tool_choice: see `tools.py`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    diffusing: Annotated[bool, default(False)] = False
    response_format: ResponseFormat | None = None
    tools: Annotated[Tools, BeforeValidator(listed)] = []
    tool_choice: ToolChoice | None = None
    logprobs: Annotated[bool, default(False)] = False
    top_logprobs: Annotated[int, default(0), Field(ge=0, le=MOST_TOP)] = 0

    @property
    def scored(self) -> int | None:
        return self.top_logprobs if self.logprobs else None


class Completion(Sampling):
    prompt: Annotated[list[str], BeforeValidator(listed), Field(min_length=1, max_length=MOST_PROMPTS)]
    suffix: str | None = None
    logprobs: Annotated[int | None, Field(ge=0, le=MOST_TOP)] = None

    @property
    def scored(self) -> int | None:
        return self.logprobs


Span = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]


class InstantEdit(Body):
    """document: the text; instruction or preset (with its values): what to do. locks: [start, end] characters that stay.

    budget: share that may change; strength: share, what is most in doubt, that starts as noise; way: see `edit/router.py`.
    """

    document: Annotated[str, Field(min_length=1)]
    instruction: Annotated[str | None, Field(max_length=4096)] = None
    preset: str | None = None
    values: dict[str, str] = {}
    locks: Annotated[list[Span], Field(max_length=MOST_FIELDS, fail_fast=True)] = []
    lines: str | None = None
    only_doubtful: bool = False
    budget: Annotated[float | None, Field(ge=0, le=1)] = None
    strength: Annotated[float | None, Field(ge=0, le=1)] = None
    way: Literal["auto", "diffusion", "rescore", "verified", "repair", "insert"] = "auto"


class HunkAnswer(BaseModel):
    """Characters start:end of the document became `after`. bytes, utf16: the same span in those units; gain: in nats."""

    start: int
    end: int
    before: str
    after: str
    confidence: float
    gain: float | None = None
    bytes: list[int]
    utf16: list[int]


class EditAnswer(BaseModel):
    """calls: of the network; problems: what the preset's checks found; lsp: the hunks as TextEdits."""

    id: str
    object: Literal["instant_edit"] = "instant_edit"
    created: int
    model: str
    seed: int
    text: str
    changed: bool
    hunks: list[HunkAnswer]
    calls: int
    way: str
    notes: list[str]
    problems: list[str]
    lsp: list[dict[str, Any]]
    warning: str | None = None


def param(place: Sequence[Any]) -> str | None:
    """The name of a field in a validation error's place: ("body", "messages", 0, "role") is messages[0].role."""
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place[1:])
    return name.lstrip(".") or None
