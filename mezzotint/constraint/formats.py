"""Formats: what a request may ask of its answer's text. Each makes its automaton when it is made, so a wrong one fails there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mezzotint.constraint.language import LAST, Automaton, Node, alt, chars, repeat, seq, text, without
from mezzotint.constraint.pattern import pattern_node
from mezzotint.constraint.schema import object_node, schema_node

MAX_SCHEMA = 1 << 16  # characters of a schema
MOST_TOOLS = 64
CALL_BEGINS, CALL_ENDS = "<tool_call>\n", "\n</tool_call>"


@dataclass(frozen=True)
class JsonSchema:
    """A JSON text that satisfies a schema, spelled as Python's json writes it. No schema: any object.

    Raises ValueError naming every keyword that cannot be followed.
    """

    schema: Mapping[str, Any] | bool | None = None

    def __post_init__(self) -> None:
        _automaton("schema", self.key)

    @property
    def key(self) -> str:
        return "" if self.schema is None else _json(self.schema)

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def automaton(self) -> Automaton:
        return _automaton("schema", self.key)


@dataclass(frozen=True)
class Regex:
    """A text that matches the whole pattern. Raises ValueError for one that is none, naming what is not supported."""

    pattern: str

    def __post_init__(self) -> None:
        _automaton("regex", self.pattern)

    @property
    def key(self) -> str:
        return self.pattern

    @property
    def automaton(self) -> Automaton:
        return _automaton("regex", self.pattern)


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool: `{"name": "get_time", "arguments": {...}}`. tools: name -> JSON schema of its arguments.

    required: nothing but the call; else the model may answer with any text, and marks a call as `<tool_call>` does.
    """

    tools: Mapping[str, Any]
    required: bool = True

    def __post_init__(self) -> None:
        if not 1 <= len(self.tools) <= MOST_TOOLS:
            raise ValueError(f"{len(self.tools)} tools are given; 1 to {MOST_TOOLS} may be")
        _automaton(*self._made)

    @property
    def _made(self) -> tuple[str, str]:
        return "call" if self.required else "answer or call", self.key

    @property
    def key(self) -> str:
        return _json(self.tools)

    def __hash__(self) -> int:
        return hash(self._made)

    @property
    def automaton(self) -> Automaton:
        return _automaton(*self._made)


Format = JsonSchema | Regex | ToolCall


def parse_call(said: str) -> tuple[str, str] | None:
    """Name and arguments (JSON text, as it was written) of a tool call; None where the text is none."""
    said = said.removeprefix(CALL_BEGINS).removesuffix(CALL_ENDS)
    try:
        call = json.loads(said)
        name = call["name"]
        opening = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": '
    except (ValueError, TypeError, KeyError):
        return None
    return (name, said[len(opening) : -1]) if said.startswith(opening) else None


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"a schema must be JSON: {error}") from None


@lru_cache(maxsize=64)
def _automaton(kind: str, source: str) -> Automaton:
    if len(source) > MAX_SCHEMA:
        raise ValueError(f"the {kind} has {len(source)} characters; at most {MAX_SCHEMA} are read")
    try:
        return _made(kind, source)
    except RecursionError:
        raise ValueError(f"the {kind} is nested too deeply") from None


def _made(kind: str, source: str) -> Automaton:
    if kind == "regex":
        return Automaton.of(pattern_node(source))
    if kind == "schema":
        return Automaton.of(schema_node(json.loads(source)) if source else object_node())
    call = alt(*(
        seq(text(f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": '), schema_node(schema), text("}"))
        for name, schema in json.loads(source).items()
    ))  # fmt: skip
    if kind == "call":
        return Automaton.of(call)
    return Automaton.of(alt(seq(text(CALL_BEGINS), call, text(CALL_ENDS)), _not_beginning_with(CALL_BEGINS)))


def _not_beginning_with(marker: str) -> Node:
    """Any text that leaves the marker before its end."""
    everything = ((0, LAST),)
    leaving = [
        seq(text(marker[:n]), repeat(seq(chars(without(everything, ((ord(c), ord(c)),))), repeat(chars(everything))), 0, 1))
        for n, c in enumerate(marker)
    ]  # fmt: skip
    return alt(*leaving)
