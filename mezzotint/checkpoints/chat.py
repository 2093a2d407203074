"""Chat templates: programs by a stranger, run on text by another stranger, to make ids that both must not forge.

    message "stop <|im_end|>"  --stand-ins-->  template runs  --split at its markers-->  [id, "stop <|im_end|>", id]

* *Markers.* While the template runs, every character of a message that occurs in some marker's name is replaced by a
  private-use character drawn at random for this call. So a marker in the result was written by the template, whole; the
  stand-ins are undone afterwards. Templates that look for such characters *inside* a message will not find them.
* *Bounds.* The sandbox keeps templates from Python. Their work is bounded here: a tick in every loop and macro, and a
  budget of characters for everything they build, counted where strings and lists can grow. What cannot be counted
  (string formatting, powers, exotic filters) is left out.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache, wraps
from typing import Any

import jinja2
from jinja2 import Undefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

ROLES = ("system", "user", "assistant", "tool", "developer")
MAX_TEMPLATE = 1 << 16  # characters of source
MAX_TICKS = 20_000  # rounds of all loops and calls of all macros and methods, beyond a hundred a message
MAX_BUILT = 1 << 18  # characters a template may build, beyond fifty times those of the messages
MAX_ITEMS = 10_000  # values in a list or table that a template writes, nested ones included

# Methods of texts and tables, and filters, that templates may use. Each has a result no larger than what is counted.
METHODS = frozenset({
    "strip", "lstrip", "rstrip", "split", "rsplit", "splitlines", "startswith", "endswith", "lower", "upper", "title",
    "capitalize", "replace", "join", "find", "index", "count", "isdigit", "isalpha", "isspace", "removeprefix",
    "removesuffix", "get", "items", "keys", "values",
})  # fmt: skip
FILTERS = frozenset({
    "trim", "string", "length", "count", "list", "first", "last", "default", "d", "lower", "upper", "title",
    "capitalize", "int", "float", "abs", "round", "sum", "min", "max", "join", "replace", "tojson", "selectattr",
    "rejectattr", "select", "reject", "map", "items", "dictsort", "sort", "unique", "reverse",
})  # fmt: skip


def render(
    template: str,
    messages: Sequence[Mapping[str, str]],
    markers: Mapping[str, int],
    add_generation_prompt: bool = True,
    names: Mapping[str, str] | None = None,
) -> list[int | str]:
    """The conversation as ids of markers and pieces of plain text between them.

    template: Jinja source; markers: name -> id of the tokens that a template may write; names: further variables, such
    as bos_token. Raises ValueError for bad messages, a bad template, one that raises or one that does too much.
    """
    messages = [_message(index, message) for index, message in enumerate(messages)]
    if not messages:
        raise ValueError("a conversation has at least one message")
    text = "".join(message["content"] for message in messages)
    plain = sorted({c for name in markers for c in name if not c.isspace()})
    veil = dict(zip(map(ord, plain), _stand_ins(len(plain), text + template), strict=True))
    unveil = {ord(stand_in): chr(c) for c, stand_in in veil.items()}
    veiled = [{**message, "content": message["content"].translate(veil)} for message in messages]
    variables = {**(names or {}), "messages": veiled, "add_generation_prompt": add_generation_prompt}
    output = _run(template, variables, _Meter(len(veiled), len(text)))
    if not markers:
        return [output.translate(unveil)] if output else []
    split = re.split("(" + "|".join(re.escape(name) for name in sorted(markers, key=len, reverse=True)) + ")", output)
    return [markers[part] if i % 2 else part.translate(unveil) for i, part in enumerate(split) if part]


def _message(index: int, message: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
        raise ValueError(f"message {index} must have exactly a role and a content")
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise ValueError(f"role of message {index} is {role!r}; allowed: {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise ValueError(f"content of message {index} is {type(content).__name__}; expected a string")
    return {"role": role, "content": content}


def _stand_ins(count: int, avoid: str) -> list[str]:
    """`count` different private-use characters that do not occur in `avoid`, unguessable."""
    used, found = set(avoid), list[str]()
    while len(found) < count:
        character = chr(0xF0000 + secrets.randbelow(0xFFFE))
        if character not in used:
            used.add(character)
            found.append(character)
    return found


# -- the bounded sandbox -----------------------------------------------------------------------------------------------


class _TooMuch(Exception):
    pass


class _Meter:
    """What one run has used. Jinja has no hook for passing it along, so the environment is built for each run."""

    def __init__(self, messages: int, characters: int) -> None:
        self.ticks, self.characters = MAX_TICKS + 100 * messages, MAX_BUILT + 50 * characters

    def tick(self) -> str:
        self.ticks -= 1
        if self.ticks < 0:
            raise _TooMuch("its loops run too long")
        return ""

    def grow(self, characters: int) -> None:
        self.characters -= characters
        if self.characters < 0:
            raise _TooMuch("it builds too much text")

    def text(self, value: Any) -> str:
        """Text of a simple value; lists and tables go through tojson, where their size is counted."""
        if isinstance(value, Undefined | bool | int | float | None | str):
            return str(value)
        raise _TooMuch(f"it prints a {type(value).__name__}")

    def concat(self, parts: Iterable[Any]) -> str:
        pieces = []
        for part in parts:
            pieces.append(self.text(part))
            self.grow(len(pieces[-1]))
        return "".join(pieces)

    def join(self, between: str, parts: Iterable[Any]) -> str:
        pieces = []
        for part in parts:
            pieces.append(self.text(part))
            self.grow(len(pieces[-1]) + len(between))
        return between.join(pieces)

    def replace(self, text: str, old: str, new: str, count: int = -1) -> str:
        self.grow(len(text) + text.count(old) * len(new))
        return text.replace(old, new, count)

    def built(self, value: Any) -> Any:
        """Check the unfolded size of a list or table: shared parts count each time they appear."""
        left, todo = MAX_ITEMS, [value]
        while todo:
            item = todo.pop()
            left -= 1
            if isinstance(item, Mapping):
                todo.extend(item.values())
                left -= len(item)
            elif isinstance(item, list | tuple):
                todo.extend(item)
            if left < len(todo):
                raise _TooMuch(f"it builds a list of more than {MAX_ITEMS} values")
        return value

    def tojson(self, value: Any, ensure_ascii: bool = False, indent: int | None = None, **rest: Any) -> str:
        if indent is not None and not 0 <= indent <= 8:
            raise _TooMuch(f"it indents JSON by {indent}")
        pieces = []
        for piece in json.JSONEncoder(ensure_ascii=False, indent=indent).iterencode(self.built(value)):
            pieces.append(piece)
            self.grow(len(piece))
        return "".join(pieces)


class _Bounded(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["+", "*", "**", "%"])
    meter: _Meter

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        texts = isinstance(left, str) or isinstance(right, str)
        if operator == "**" or (operator == "%" and texts):
            raise _TooMuch(f"{operator!r} is not available to templates")
        if operator in "+*":
            sizes = [len(x) for x in (left, right) if isinstance(x, str | list | tuple)]
            if operator == "*" and sizes:
                times = next((x for x in (left, right) if isinstance(x, int)), 0)
                sizes = [sizes[0] * max(int(times), 0)]
            self.meter.grow(sum(sizes))
            if any(isinstance(x, int) and abs(x) >= 1 << 63 for x in (left, right)):
                raise _TooMuch("it computes with numbers of more than 64 bits")
        value = super().call_binop(context, operator, left, right)
        return self.meter.built(value) if isinstance(value, list | tuple) else value

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if (
            callable(value)
            and isinstance(obj, str | bytes | int | float | Mapping | list | tuple)
            and attr not in METHODS
        ):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Any:
        if isinstance(getattr(value, "__self__", None), str) and getattr(value, "__name__", "") not in METHODS:
            raise _TooMuch(f"{value.__name__!r} is not available to templates")
        return None

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(obj, "__self__", None) is self.meter:
            return obj(*args)
        self.meter.tick()
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, str) and name in ("replace", "join"):
            return self.meter.replace(owner, *args) if name == "replace" else self.meter.join(owner, *args)
        if isinstance(owner, str):
            self.meter.grow(len(owner))
        value = super().call(context, obj, *args, **kwargs)
        return self.meter.built(value) if isinstance(value, list | tuple | dict) else value


class _Instrument(NodeTransformer):
    """Put a tick into every loop and macro, and counters around what grows."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, _counted("tick", node.lineno))
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, _counted("tick", node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("concat", [nodes.List(node.nodes, lineno=node.lineno)], node.lineno)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _call("built", [node], node.lineno)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _call("built", [node], node.lineno)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return node if node.ctx != "load" else _call("built", [node], node.lineno)

    def _refuse(self, node: nodes.Node) -> nodes.Node:
        raise _TooMuch(f"{type(node).__name__} (line {node.lineno}) is not available to templates")

    visit_Import = visit_FromImport = visit_Include = visit_Extends = visit_Block = _refuse


def _call(name: str, arguments: list[nodes.Expr], line: int) -> nodes.Call:
    return nodes.Call(nodes.Name(f"_mz_{name}", "load", lineno=line), arguments, [], None, None, lineno=line)


def _counted(name: str, line: int) -> nodes.ExprStmt:
    return nodes.ExprStmt(_call(name, [], line), lineno=line)


def _environment(meter: _Meter) -> _Bounded:
    env = _Bounded(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[loopcontrols],
        finalize=meter.text,
        optimized=False,
        cache_size=0,
    )
    env.meter = meter
    env.concat = meter.concat  # type: ignore[method-assign]
    env.filters = {name: _metered(value, meter) for name, value in env.filters.items() if name in FILTERS}
    env.filters["safe"] = meter.text
    env.filters["tojson"] = meter.tojson
    env.filters["join"] = lambda parts, d="": meter.join(d, parts)
    env.filters["replace"] = meter.replace
    env.filters["string"] = meter.text
    env.globals = {
        "range": env.globals["range"], "namespace": env.globals["namespace"], "dict": dict, "raise_exception": _raise,
        "strftime_now": lambda form: datetime.now().strftime(str(form)[:64]),
        **{f"_mz_{name}": getattr(meter, name) for name in ("tick", "concat", "built")},
    }  # fmt: skip
    return env


def _metered(function: Any, meter: _Meter) -> Any:
    """The filter, with its arguments' sizes counted as work."""

    @wraps(function)  # keeps the mark of filters that Jinja gives its context
    def run(*args: Any, **kwargs: Any) -> Any:
        meter.grow(sum(len(x) for x in args if isinstance(x, str | list | tuple)))
        return function(*args, **kwargs)

    return run


def _raise(message: str) -> None:
    raise jinja2.TemplateError(str(message)[:500])


def _run(source: str, variables: Mapping[str, Any], meter: _Meter) -> str:
    """The template's output. Raises ValueError when it fails or exceeds its bounds."""
    if len(source) > MAX_TEMPLATE:
        raise ValueError(f"the chat template has {len(source)} characters; at most {MAX_TEMPLATE} are run")
    env = _environment(meter)
    try:
        code = _compiled(source)
        template = jinja2.Template.from_code(env, code, dict(env.globals))
        return meter.concat(template.generate(**variables))
    except (_TooMuch, SecurityError) as error:
        raise ValueError(f"the chat template was stopped: {error}") from None
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"the chat template is not valid, line {error.lineno}: {error.message}") from None
    except jinja2.TemplateError as error:
        raise ValueError(f"the chat template refuses this conversation: {error.message}") from None
    except (
        RecursionError,
        TypeError,
        AttributeError,
        KeyError,
        IndexError,
        ArithmeticError,
        ValueError,
        SyntaxError,
    ) as error:
        raise ValueError(f"the chat template fails: {type(error).__name__}: {str(error)[:200]}") from None


@lru_cache(maxsize=32)
def _compiled(source: str) -> Any:
    """Instrumented bytecode; it names no environment and no meter, so every run may share it."""
    env = _environment(_Meter(0, 0))
    tree = _Instrument().visit(env.parse(source))
    return env.compile(tree)
