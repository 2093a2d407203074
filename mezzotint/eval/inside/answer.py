"""The answer's side of strict grading: loads it, and calls its functions for a tester in another sandbox.

stdin: {"call": "f" or "Solution().f", "args", "kwargs"} a line     stdout: {"ready"} or {"failed"}, then {"ok",
"args"} or {"raised"}

Nothing that would help a cheat is in this process: no test, no expected value, no marker. What it can forge are its
own return values.
`args` come back because a function may change a list that it was given. A value that is not plain stays here; the
tester gets a number.
"""

from __future__ import annotations

import json
import os
import sys
import types
from typing import Any

from mezzotint.eval.inside.common import begin, decode, encode, say


def main(arguments: list[str]) -> None:
    job = begin()
    asked, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    kept: list[Any] = []

    def keep(value: Any) -> int:
        kept.append(value)
        return len(kept) - 1

    module = types.ModuleType(job["module"])
    sys.modules[job["module"]] = module
    try:
        exec(compile(job["code"], "answer", "exec"), module.__dict__)
    except BaseException as error:
        say(answers, {"failed": f"{type(error).__name__}: {error}"[:200]})
        return
    say(answers, {"ready": [name for name in module.__dict__ if not name.startswith("_")]})
    for line in asked:
        call = json.loads(line)
        try:
            owner, dot, name = call["call"].rpartition("().")
            function = getattr(module.__dict__[owner](), name) if dot else module.__dict__[name]
            args = decode(call["args"], lambda n, *_: kept[n])
            kwargs = decode(call["kwargs"], lambda n, *_: kept[n])
            result = function(*args, **kwargs)
            reply = {"ok": encode(result, keep), "args": encode(args, keep)}
        except BaseException as error:
            reply = {"raised": type(error).__name__, "why": str(error)[:200]}
        say(answers, reply)
