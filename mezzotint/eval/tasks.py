"""The benchmarks by name: the ten of the founding table in its order, then the others."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from mezzotint.eval import answer, code, livecode, patch, web
from mezzotint.eval.data import Data, find, fixture, read
from mezzotint.eval.task import Task

ORDER = (
    "livecodebench", "bigcodebench", "lbpp", "swebench", "humaneval", "mbpp", "gpqa", "aime2025", "bbeh", "mmlu-lite",
)  # fmt: skip
_ALL = {task.name: task for task in (*livecode.TASKS, *code.TASKS, *patch.TASKS, *answer.TASKS, *web.TASKS)}
TASKS = {name: _ALL[name] for name in (*ORDER, *(name for name in _ALL if name not in ORDER))}


def chosen(names: Sequence[str]) -> list[Task]:
    """Tasks by name; `ten` is the founding table, `all` is every one. Raises ValueError for an unknown name."""
    found: dict[str, Task] = {}
    for name in names:
        some = ORDER if name == "ten" else tuple(TASKS) if name == "all" else (name,)
        for one in some:
            if one not in TASKS:
                near = get_close_matches(one, TASKS, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ValueError(f"unknown benchmark {one!r}{hint or ';'} known: {', '.join(TASKS)}, or ten, or all")
            found[one] = TASKS[one]
    return list(found.values())


def rows_of(task: Task, where: Path | None, fixtures: bool = False) -> Data | None:
    """A benchmark's rows out of the data folder; hand-made ones with `fixtures` where it has none. None without either."""
    for names in task.files:
        paths = find(where, names)
        if paths is not None:
            return read(paths)
    return fixture(task.fixture) if fixtures and task.fixture else None
