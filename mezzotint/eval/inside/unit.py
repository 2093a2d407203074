"""BigCodeBench: answer and unittest class TestCases in one module, as its authors run it; every test must run and none may fail.

job: {"code", "test", "tests", "marker"}, `tests` being the names of the tests that must run: an answer that patches
the loader runs fewer.
What unittest consists of is noted before the answer is loaded; when it is no longer the same, the answer has patched it.
"""

from __future__ import annotations

import os
import sys
import types
import unittest
import unittest.mock
from typing import Any

from mezzotint.eval.inside.common import begin, say

CLASSES = (
    unittest.TestCase, unittest.TestLoader, unittest.TestResult, unittest.TestSuite, unittest.BaseTestSuite,
)  # fmt: skip


def _parts() -> dict[tuple[str, str], Any]:
    return {(c.__name__, name): value for c in CLASSES for name, value in vars(c).items()}


def main(arguments: list[str]) -> None:
    job, fd = begin(), int(arguments[0])
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    noted, exact = _parts(), (_parts, say, unittest.TestResult, unittest.defaultTestLoader)

    def whole(now: dict[tuple[str, str], Any]) -> None:
        changed = [".".join(key) for key, value in now.items() if noted.get(key) is not value]
        if changed:
            raise PermissionError(f"the answer has patched {changed[0]}")

    module = types.ModuleType("__test__")
    sys.modules["__test__"] = module
    try:
        exec(compile(job["code"], "answer", "exec"), module.__dict__)
        parts, tell, result_class, loader = exact
        whole(parts())
        exec(compile(job["test"], "tests", "exec"), module.__dict__)
        result = result_class()
        loader.loadTestsFromTestCase(module.__dict__["TestCases"]).run(result)
        whole(parts())
        bad = [*result.errors, *result.failures]
        why = bad[0][1].strip().splitlines()[-1] if bad else ""
        if not bad and (result.testsRun != len(job["tests"]) or result.skipped or result.unexpectedSuccesses):
            why = f"{result.testsRun} of {len(job['tests'])} tests ran, {len(result.skipped)} of them skipped"
    except BaseException as error:
        tell, why = exact[1], f"{type(error).__name__}: {error}"
    tell(fd, {"marker": job["marker"], "ok": not why, "why": why[:200]})
