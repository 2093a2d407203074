"""LiveCodeBench, as its authors run it: programs for standard input become one function, called with a stand-in for stdin.

job: {"code", "inputs", "outputs", "seconds", "marker"}. An `if __name__ == "__main__"` block is unwrapped, all that
is no import becomes the function's body. The first output that differs ends it; each test has an alarm.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import signal
import sys
import types
from typing import Any

from mezzotint.eval.inside.common import begin, same_output, say


def wrapped(code: str) -> str:
    """The program as `def wrapped_function()` behind its imports; as it is when it cannot be parsed."""
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return code
    body = list(tree.body)
    last = body[-1] if body else None
    if isinstance(last, ast.If) and ast.unparse(last.test) in ("__name__ == '__main__'", "'__main__' == __name__"):
        body[-1:] = last.body
    imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    rest: list[ast.stmt] = [node for node in body if node not in imports] or [ast.Pass()]
    function = ast.FunctionDef(
        "wrapped_function", ast.arguments([], [], None, [], [], None, []), rest, [], None, None
    )  # fmt: skip
    function.type_params = []  # type: ignore[attr-defined]  # Python 3.12 wants it
    return ast.unparse(ast.fix_missing_locations(ast.Module([*imports, function], [])))


class Bytes:
    """The stand-in's `buffer`: reads all, and the first line again and again."""

    def __init__(self, text: str) -> None:
        self.data = text.encode()

    def read(self, *_: Any) -> bytes:
        return self.data

    def readline(self, *_: Any) -> bytes:
        return self.data.split(b"\n")[0] + b"\n"


class StandIn:
    """Standard input as the authors' harness has it: lines without their ends, no iteration."""

    def __init__(self, text: str) -> None:
        self.text, self.lines, self.buffer, self.file = text, iter(text.split("\n")), Bytes(text), io.StringIO(text)

    def read(self, *_: Any) -> str:
        return self.text

    def readline(self, *_: Any) -> str:
        return next(self.lines)

    def readlines(self, *_: Any) -> list[str]:
        return self.text.split("\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


class Late(BaseException):
    pass


def _alarm(*_: Any) -> None:
    raise Late("a test took too long")


def main(arguments: list[str]) -> None:
    job, fd = begin(), int(arguments[0])
    signal.signal(signal.SIGALRM, _alarm)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    module = types.ModuleType("answer")
    why = ""
    try:
        exec(compile(job["prelude"] + wrapped(job["code"]), "answer", "exec"), module.__dict__)
        for number, (text, want) in enumerate(zip(job["inputs"], job["outputs"], strict=True)):
            printed = io.StringIO()
            signal.setitimer(signal.ITIMER_REAL, job["seconds"])
            sys.stdin, before = StandIn(text), sys.stdin
            with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
                module.__dict__["wrapped_function"]()
            signal.setitimer(signal.ITIMER_REAL, 0)
            sys.stdin = before
            if not same_output(printed.getvalue(), want):
                why = f"test {number}: other output"
                break
    except BaseException as error:
        why = f"{type(error).__name__}: {error}"[:200]
    say(fd, {"marker": job["marker"], "ok": not why, "why": why})
