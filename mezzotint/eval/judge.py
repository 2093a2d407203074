"""Verdicts on code: what the sandbox's drivers are given, and what their word is worth.

official   answer and tests in one process, so that figures match published ones
strict     the tests in one sandbox, the answer in another; only plain values pass between them

A verdict comes over a descriptor of the harness's own, with a random marker; exit status and output decide nothing.
BigCodeBench's tests look into the answer's module, so `strict` keeps them in one process there, counts the tests that
ran, and refuses an answer that reaches for the interpreter's insides (`screen`): it may then also refuse an honest one, and the
verdict's note says so.
"""

from __future__ import annotations

import ast
import json
import os
import secrets
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mezzotint.eval.browser import Browser, NoBrowser
from mezzotint.eval.inside.common import same_output
from mezzotint.eval.sandbox import CLOCK, STARTING, Limits, NoIsolation, Sandbox, collect, end
from mezzotint.eval.task import Task, Verdict

GRADING = ("official", "strict")
FORBIDDEN_MODULES = {
    "unittest", "inspect", "gc", "ctypes", "_ctypes", "builtins", "importlib", "atexit", "code", "runpy",
}  # fmt: skip
FORBIDDEN_NAMES = {
    "_getframe", "_exit", "f_back", "f_globals", "f_locals", "gi_frame", "tb_frame", "settrace", "setprofile", "__subclasses__",
    "__globals__", "__code__", "__closure__", "__builtins__", "__import__", "__eq__", "__ne__", "__instancecheck__",
    "__getattribute__", "modules", "__dict__",
    "vars", "globals", "addaudithook", "_getAssertEqualityFunc", "exec", "eval", "compile", "breakpoint",
}  # fmt: skip


@dataclass(frozen=True)
class Judge:
    """sandbox: None judges values alone; code then raises NoIsolation. browser: None; web pages then raise NoBrowser.

    patience: what time limits are multiplied by.
    """

    sandbox: Sandbox | None = None
    grading: str = "strict"
    patience: float = 1.0
    browser: Browser | None = None

    def __post_init__(self) -> None:
        if self.grading not in GRADING:
            raise ValueError(f"grading is {self.grading!r}; allowed: {', '.join(GRADING)}")

    def isolation(self, task: Task) -> str:
        """What stood between this machine and the answers to a benchmark."""
        if task.page and self.browser is not None:
            return self.browser.level
        return self.sandbox.level if task.code and self.sandbox is not None else "none needed"

    @property
    def _box(self) -> Sandbox:
        if self.sandbox is None:
            raise NoIsolation("this verdict needs the sandbox, and it was not started")
        return self.sandbox

    def tests(
        self, answer: str, tests: str, seconds: float, *, entry: str = "", setup: str = "", module: str = "answer"
    ) -> Verdict:
        """Does a program pass `tests`? entry: its function they call, also as `candidate`; setup: what they need themselves."""
        if self.grading == "strict":
            return self._apart(answer, tests, seconds, entry, setup, module)
        alias = f"\ncandidate = {entry}" if entry.isidentifier() else ""
        return self._told("official", {"program": f"{answer}\n{alias}\n{tests}\n"}, seconds)

    def unit(self, answer: str, test: str, seconds: float, allowed: Collection[str] = ()) -> Verdict:
        """Does a program pass the unittest class TestCases? allowed: modules that the task itself imports."""
        names = test_names(test)
        if not names:
            raise ValueError("a row's test has no test method in TestCases")
        if self.grading == "strict" and (why := screen(answer, allowed)):
            return Verdict.of(False, f"screened: {why}")
        return self._told("unit", {"code": answer, "test": test, "tests": names}, seconds, memory=30 << 30)

    def stdin_tests(
        self, code: str, cases: Sequence[tuple[str, str]], seconds: float, prelude: str
    ) -> Verdict:  # fmt: skip
        """Does a program print what it should for every input? seconds: for one input."""
        inputs, outputs = [text for text, _ in cases], [want for _, want in cases]
        allowed = (seconds + 1) * len(cases) + 5
        if self.grading == "official":
            job: dict[str, Any] = {
                "code": code,
                "inputs": inputs,
                "outputs": outputs,
                "seconds": seconds * self.patience,
            }
            return self._told("livecode", {**job, "prelude": prelude}, allowed)
        job = {"code": prelude + code, "inputs": inputs, "seconds": seconds * self.patience}
        told, how = self._run("program", job, allowed)
        printed = told.get("outputs", []) if isinstance(told, dict) else []
        for number, want in enumerate(outputs):
            got = printed[number] if number < len(printed) else None
            if not isinstance(got, str):
                return Verdict.of(False, f"test {number}: {how if how != 'ended' else 'failed or too slow'}")
            if not same_output(got, want):
                return Verdict.of(False, f"test {number}: other output")
        return Verdict.of(True)

    def page(self, page: str, checks: Sequence[Mapping[str, Any]]) -> Verdict:
        """Does an HTML page pass its checks in a browser?"""
        if self.browser is None:
            raise NoBrowser("this verdict needs the browser, and it was not started")
        return self.browser.grade(page, checks)

    def patch(
        self, files: dict[str, str], patch: str, test_patch: str, tests: Sequence[str]
    ) -> tuple[str | None, list[str]]:
        """-> how a patch was applied (None: not), and which tests then pass."""
        marker = secrets.token_hex(16)
        job = {"files": files, "patch": patch, "test_patch": test_patch, "tests": list(tests), "marker": marker}
        told, _ = self._run("patch", job, 60)
        if not isinstance(told, dict) or told.get("marker") != marker:
            return None, []
        return told["applied"], told["passed"]

    # -- asking drivers ---------------------------------------------------------------------------------------------

    def _run(self, driver: str, job: dict[str, Any], seconds: float, memory: int = 4 << 30) -> tuple[Any, str]:
        """-> the first JSON value a driver said, and how it ended."""
        limits = Limits(seconds=seconds * self.patience, memory=memory)
        outcome = self._box.run(driver, {"job.json": json.dumps(job).encode()}, limits)
        return _first(outcome.verdict), outcome.how

    def _told(self, driver: str, job: dict[str, Any], seconds: float, memory: int = 4 << 30) -> Verdict:
        marker = secrets.token_hex(16)
        return _verdict(*self._run(driver, {**job, "marker": marker}, seconds, memory), marker)

    def _apart(self, answer: str, tests: str, seconds: float, entry: str, setup: str, module: str) -> Verdict:
        """Two sandboxes, joined by two pipes."""
        marker, box = secrets.token_hex(16), self._box
        limits = Limits(seconds=seconds * self.patience)
        loaded = json.dumps({"code": answer, "module": module}).encode()
        job = {"setup": setup, "tests": tests, "entry": entry, "module": module, "marker": marker}
        asked_out, asked_in = os.pipe()
        said_out, said_in = os.pipe()
        verdict_out, verdict_in = os.pipe()
        started: list[subprocess.Popen[bytes]] = []
        try:
            started.append(box.start("answer", {"job.json": loaded}, limits, asked_out, said_in))
            theirs = [verdict_in, asked_in, said_out]
            files, null = {"job.json": json.dumps(job).encode()}, subprocess.DEVNULL
            started.append(box.start("tester", files, limits, null, null, theirs, list(map(str, theirs))))
            for fd in (asked_out, asked_in, said_out, said_in, verdict_in):
                os.close(fd)
            streams = {verdict_out: "verdict"}
            for number, process in enumerate(started):
                assert process.stderr is not None
                streams[process.stderr.fileno()] = f"errors {number}"
            read, how = collect(
                streams, time.monotonic() + CLOCK * limits.seconds + STARTING, limits.output, last="verdict"
            )
        finally:
            killed = [end(process, 1.0 * (process is started[-1])) for process in started]
            os.close(verdict_out)
        told = _first(read["verdict"])
        passed = isinstance(told, dict) and told.get("ok") is True
        silent = (killed[-1] or any(v.startswith(b"bwrap:") for v in read.values())) and not read["verdict"]
        # the tester may live to say that the answer is gone; an answer cannot kill its own sandbox from inside
        if how == "ended" and (silent or (killed[0] and not passed)):
            how = "killed"
        return _verdict(told, how, marker)


def _first(data: bytes) -> Any:
    try:
        return json.loads(data.split(b"\n", 1)[0])
    except ValueError:
        return None


def _verdict(told: Any, how: str, marker: str) -> Verdict:
    if how == "killed":
        return Verdict("infra_error", 0.0, "the sandbox was killed")
    if how != "ended":
        return Verdict.of(False, how)
    if not isinstance(told, dict) or not secrets.compare_digest(str(told.get("marker")), marker):
        return Verdict.of(False, "out of time, or ended before the tests did")
    return Verdict.of(told.get("ok") is True, str(told.get("why", ""))[:200])


def test_names(test: str) -> list[str]:
    """The test methods of class TestCases."""
    found: list[str] = []
    for node in ast.parse(test).body:
        if isinstance(node, ast.ClassDef) and node.name == "TestCases":
            found += [f.name for f in node.body if isinstance(f, ast.FunctionDef) and f.name.startswith("test")]
    return sorted(set(found))


def screen(code: str, allowed: Collection[str] = ()) -> str:
    """What in a program reaches for the interpreter's insides; nothing where nothing does, or where it is not Python."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return ""
    for node in ast.walk(tree):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or "", *(alias.name for alias in node.names)]
        for module in modules:
            if module.split(".")[0] in FORBIDDEN_MODULES - set(allowed):
                return f"imports {module}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called, given = node.func.id, node.args
            computed = len(given) > 1 and not isinstance(given[1], ast.Constant)
            if (called in ("getattr", "setattr", "delattr") and computed) or (called == "type" and len(given) == 3):
                return f"calls {called} with computed names"
        name = ""
        if isinstance(node, ast.Attribute):
            name = node.attr
        elif isinstance(node, ast.Name):
            name = node.id
        elif isinstance(node, ast.FunctionDef):
            name = node.name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value
        if name in FORBIDDEN_NAMES and not (isinstance(node, ast.Attribute) and name in ("compile", "eval", "exec")):
            return f"uses {name}"
    return ""
