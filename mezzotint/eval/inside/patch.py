"""SWE-bench: apply a patch to files, the way its harness does, and run the tests of a small repository.

job: {"files": {path: text}, "patch", "test_patch", "tests": [path::function], "marker"}

git apply, then with whitespace fixes, then patch with fuzz 5. -> applied: which of them did it, or null; passed: tests that did.
"""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
import traceback
from pathlib import Path

from mezzotint.eval.inside.common import begin, say

WAYS = (
    ("git apply", ["git", "apply", "--verbose", "-"]),
    ("git apply, whitespace fixed", ["git", "apply", "--verbose", "--recount", "--ignore-whitespace", "--whitespace=fix", "-"]),
    ("patch", ["patch", "--batch", "--fuzz=5", "-p1", "-N", "-i", "-"]),
)  # fmt: skip


def _apply(patch: str, root: Path) -> str | None:
    for way, command in WAYS:
        if subprocess.run(command, input=patch.encode(), cwd=root, capture_output=True).returncode == 0:
            return way
    return None


def _passes(test: str) -> bool:
    path, _, name = test.partition("::")
    try:
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        function = getattr(module, name)
        return not inspect.signature(function).parameters and function() is None
    except BaseException:
        traceback.print_exc()
        return False


def main(arguments: list[str]) -> None:
    job, root = begin(), Path("/tmp/repository")
    for name, text in job["files"].items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    os.environ["GIT_CEILING_DIRECTORIES"] = "/tmp"
    os.chdir(root)
    applied = _apply(job["patch"], root)
    passed: list[str] = []
    if applied and job["tests"] and _apply(job["test_patch"], root):
        sys.path.insert(0, str(root))
        passed = [test for test in job["tests"] if _passes(test)]
    say(int(arguments[0]), {"marker": job["marker"], "applied": applied, "passed": passed})
