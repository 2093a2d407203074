"""One program, answer and tests together, as the authors' harnesses run it: no exception means that it passes.

job: {"program", "marker"}. The marker is needed for a verdict, so ending early is no pass; a program that searches
its own process for it finds it. That is what `strict` is for.
"""

from __future__ import annotations

import sys
import types

from mezzotint.eval.inside.common import begin, say


def main(arguments: list[str]) -> None:
    job, fd = begin(), int(arguments[0])
    module = types.ModuleType("answer")
    sys.modules["answer"] = module
    try:
        exec(compile(job["program"], "answer", "exec"), module.__dict__)
        why = ""
    except BaseException as error:
        why = f"{type(error).__name__}: {error}"[:200]
    say(fd, {"marker": job["marker"], "ok": not why, "why": why})
