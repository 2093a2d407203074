"""A program run once for every input, as a process with a real standard input. What it should print is not in this sandbox.

job: {"code", "inputs", "seconds"} -> {"outputs": [text or null for one that failed]}, up to the first that failed.
"""

from __future__ import annotations

import subprocess
import sys

from mezzotint.eval.inside.common import begin, say

MOST = 8 << 20  # characters of an output that are kept


def main(arguments: list[str]) -> None:
    job, outputs = begin(), list[str | None]()
    with open("/tmp/answer.py", "w", encoding="utf-8") as file:
        file.write(job["code"])
    for text in job["inputs"]:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-B", "/tmp/answer.py"], input=text.encode(), stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, timeout=job["seconds"],
            )  # fmt: skip
            failed = done.returncode != 0
        except subprocess.TimeoutExpired:
            failed = True
        outputs.append(None if failed else done.stdout.decode(errors="replace")[:MOST])
        if failed:
            break
    say(int(arguments[0]), {"outputs": outputs})
