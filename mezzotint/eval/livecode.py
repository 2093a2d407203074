"""LiveCodeBench: contest problems; programs for standard input, or methods that are called. All tests must pass.

Two windows: the 175 rows that version 6 added (`test6.jsonl`), and all 1,055 of release 6 (`test.jsonl`,
`test2.jsonl` ... `test6.jsonl`).
"""

from __future__ import annotations

import json
from typing import Any

from mezzotint.eval.data import encoded_text, required
from mezzotint.eval.extract import last_two_fences
from mezzotint.eval.judge import Judge
from mezzotint.eval.task import NO_ANSWER, Item, Rows, Task, Verdict, user

SECONDS = 6.0  # for one test
SYSTEM = (
    "You are an expert Python programmer. You will be given a question (problem specification) and will generate a "
    "correct Python program that matches the specification and passes all tests."
)
WITH_STARTER = (
    "You will use the following starter code to write the solution to the problem and enclose your code within "
    "delimiters."
)
WITHOUT = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on the sample "
    "inputs). Enclose your code within delimiters as follows. Ensure that when the python program runs, it reads the "
    "inputs, runs the algorithm and writes output to STDOUT."
)
PRELUDE = """\
from string import *
from re import *
from datetime import *
from collections import *
from heapq import *
from bisect import *
from copy import *
from math import *
from random import *
from statistics import *
from itertools import *
from functools import *
from operator import *
from io import *
from sys import *
from json import *
from builtins import *
from typing import *
import string, re, datetime, collections, heapq, bisect, copy, math, random, statistics
import itertools, functools, operator, io, sys, json
sys.setrecursionlimit(50000)
"""
CALLS = """\
import json as _json, signal as _signal
def _late(*_):
    raise TimeoutError("a test took too long")
_signal.signal(_signal.SIGALRM, _late)
for _number, (_args, _want) in enumerate(_json.loads({cases!r})):
    _signal.setitimer(_signal.ITIMER_REAL, {seconds})
    _got = candidate(*_args)
    _signal.setitimer(_signal.ITIMER_REAL, 0)
    _got = list(_got) if type(_got) is tuple else _got
    assert _got == _want, f"test {{_number}}"
"""


def items(rows: Rows, sample: int) -> list[Item]:
    made = []
    for row in rows:
        required(row, "question_id", "question_content", "public_test_cases", "private_test_cases")
        cases = [*json.loads(row["public_test_cases"]), *json.loads(encoded_text(row["private_test_cases"]))]
        if not cases:
            raise ValueError(f"question {row['question_id']} has no tests")
        metadata = json.loads(row.get("metadata") or "{}")
        starter = row.get("starter_code") or ""
        ask = f"### Question:\n{row['question_content']}\n\n### Format: {WITH_STARTER if starter else WITHOUT}\n"
        ask += f"```python\n{starter or '# YOUR CODE HERE'}\n```\n\n### Answer: (use the provided format with backticks)\n\n"
        gold: dict[str, Any] = {
            "cases": [(c["input"], c["output"]) for c in cases],
            "function": metadata.get("func_name"),
        }
        if cases[0].get("testtype") != "functional":
            gold["function"] = None
        made.append(
            Item(str(row["question_id"]), user(ask, SYSTEM), ask + "```python\n", gold, row.get("difficulty", ""))
        )
    return made


def judge(item: Item, text: str, plain: bool, judge: Judge) -> Verdict:
    code = text.split("\n```")[0] if plain else last_two_fences(text)
    if not code or not code.strip():
        return NO_ANSWER
    cases, function = item.gold["cases"], item.gold["function"]
    if function is None:
        return judge.stdin_tests(code, cases, SECONDS, PRELUDE)
    parsed = [
        ([json.loads(line) for line in given.split("\n") if line.strip()], json.loads(want)) for given, want in cases
    ]
    tests = CALLS.format(cases=json.dumps(parsed), seconds=SECONDS * judge.patience)
    entry = f"Solution().{function}" if "class Solution" in code else str(function)
    limit = (SECONDS + 1) * len(cases) + 5
    if judge.grading == "strict":
        return judge.tests(PRELUDE + code, tests, limit, entry=entry)
    return judge.tests(f"{PRELUDE}{code}\n\ndef candidate(*args):\n    return {entry}(*args)\n", tests, limit)


ALL = ("test", "test2", "test3", "test4", "test5", "test6")
WHERE = "hub data set livecodebench/code_generation_lite, files test.jsonl to test6.jsonl"


def _task(name: str, title: str, files: tuple[str, ...], rows: int, founding: bool) -> Task:
    return Task(
        name, title, (files, tuple(f"livecodebench/{f}" for f in files)), items, judge, None, rows, WHERE, 2000,
        "livecodebench_schema", code=True, founding=founding, published=(30.9, 28.5) if founding else None,
        note="the published figure does not say which window",
    )  # fmt: skip


TASKS = (
    _task("livecodebench", "LiveCodeBench v6 (175 rows)", ("test6",), 175, True),
    _task("livecodebench-all", "LiveCodeBench v6 (1,055 rows)", ALL, 1055, False),
)
