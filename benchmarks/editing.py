"""Ways of editing on planted errors: 50 sentences with one error each, and the same 50 without, each way as a user runs it.

The sentences are in planted.txt; nothing was tuned on them. `python benchmarks/editing.py verified` measures one way alone.
"""

from __future__ import annotations

import sys
import time

import report
from rescoring import INSTRUCTION, planted

import mezzotint as mz


def main() -> None:
    engine = mz.Engine(mz.load("default"))
    rows = []
    for way in sys.argv[1:] or ["rescore", "verified"]:
        exact = untouched = calls = 0
        took = []
        for sentence in planted():
            began = time.perf_counter()
            edit = mz.revise(engine, sentence.wrong, INSTRUCTION, way=way)
            took.append(time.perf_counter() - began)
            exact += edit.after == sentence.clean
            calls += edit.num_calls
            untouched += mz.revise(engine, sentence.clean, INSTRUCTION, way=way).after == sentence.clean
            print(f"{way} {len(took)}: {exact} exact, {untouched} untouched, {sum(took):.0f} s", file=sys.stderr)
        count = len(took)
        rows.append((way, f"{exact} of {count}", f"{count - untouched} of {count}", calls / count, sum(took) / count))
    report.write("editing", "Planted errors, by way of editing", [
        f"`mz.revise(engine, text, {INSTRUCTION!r}, way=...)` on the default base, one sentence a call.",
        "",
        *report.table(["way", "repaired exactly", "clean sentences changed", "calls", "seconds"], rows),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
