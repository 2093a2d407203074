"""What drivers share: limits on oneself, plain values over a pipe, and how outputs are compared. Standard library alone.

Values cross as JSON: None, bool, str, small int as themselves; others tagged: {"i": hex} {"f": repr} {"c": [re, im]} {"b": hex}
{"l"|"t"|"s"|"z": [...]} (list, tuple, set, frozenset) {"d": [[k, v]]}. Types are exact: a subclass of int is
no int. The library's own kinds of dict cross as dict.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

HOME = "/run/eval"
DEEPEST = 200


def begin() -> dict[str, Any]:
    """Set this process's limits, and read its job, which is then gone. -> the job."""
    sys.path.remove(HOME)
    with open(f"{HOME}/limits.json", encoding="utf-8") as file:
        limits = json.load(file)
    with open(f"{HOME}/job.json", encoding="utf-8") as file:
        job = json.load(file)
    os.unlink(f"{HOME}/job.json")
    limit(limits)
    return job


def limit(limits: dict[str, Any]) -> None:
    cpu = max(1, round(limits["seconds"]))
    for what, value in (
        (resource.RLIMIT_CPU, cpu), (resource.RLIMIT_AS, limits["memory"]), (resource.RLIMIT_FSIZE, limits["file"]),
        (resource.RLIMIT_NOFILE, 128), (resource.RLIMIT_NPROC, limits["processes"]), (resource.RLIMIT_CORE, 0),
    ):  # fmt: skip
        resource.setrlimit(what, (value, value))


def say(fd: int, value: Any) -> None:
    """One JSON value as a line."""
    data = json.dumps(value).encode() + b"\n"
    while data:
        data = data[os.write(fd, data) :]


def encode(value: Any, keep: Callable[[Any], int] | None = None, depth: int = 0) -> Any:
    """A plain value for the pipe; another kind by `keep`'s number for it. Raises TypeError without `keep`, ValueError."""
    if depth > DEEPEST:
        raise ValueError("a value nested too deeply")
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if abs(value) < 1 << 53 else {"i": hex(value)}
    if kind is float:
        return {"f": repr(value)}
    if kind is complex:
        return {"c": [repr(value.real), repr(value.imag)]}
    if kind is bytes:
        return {"b": value.hex()}
    for tag, container in (("l", list), ("t", tuple), ("s", set), ("z", frozenset)):
        if kind is container:
            return {tag: [encode(one, keep, depth + 1) for one in value]}
    if kind in (dict, Counter, OrderedDict, defaultdict):
        return {"d": [[encode(k, keep, depth + 1), encode(v, keep, depth + 1)] for k, v in value.items()]}
    if keep is None:
        raise TypeError(f"a {kind.__name__} is no plain value")
    try:
        true = bool(value)
    except Exception:
        true = True
    return {"h": keep(value), "type": kind.__name__[:80], "true": true}


def decode(sent: Any, kept: Callable[[int, str, bool], Any]) -> Any:
    """The value again; `kept` stands for what was no plain value. Raises ValueError, TypeError, KeyError for what is
    malformed.
    """
    if not isinstance(sent, dict):
        if isinstance(sent, list | float):
            raise ValueError("untagged value")
        return sent
    if "h" in sent:
        return kept(int(sent["h"]), str(sent.get("type")), sent.get("true") is not False)
    ((tag, value),) = sent.items()
    if tag == "i":
        return int(value, 16)
    if tag == "f":
        return float(value)
    if tag == "c":
        return complex(float(value[0]), float(value[1]))
    if tag == "b":
        return bytes.fromhex(value)
    if tag == "d":
        return {decode(k, kept): decode(v, kept) for k, v in value}
    container: Any = {"l": list, "t": tuple, "s": set, "z": frozenset}[tag]
    return container(decode(one, kept) for one in value)


def same_output(got: str, want: str) -> bool:
    """LiveCodeBench's comparison of printed text: stripped lines, equal or equal as decimals."""
    ours = [line.strip() for line in got.strip().split("\n")]
    theirs = [line.strip() for line in want.strip().split("\n")]
    return len(ours) == len(theirs) and all(a == b or _same_numbers(a, b) for a, b in zip(ours, theirs, strict=True))


def _same_numbers(one: str, other: str) -> bool:
    try:
        return [Decimal(x) for x in one.split()] == [Decimal(x) for x in other.split()]
    except InvalidOperation:
        return False
