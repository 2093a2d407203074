"""Does the harness judge rightly? Every reference answer goes the way of a model's answer, and must come out correct.

    reference -> the text a perfect model gives -> extraction -> sandbox -> verdict        HumanEvalFix: its buggy
    functions must all fail

EXPECTED are the counts of a whole file, by grading. Those that are not all are explained beside them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mezzotint.eval.data import Data
from mezzotint.eval.extract import without_reasoning
from mezzotint.eval.judge import Judge
from mezzotint.eval.runner import draw
from mezzotint.eval.task import Item, Task, Verdict
from mezzotint.eval.tasks import rows_of

EXPECTED: dict[str, tuple[int, int]] = {  # references that pass officially, strictly; of others, all
    "bbeh": (4509, 4509),  # 11 targets end with a full stop, which the authors' rule takes off the answer alone
    "mbpp": (500, 499),  # 367 builds a tree of the answer's own objects
    "mbpp-plus": (375, 375),  # 2, 579 and 769 compare unordered results exactly
    "bigcodebench": (288, 288),  # 147 opens network sockets, which the filter forbids
    "bigcodebench-complete": (288, 288),
}
STDLIB = "bigcodebench_offline_stdlib_ids.json"  # tasks of BigCodeBench that need the standard library alone


@dataclass(frozen=True)
class Found:
    """right: of `total` references; expected: as many, or None for a sample of a file whose references do not all pass."""

    name: str
    right: int
    total: int
    expected: int | None
    wrong: tuple[tuple[str, str], ...]

    @property
    def ok(self) -> bool:
        return self.expected is None or self.right == self.expected


def self_test(
    tasks: list[Task], where: Path | None, judge: Judge, count: int | None = None, workers: int = 1,
    report: Callable[[str, int, int], None] = lambda *_: None,
) -> Iterator[Found]:  # fmt: skip
    """Judge the references of every benchmark that is in the folder. count: so many of each, drawn by seed 0."""
    for task in tasks:
        data = rows_of(task, where)
        if data is None or task.reference is None:
            continue
        items = _items(task, data, where)
        chosen = draw(items, count, 0)
        yield _tried(task, task.name, chosen, len(items), judge, workers, report, task.reference)
        if task.name == "humanevalfix":
            yield _tried(task, "humanevalfix, buggy", chosen, len(items), judge, workers, report, buggy, wrong=True)


def _items(task: Task, data: Data, where: Path | None) -> list[Item]:
    """All rows, whatever their split; of BigCodeBench those that need no library."""
    rows = [{**row, "split": "test"} for row in data.rows] if task.name == "mbpp-sanitized" else data.rows
    items = task.load(rows, 0)
    ids = where / STDLIB if where else None
    if task.name.startswith("bigcodebench") and ids is not None and ids.is_file():
        known = set(json.loads(ids.read_text())["task_ids"])
        items = [item for item in items if item.id in known]
    return items


def buggy(item: Item) -> str:
    """HumanEvalFix's function as it was before."""
    return f"```python\n{item.gold['declaration']}{item.gold['buggy_solution']}\n```"


def _tried(
    task: Task, name: str, items: list[Item], rows: int, judge: Judge, workers: int, report: Callable[[str, int, int], None],
    reference: Callable[[Item], str], wrong: bool = False,
) -> Found:  # fmt: skip
    def one(item: Item) -> Verdict:
        return task.judge(item, without_reasoning(reference(item)), task.reference_plain, judge)

    verdicts: list[Verdict] = []
    with ThreadPoolExecutor(workers) as pool:
        for verdict in pool.map(one, items):
            verdicts.append(verdict)
            report(name, len(verdicts), len(items))
    right = sum(verdict.state == "correct" for verdict in verdicts)
    expected: int | None = 0 if wrong else len(items)
    if not wrong and name in EXPECTED:
        expected = EXPECTED[name][judge.grading == "strict"] if len(items) == rows else None
    bad = [(i.id, v.note or v.state) for i, v in zip(items, verdicts, strict=True) if (v.state == "correct") is wrong]
    return Found(name, right, len(items), expected, tuple(bad))
