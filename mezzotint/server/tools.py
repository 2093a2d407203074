"""Tools: what `response_format`, `tools` and `tool_choice` ask for, and calls of tools as clients read them.

The model is told of the tools in the system message, as SmolLM2 and its kin learnt it, and the format holds it to them:
a call is always one of a tool that is there, with arguments that satisfy its schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mezzotint.constraint.formats import CALL_BEGINS, MOST_TOOLS, Format, JsonSchema, ToolCall, parse_call
from mezzotint.constraint.schema import UnsupportedSchema
from mezzotint.server import chance
from mezzotint.server.errors import bad

TOLD = (
    "You may call one of these functions. Their signatures:\n<tools>{tools}</tools>\n"
    'A call is JSON with the function\'s name and its arguments: <tool_call>\n{{"name": ..., "arguments": {{...}}}}\n</tool_call>'
)
FORCED = 'You must call one of these functions, with JSON alone: {{"name": ..., "arguments": {{...}}}}\n<tools>{tools}</tools>'


class Function(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    type: Literal["function"] = "function"
    function: Function


class Named(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    name: str


class Choice(BaseModel):
    """One tool by its name."""

    model_config = ConfigDict(strict=True, extra="ignore")
    type: Literal["function"] = "function"
    function: Named


class SchemaFormat(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    name: str = ""
    json_schema: Annotated[dict[str, Any] | bool | None, Field(alias="schema")] = None


class ResponseFormat(BaseModel):
    """text; json_object: any JSON object; json_schema: one that satisfies `json_schema.schema`."""

    model_config = ConfigDict(strict=True, extra="ignore")
    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: SchemaFormat | None = None


Tools = Annotated[list[Tool], Field(max_length=MOST_TOOLS)]
ToolChoice = Literal["none", "auto", "required"] | Choice


def format_of(response: ResponseFormat | None, tools: Sequence[Tool], choice: ToolChoice | None) -> Format | None:
    """What the answer must be like. Raises ApiError for a schema that cannot be followed, naming its keywords."""
    if tools and choice != "none":
        wanted, place = tools, "tools"
        if isinstance(choice, Choice):
            wanted = [tool for tool in tools if tool.function.name == choice.function.name]
            if not wanted:
                raise bad(f"tool_choice names {choice.function.name[:64]!r}, which is none of the tools", "tool_choice")
        asked = {
            tool.function.name: tool.function.parameters or {"type": "object", "properties": {}} for tool in wanted
        }
        if len(asked) != len(wanted):
            raise bad("two tools have one name", "tools")
        return _made(lambda: ToolCall(asked, required=choice not in (None, "auto")), place)
    if isinstance(choice, Choice) or choice == "required":
        raise bad("tool_choice forces a tool, and there are no tools", "tool_choice")
    if response is None or response.type == "text":
        return None
    if response.type == "json_object":
        return JsonSchema()
    if response.json_schema is None or response.json_schema.json_schema is None:
        raise bad("response_format json_schema needs json_schema.schema", "response_format")
    schema = response.json_schema.json_schema
    return _made(lambda: JsonSchema(schema), "response_format")


def _made(make: Any, param: str) -> Format:
    try:
        made: Format = make()
    except UnsupportedSchema as error:
        raise bad(str(error), param, "unsupported_schema") from None
    except ValueError as error:
        raise bad(f"the schema cannot be followed: {error}", param) from None
    return made


def told(messages: list[dict[str, str]], asked: Format | None, tools: Sequence[Tool]) -> list[dict[str, str]]:
    """The messages, with the tools in the system message."""
    if not isinstance(asked, ToolCall):
        return messages
    listed = json.dumps(
        [tool.function.model_dump(exclude_none=True) for tool in tools if tool.function.name in asked.tools], ensure_ascii=False
    )  # fmt: skip
    text = (FORCED if asked.required else TOLD).format(tools=listed)
    if messages and messages[0]["role"] in ("system", "developer"):
        first = messages[0]
        return [{**first, "content": f"{first['content']}\n\n{text}".strip()}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def as_text(message: Mapping[str, Any]) -> str:
    """A message's content, or the calls that it made, as the model would have written them."""
    calls = message.get("tool_calls") or []
    said = [str(message.get("content") or "")] if message.get("content") or not calls else []
    for call in calls:
        function = call["function"]
        said.append(f'{{"name": {json.dumps(function["name"])}, "arguments": {function["arguments"] or "{}"}}}')
    return "\n".join(said)


def message(text: str, reason: str, asked: Format | None) -> tuple[dict[str, Any], str]:
    """A whole answer as a message, and how it ended. A call that was cut short stays text."""
    found = parse_call(text) if isinstance(asked, ToolCall) else None
    if found is None:
        return {"role": "assistant", "content": text, "refusal": None}, reason
    call = {"id": _id(), "type": "function", "function": {"name": found[0], "arguments": found[1]}}
    return {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]}, "tool_calls"


class Deltas:
    """Text in pieces -> deltas: content, or a call: its id and name once, then its arguments as they come."""

    def __init__(self, asked: Format | None) -> None:
        self.required = isinstance(asked, ToolCall) and asked.required
        self.undecided = isinstance(asked, ToolCall)
        self.calling = self.named = False
        self.held = ""  # of a call: what was not given out

    def push(self, text: str, last: bool = False) -> list[dict[str, Any]]:
        if not (self.undecided or self.calling):
            return [{"content": text}] if text else []
        self.held += text
        if self.undecided:
            whole = self.required or self.held.startswith(CALL_BEGINS)
            if not whole and CALL_BEGINS.startswith(self.held) and not last:
                return []
            self.undecided, self.calling = False, whole
            if not whole:
                said, self.held = self.held, ""
                return [{"content": said}] if said else []
            self.held = self.held.removeprefix(CALL_BEGINS)
        return self._call(last)

    def _call(self, last: bool) -> list[dict[str, Any]]:
        out: list[dict[str, Any]] = []
        if not self.named:
            head, found, rest = self.held.partition(', "arguments": ')
            if not found:
                return []
            name = json.loads(head.removeprefix('{"name": '))
            self.named, self.held = True, rest
            out.append(_delta({"id": _id(), "type": "function", "function": {"name": name, "arguments": ""}}))
        # the call's own brace, and the marker behind it, are not the arguments'
        end = self.held.rfind("}") if last else max(0, len(self.held) - len("}\n</tool_call>"))
        if last and end < 0:
            end = len(self.held)
        if said := self.held[:end]:
            out.append(_delta({"function": {"arguments": said}}))
        self.held = self.held[end:]
        return out

    def reason(self, reason: str) -> str:
        return "tool_calls" if self.named and reason == "stop" else reason


def _delta(call: dict[str, Any]) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, **call}]}


def _id() -> str:
    return f"call_{chance.digits()[:24]}"
