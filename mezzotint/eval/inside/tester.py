"""The tests' side of strict grading: runs trusted tests, whose calls of the answer's functions go to another sandbox.

job: {"setup", "tests", "entry", "module", "marker"}. `setup` (a prompt's imports and helpers) and `tests` are the benchmark's.
A name that the tests use and nobody defines is asked of the answer, and `entry` even where it hides a builtin. A value that
is not plain is a `Kept`: it can be handed back to the answer and is as true as the answer says, but not compared nor looked into.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import os
import sys
import types
from typing import Any

from mezzotint.eval.inside.common import begin, decode, encode, say


class Broken(BaseException):
    """The answer's process is gone or talks nonsense. Not an Exception: no test may catch it."""


class Kept:
    """Something of the answer's that is no plain value."""

    _kind: str
    _number: int
    _true: bool

    def __init__(self, number: int, kind: str, true: bool) -> None:
        for name, value in (("_number", number), ("_kind", kind), ("_true", true)):
            object.__setattr__(self, name, value)

    def __bool__(self) -> bool:
        return self._true

    def _refuse(self, *_: object) -> Any:
        raise Broken(f"a {self._kind} is no plain value")

    __eq__ = __ne__ = __len__ = __iter__ = __getitem__ = __getattr__ = __lt__ = __gt__ = __le__ = __ge__ = _refuse
    __hash__ = __contains__ = __float__ = __int__ = __index__ = __call__ = __sub__ = __add__ = __rsub__ = (
        __setattr__
    ) = _refuse


class Answer:
    def __init__(self, write: int, read: int) -> None:
        self.write, self.lines = write, os.fdopen(read, "rb")

    def hear(self) -> dict[str, Any]:
        line = self.lines.readline(64 << 20)
        try:
            heard = json.loads(line)
        except ValueError:
            raise Broken("the answer's process ended" if not line else "the answer's process talks nonsense") from None
        if not isinstance(heard, dict):
            raise Broken("the answer's process talks nonsense")
        return heard

    def function(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                say(self.write, {"call": name, "args": _encode(list(args)), "kwargs": _encode(kwargs)})
            except OSError:
                raise Broken("the answer's process ended") from None
            heard = self.hear()
            try:
                if "raised" in heard:
                    kind = getattr(builtins, str(heard["raised"]), RuntimeError)
                    kind = kind if isinstance(kind, type) and issubclass(kind, Exception) else RuntimeError
                    raise kind(str(heard.get("why")))
                result = decode(heard["ok"], Kept)
                for ours, theirs in zip(args, decode(heard["args"], Kept), strict=True):
                    if type(ours) is type(theirs) and type(ours) in (list, dict, set):
                        _become(ours, theirs)
            except (KeyError, RecursionError, OverflowError) as error:
                if "raised" in heard:
                    raise
                raise Broken(f"the answer's process talks nonsense: {error}") from None
            return result

        return call


def _become(ours: Any, theirs: Any) -> None:
    """Changes that the answer made in an argument."""
    ours.clear()
    ours.extend(theirs) if type(ours) is list else ours.update(theirs)


def _encode(value: Any) -> Any:
    if isinstance(value, Kept):
        return {"h": value._number}
    if type(value) is list:
        return {"l": [_encode(one) for one in value]}
    if type(value) is dict:
        return {"d": [[_encode(k), _encode(v)] for k, v in value.items()]}
    if type(value) is tuple:
        return {"t": [_encode(one) for one in value]}
    try:
        return encode(value)
    except TypeError as error:
        raise Broken(f"the tests give the answer {error}") from None


def _undefined(code: str, known: dict[str, Any]) -> set[str]:
    """Names that a program reads and nobody defines."""
    tree = ast.parse(code)
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    made = {n.id for n in names if not isinstance(n.ctx, ast.Load)} | {
        a.arg for a in ast.walk(tree) if isinstance(a, ast.arg)
    }
    made |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            made |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return {n.id for n in names} - made - set(known) - set(vars(builtins))


def main(arguments: list[str]) -> None:
    job, (fd, write, read) = begin(), map(int, arguments)
    try:
        why = _run(job, Answer(write, read))
    except BaseException as error:
        why = f"{type(error).__name__}: {error}"[:200]
    say(fd, {"marker": job["marker"], "ok": not why, "why": why})


def _run(job: dict[str, Any], answer: Answer) -> str:
    """Raises what the tests raise. -> why the answer could not be loaded, or nothing."""
    names: dict[str, Any] = {"__name__": "tests"}
    exec(compile(job["setup"], "setup", "exec"), names)
    heard = answer.hear()
    if "failed" in heard:
        return str(heard["failed"])
    module = types.ModuleType(job["module"])
    for name in heard["ready"] if isinstance(heard.get("ready"), list) else []:
        setattr(module, str(name), answer.function(str(name)))
    if job["module"] == "code":  # LBPP's tests import from a module of this name
        sys.modules["code"] = module
    if job["entry"]:
        names["candidate"] = names[job["entry"].rpartition(".")[2]] = answer.function(job["entry"])
    for name in _undefined(job["tests"], names):
        library = name in sys.stdlib_module_names  # tests that rely on an import of the answer's
        names[name] = importlib.import_module(name) if library else answer.function(name)
    exec(compile(job["tests"], "tests", "exec"), names)
    return ""
