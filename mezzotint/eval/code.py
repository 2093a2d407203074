"""Benchmarks whose answer is Python: HumanEval, its infilling and its fixing, MBPP in three forms, LBPP, BigCodeBench.

answer -> the code in it -> a program that defines what the tests call -> Judge.tests or Judge.unit
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from mezzotint.eval.data import encoded, listed, required
from mezzotint.eval.extract import continuation, defines, longest_code, needed, parses, python_block
from mezzotint.eval.judge import Judge
from mezzotint.eval.task import NO_ANSWER, Item, Rows, Task, Verdict, user

SECONDS = 10.0  # for the tests of one answer; the papers have 3 s, which a slow machine does not keep


def _fenced(code: str) -> str:
    return f"```python\n{code.rstrip()}\n```"


# -- HumanEval ------------------------------------------------------------------------------------------------------

HUMANEVAL = (
    "Read the following function signature and docstring, and fully implement the function described. Your response should "
    "only contain the code for this function, in a ```python block.\n\n"
)


def humaneval_items(rows: Rows, sample: int) -> list[Item]:
    items = []
    for row in rows:
        required(row, "task_id", "prompt", "entry_point", "canonical_solution", "test")
        gold = {key: row[key] for key in ("prompt", "entry_point", "canonical_solution", "test")}
        items.append(Item(row["task_id"], user(HUMANEVAL + _fenced(row["prompt"])), row["prompt"], gold))
    return items


def _function_tests(item: Item, program: str, setup: str, judge: Judge) -> Verdict:
    entry = item.gold["entry_point"]
    tests = item.gold["test"]
    if not re.search(rf"^check\({re.escape(entry)}\)", tests, re.M):
        tests += f"\ncheck({entry})"
    return judge.tests(program, tests, SECONDS, entry=entry, setup=f"{setup.rstrip()}\n    pass\n")


def humaneval_program(item: Item, text: str, plain: bool) -> str | None:
    """A block that defines the function stands behind the prompt, which has its imports and helpers; any other continues it.

    None for an answer without code.
    """
    prompt, entry = item.gold["prompt"], item.gold["entry_point"]
    block = None if plain else python_block(text)
    if block is None:
        if not plain and not defines(text, entry) and not re.search(r"^[ \t]+\S", text, re.M):
            return None
        block = text if defines(text, entry) and parses(text) else continuation(text)
    return f"{prompt.rstrip()}\n    pass\n\n{block}" if defines(block, entry) else prompt + block


def humaneval_judge(item: Item, text: str, plain: bool, judge: Judge) -> Verdict:
    program = humaneval_program(item, text, plain)
    return NO_ANSWER if program is None else _function_tests(item, program, item.gold["prompt"], judge)


# -- infilling ------------------------------------------------------------------------------------------------------

INFILL = (
    "Write the code that is missing at <FILL>, and nothing else, so that the function is complete. Answer with the missing code "
    "alone in a ```python block, indented as it must be.\n\n"
)


def infilling_items(rows: Rows, sample: int) -> list[Item]:
    items = []
    for row in rows:
        required(row, "task_id", "entry_point", "prompt", "suffix", "canonical_solution", "test")
        gold = {key: row[key] for key in ("prompt", "suffix", "entry_point", "canonical_solution", "test")}
        chat = user(INFILL + _fenced(f"{row['prompt']}<FILL>{row['suffix']}"))
        items.append(Item(row["task_id"], chat, row["prompt"], gold, hole=(row["prompt"], row["suffix"])))
    return items


def infilling_judge(item: Item, text: str, plain: bool, judge: Judge) -> Verdict:
    """The text is what stands in the hole, as it is; out of a chat, what its fence holds. note: an exact match?"""
    if not plain:
        block = python_block(text)
        if block is None:
            return NO_ANSWER
        text = block + "\n"
    before, after = item.gold["prompt"], item.gold["suffix"]
    entry = item.gold["entry_point"]
    head = re.split(rf"^def {re.escape(entry)}\b", before, maxsplit=1, flags=re.M)[0]
    tests = f"{item.gold['test']}\ncheck({entry})"
    verdict = judge.tests(f"{before}{text}{after}", tests, SECONDS, entry=entry, setup=_whole(head))
    exact = text.strip() == item.gold["canonical_solution"].strip()
    return Verdict(verdict.state, verdict.score, "exact" if exact else verdict.note)


def _whole(head: str) -> str:
    """A prompt's imports and helpers; without what is only begun."""
    return head if parses(head) else ""


# -- HumanEvalFix ---------------------------------------------------------------------------------------------------


def fix_items(rows: Rows, sample: int) -> list[Item]:
    items = []
    for row in rows:
        required(row, "task_id", "declaration", "buggy_solution", "canonical_solution", "entry_point", "test")
        shown = f"{row['declaration']}{row['buggy_solution']}\n{row['test'].strip()}"
        asked = f"{shown}\n\nFix bugs in {row['entry_point']}."
        gold = {k: row[k] for k in ("declaration", "buggy_solution", "canonical_solution", "entry_point", "test")}
        chat = user(f"{asked} Answer with the whole function in a ```python block.")
        items.append(Item(row["task_id"], chat, f"{asked}\n\n{row['declaration']}", gold))
    return items


def fix_judge(item: Item, text: str, plain: bool, judge: Judge) -> Verdict:
    """A block without the function's head is its body."""
    declaration, entry = item.gold["declaration"], item.gold["entry_point"]
    block = continuation(text) if plain else python_block(text)
    if block is None:
        if not defines(text, entry):
            return NO_ANSWER
        block = text
    whole = defines(block, entry)
    program = f"{declaration.rstrip()}\n    pass\n\n{block}" if whole else declaration + block
    return _function_tests(item, program, declaration, judge)


# -- MBPP -----------------------------------------------------------------------------------------------------------

MBPP = (
    "You are an expert Python programmer, and here is your task: {text} Your code should pass these tests:\n\n{tests}\n"
)
SHOTS = (2, 3, 4)


def mbpp_items(rows: Rows, sample: int) -> list[Item]:
    """The test split; a plain model is shown ids 2, 3 and 4 solved, where the file has them."""
    asked: dict[int, tuple[str, str, dict[str, Any]]] = {}
    for row in rows:
        required(row, "task_id", "code", "test_list")
        tests = [str(test) for test in listed(row["test_list"])]
        if not tests:
            raise ValueError(f"task {row['task_id']} has no tests")
        imports = row.get("test_imports") or "[]"
        imports = [str(one) for one in listed(imports)]
        gold = {"tests": tests, "setup": row.get("test_setup_code") or "", "imports": imports, "code": row["code"]}
        text = str(row.get("text") or row.get("prompt")).split("\nassert ")[0]
        number = int(str(row["task_id"]).rpartition("/")[2])
        asked[number] = (MBPP.format(text=text, tests="\n".join(tests[:3])), str(row.get("split", "test")), gold)
    shots = "".join(f"{asked[n][0]}[BEGIN]\n{asked[n][2]['code']}\n[DONE]\n\n" for n in SHOTS if n in asked)
    return [
        Item(str(number), user(text + "\nAnswer with a ```python block."), f"{shots}{text}[BEGIN]\n", gold)
        for number, (text, split, gold) in asked.items()
        if split == "test"
    ]


def mbpp_judge(item: Item, text: str, plain: bool, judge: Judge) -> Verdict:
    """Set-up code runs behind the answer: for id 367 it uses a class that the answer defines. Five rows of MBPP+ need math."""
    if plain:
        code: str | None = text.split("[DONE]")[0]
    else:
        code = python_block(text)
        code = text if code is None and parses(text) and "def " in text else code
    if not code or not code.strip():
        return NO_ANSWER
    gold = item.gold
    tests = "\n".join(["import math", "from math import inf", *gold["imports"], gold["setup"], *gold["tests"]])
    called = [name for name in re.findall(r"^def (\w+)", gold["code"], re.M) if re.search(rf"\b{name}\(", tests)]
    return judge.tests(code, tests, max(SECONDS, len(gold["tests"]) / 4), entry=called[-1] if called else "")


# -- LBPP -----------------------------------------------------------------------------------------------------------


def lbpp_items(rows: Rows, sample: int) -> list[Item]:
    items = []
    for row in rows:
        required(row, "task_id", "instruction", "completion", "test_list")
        if str(row.get("language", "python")) != "python":
            continue
        tests = [str(test) for test in listed(encoded(row["test_list"]))]
        if not tests:
            raise ValueError(f"{row['task_id']} has no tests")
        gold = {"tests": tests, "setup": encoded(row.get("test_setup") or ""), "code": encoded(row["completion"])}
        text = f"{row['instruction']}\n\nAnswer with one ```python block."
        items.append(Item(str(row["task_id"]), user(text), f"{row['instruction']}\n\n```python\n", gold))
    return items


def lbpp_judge(item: Item, text: str, plain: bool, judge: Judge) -> Verdict:
    """The tests import from a module called `code`, which the answer is."""
    code = text.split("\n```")[0] if plain else python_block(text)
    code = text if code is None and parses(text) else code
    if not code or not code.strip():
        return NO_ANSWER
    tests = "\n".join([item.gold["setup"], *item.gold["tests"]])
    seconds = SECONDS * max(1, len(item.gold["tests"]) / 4)
    if judge.grading == "strict":
        return judge.tests(code, tests, seconds, module="code")
    become = (
        f"import sys, types\n_m = types.ModuleType('code')\nexec({code!r}, _m.__dict__)\nsys.modules['code'] = _m\n"
    )
    return judge.tests(become, tests, seconds)


# -- BigCodeBench ---------------------------------------------------------------------------------------------------

BCB_COMPLETE = (
    "Please provide a self-contained Python script that solves the following problem in a markdown code block:\n"
)


def bigcodebench_items(kind: str) -> Callable[[Rows, int], list[Item]]:
    """kind: complete_prompt (a docstring to finish) or instruct_prompt (what is wanted, in words)."""

    def items(rows: Rows, sample: int) -> list[Item]:
        made = []
        for row in rows:
            required(row, "task_id", kind, "code_prompt", "canonical_solution", "test", "entry_point")
            text = row[kind].strip()
            text = f"```\n{text}\n```" if kind == "complete_prompt" else text
            gold = {k: row[k] for k in ("code_prompt", "canonical_solution", "test", "entry_point")}
            plain = row["complete_prompt"] if kind == "complete_prompt" else f"{row[kind]}\n\n```python\n"
            made.append(Item(row["task_id"], user(BCB_COMPLETE + text), plain, gold))
        return made

    return items


def bigcodebench_judge(item: Item, text: str, plain: bool, judge: Judge) -> Verdict:
    """Calibrated: the prompt's code with an empty body stands before the answer."""
    prompt, entry = item.gold["code_prompt"], item.gold["entry_point"]
    body = continuation(text)
    if plain and not defines(text, entry):
        code = f"{item.plain}{body}" if "```python" not in item.plain else text.split("\n```")[0]
    else:
        code = longest_code(text)
    if not code.strip():
        return NO_ANSWER
    if not defines(code, entry) and not parses(code):
        code = prompt + code
    program = f"{prompt}\n    pass\n{needed(code, entry)}"
    imported = re.findall(r"^\s*(?:import|from)\s+(\w+)", prompt, re.M)
    return judge.unit(program, item.gold["test"], 240.0, imported)


# -- the table ------------------------------------------------------------------------------------------------------


def _function(item: Item) -> str:
    return "Here it is:\n" + _fenced(item.gold["prompt"] + item.gold["canonical_solution"])


def _bcb(name: str, title: str, kind: str, file: str, rows: int, founding: bool) -> Task:
    return Task(
        name, title, ((file,),), bigcodebench_items(kind), bigcodebench_judge,
        lambda item: _fenced(item.gold["code_prompt"] + item.gold["canonical_solution"]), rows,
        "bigcode-project/bigcodebench, v0.1.4; the Hard rows: hub data set bigcode/bigcodebench-hard", 1280, code=True,
        founding=founding, published=(45.4, 45.8) if founding else None,
        note="the published figure does not say which form; items need their libraries (--python)",
    )  # fmt: skip


def _infill(name: str, rows: int) -> Task:
    return Task(
        f"infilling-{name}", f"HumanEval-Infilling, {name.replace('-', ' ')}",
        ((f"humaneval_infilling_{name.replace('-', '_')}",),),
        infilling_items, infilling_judge, lambda item: item.gold["canonical_solution"], rows, "openai/human-eval-infilling", 256,
        code=True, reference_plain=True,
    )  # fmt: skip


def _mbpp(name: str, title: str, rows: int, founding: bool = False) -> Task:
    return Task(
        name, title, ((name.replace("-", "_"),),) if name != "mbpp" else (("mbpp_full",), ("mbpp",)), mbpp_items, mbpp_judge,
        lambda item: _fenced(item.gold["code"]), rows, "google-research/google-research, mbpp", 512, code=True, founding=founding,
        published=(76.0, 75.8) if founding else None, note="the three tests are shown",
    )  # fmt: skip


TASKS = (
    _bcb("bigcodebench-complete", "BigCodeBench, Complete", "complete_prompt", "bigcodebench_v014", 1140, False),
    _bcb("bigcodebench", "BigCodeBench, Instruct", "instruct_prompt", "bigcodebench_v014", 1140, True),
    _bcb("bigcodebench-hard-complete", "BigCodeBench-Hard, Complete", "complete_prompt", "bigcodebench_hard", 148, False),
    _bcb("bigcodebench-hard", "BigCodeBench-Hard, Instruct", "instruct_prompt", "bigcodebench_hard", 148, False),
    Task(
        "lbpp", "LBPP v2", (("lbpp_python*",), ("python/test*",)), lbpp_items, lbpp_judge,
        lambda item: _fenced(item.gold["code"]), 162, "hub data set CohereLabs/lbpp, python/test.parquet", 1024, "lbpp_v2_schema",
        code=True, founding=True, published=(56.8, 56.0),
    ),
    Task(
        "humaneval", "HumanEval", (("humaneval",),), humaneval_items, humaneval_judge, _function, 164, "openai/human-eval", 512,
        code=True, founding=True, published=(89.6, 90.2),
    ),
    _mbpp("mbpp", "MBPP", 500, True), _mbpp("mbpp-sanitized", "MBPP sanitized, test ids", 257), _mbpp("mbpp-plus", "MBPP+", 378),
    _infill("single-line", 1033), _infill("multi-line", 5815), _infill("random-span-light", 164),
    Task(
        "humanevalfix", "HumanEvalFix, Python", (("humanevalpack_python",),), fix_items, fix_judge,
        lambda item: _fenced(item.gold["declaration"] + item.gold["canonical_solution"]), 164, "bigcode-project/octopack", 1024,
        code=True,
    ),
)  # fmt: skip
