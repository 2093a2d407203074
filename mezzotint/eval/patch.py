"""SWE-bench Verified, single turn: an issue and the files that the true patch edits; the answer is a patch.

swebench          the tests decide. Rows that carry their repository's files are judged here; for the others predictions are
                  written for the swebench package, whose containers hold what their tests need.
swebench-format   does the patch apply? A figure about form, never to be called a SWE-bench score.

Where the files come from: the row (`files_at_base`) or the `text` of SWE-bench_oracle; else windows of the true patch's own
context, which give the place away.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from mezzotint.eval.data import listed, required
from mezzotint.eval.extract import fences
from mezzotint.eval.judge import Judge
from mezzotint.eval.task import NO_ANSWER, Item, Rows, Task, Verdict, user

SECONDS = 60.0
ASK = """You will be provided with a partial code base and an issue statement explaining a problem to resolve.

<issue>
{issue}
</issue>

<code>
{code}
</code>

Write one patch in unified diff format that resolves the issue, for `git apply`, in a ```diff block. Give paths relative to the \
repository, as in `--- a/path` and `+++ b/path`, and at least three lines of context."""
HUNK = re.compile(r"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@(.*)$")


def windows(patch: str) -> dict[str, list[tuple[int, list[str]]]]:
    """Path -> (first line's number, lines) of every hunk, as the files were before the patch."""
    found: dict[str, list[tuple[int, list[str]]]] = {}
    name, lines = "", list[str]()
    for line in patch.split("\n"):
        if line.startswith("--- "):
            name, lines = re.sub(r"^a/", "", line[4:].split("\t")[0].strip()), []
        elif match := HUNK.match(line):
            lines = []
            found.setdefault(name, []).append((int(match[1]), lines))
        elif line[:1] in (" ", "-") and name in found:
            lines.append(line[1:])
    return {name: hunks for name, hunks in found.items() if name != "/dev/null"}


def _sparse(hunks: list[tuple[int, list[str]]]) -> str:
    """A file whose lines are known in some windows only; the others are empty."""
    lines: list[str] = []
    for first, some in hunks:
        lines += [""] * (first - 1 - len(lines)) + some
    return "\n".join(lines) + "\n"


def items(rows: Rows, sample: int) -> list[Item]:
    made = []
    for row in rows:
        required(row, "instance_id", "problem_statement", "patch", "test_patch", "FAIL_TO_PASS", "PASS_TO_PASS")
        shown = windows(row["patch"])
        files: Mapping[str, str] = row.get("files_at_base") or {}
        if files:
            code = "\n\n".join(f"[start of {n}]\n{files[n]}[end of {n}]" for n in shown if n in files)
        else:
            code = "\n\n".join(
                f"[{name}, lines {first} to {first + len(lines) - 1}]\n" + "\n".join(lines)
                for name, hunks in shown.items() for first, lines in hunks
            )  # fmt: skip
        text = str(row.get("text") or ASK.format(issue=row["problem_statement"].strip(), code=code))
        gold: dict[str, Any] = {
            "files": dict(files) or {name: _sparse(hunks) for name, hunks in shown.items()}, "whole": bool(files),
            "patch": row["patch"], "test_patch": row["test_patch"],
            "tests": [*listed(row["FAIL_TO_PASS"]), *listed(row["PASS_TO_PASS"])],
        }  # fmt: skip
        made.append(Item(row["instance_id"], user(text), f"{text}\n\n```diff\n", gold, str(row.get("difficulty", ""))))
    return made


def patch_of(text: str, plain: bool = False) -> str | None:
    """The first patch in a tag or fence for one, else in any fence, else a text that is a patch itself; line counts repaired."""
    if plain:
        text = "```diff\n" + text
    tagged = re.search(r"<(diff|patch)>\n?(.*?)</\1>", text, re.S)
    blocks = fences(text)
    named = [code for language, code in blocks if language in ("diff", "patch")]
    chosen = tagged[2] if tagged else (named or [code for _, code in blocks] or [text])[0]
    return repaired(chosen) if re.search(r"^@@ ", chosen, re.M) and "+++ " in chosen else None


def repaired(patch: str) -> str:
    """A patch whose hunks say how many lines they have."""
    out: list[str] = []
    lines = patch.strip("\n").split("\n")
    for number, line in enumerate(lines):
        match = HUNK.match(line) or re.match(r"^@@ -(\d+)()[^@]*\+(\d+)()[^@]*@@(.*)$", line)
        if not match:
            out.append(line)
            continue
        body = []
        for after in lines[number + 1 :]:
            if after.startswith(("@@ ", "diff ", "--- ")):
                break
            body.append(after[:1] or " ")
        old, new = sum(m in " -" for m in body), sum(m in " +" for m in body)
        out.append(f"@@ -{match[1]},{old} +{match[3]},{new} @@{match[5]}")
    return "\n".join(line if line else " " for line in out) + "\n"


def judge_tests(item: Item, text: str, plain: bool, judge: Judge) -> Verdict:
    patch = patch_of(text, plain)
    if patch is None:
        return NO_ANSWER
    gold = item.gold
    if not gold["whole"]:
        return Verdict("infra_error", 0.0, "judged by the swebench package: see swebench.predictions.jsonl")
    applied, passed = judge.patch(gold["files"], patch, gold["test_patch"], gold["tests"])
    return Verdict.of(applied is not None and set(gold["tests"]) <= set(passed), applied or "does not apply")


def judge_format(item: Item, text: str, plain: bool, judge: Judge) -> Verdict:
    patch = patch_of(text, plain)
    if patch is None:
        return NO_ANSWER
    applied, _ = judge.patch(item.gold["files"], patch, "", [])
    return Verdict.of(applied is not None, applied or "does not apply")


def prediction(item_id: str, text: str, plain: bool, model: str) -> str:
    """A line of the file that the swebench package judges."""
    row = {"instance_id": item_id, "model_name_or_path": model, "model_patch": patch_of(text, plain) or ""}
    return json.dumps(row, ensure_ascii=False)


def _reference(item: Item) -> str:
    return f"```diff\n{item.gold['patch'].rstrip()}\n```"


WHERE = "hub data set SWE-bench/SWE-bench_Verified as swebench_verified.jsonl or .parquet"

TASKS = (
    Task(
        "swebench", "SWE-bench Verified, single turn", (("swebench_verified",),), items, judge_tests, _reference, 500,
        WHERE, 2048, "swebench_oracle_schema", code=True, founding=True, published=(22.9, 28.5),
        note="needs the swebench package's containers",
    ),
    Task(
        "swebench-format", "SWE-bench Verified: patches that apply", (("swebench_verified",), ("swebench_verified_partial",)),
        items, judge_format, _reference, 500, WHERE, 2048, code=True, note="not a SWE-bench score; places are given away",
    ),
)  # fmt: skip
