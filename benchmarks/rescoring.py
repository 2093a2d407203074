"""What editing by rescoring gets right: 50 sentences with one planted error each, and the same 50 without.

The sentences are in planted.txt. `mz.revise` runs as a user would run it, with its defaults; nothing was tuned on them.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from typing import NamedTuple

import report

import mezzotint as mz

INSTRUCTION = "fix the grammar"
OUTCOMES = ("repaired exactly", "changed, not repaired", "untouched")


class Planted(NamedTuple):
    kind: str
    clean: str
    wrong: str


def planted() -> list[Planted]:
    kind, out = "", []
    for line in (report.ROOT / "benchmarks" / "planted.txt").read_text(encoding="utf-8").splitlines()[1:]:
        if line.startswith("# "):
            kind = line[2:]
        else:
            out.append(Planted(kind, re.sub(r"\[(.*)\|.*]", r"\1", line), re.sub(r"\[.*\|(.*)]", r"\1", line)))
    return out


def main() -> None:
    engine = mz.Engine(mz.load("default"))
    outcomes: dict[str, Counter[str]] = {}
    failures, over_edited = [], []
    sentences = planted()
    took = []
    for sentence in sentences:
        began = time.perf_counter()
        after = mz.revise(engine, sentence.wrong, INSTRUCTION).after
        took.append(time.perf_counter() - began)
        outcome = OUTCOMES[0 if after == sentence.clean else 2 if after == sentence.wrong else 1]
        outcomes.setdefault(sentence.kind, Counter())[outcome] += 1
        if outcome != OUTCOMES[0]:
            failures.append((sentence.kind, sentence.wrong, after if after != sentence.wrong else "(untouched)"))
        untouched = mz.revise(engine, sentence.clean, INSTRUCTION).after
        if untouched != sentence.clean:
            over_edited.append((sentence.clean, untouched))
    rows = [
        (kind, sum(counts.values()), *(counts[outcome] for outcome in OUTCOMES)) for kind, counts in outcomes.items()
    ]
    rows.append(("both", *(sum(row[i] for row in rows) for i in range(1, 5))))
    report.write("rescoring", "Planted errors edited by rescoring", [
        f"`mz.revise(engine, text, {INSTRUCTION!r})` with its defaults on the default base, one sentence a call.",
        "",
        *report.table(["planted error", "sentences", *OUTCOMES], rows),
        "",
        f"Clean sentences changed (over-editing): {len(over_edited)} of {len(sentences)}. "
        f"Seconds a sentence with an error: {sum(took) / len(took):.2f} on average, {max(took):.2f} at most.",
        "",
        "## Not repaired",
        "",
        *report.table(["kind", "given", "became"], failures),
        "",
        "## Clean sentences that were changed",
        "",
        *report.table(["given", "became"], over_edited),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
