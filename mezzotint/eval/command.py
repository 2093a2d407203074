"""What `mezzotint eval` does, behind the command line's options: choose, check everything that can be checked, run, sum up."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mezzotint.eval import data
from mezzotint.eval.browser import Browser
from mezzotint.eval.judge import Judge
from mezzotint.eval.patch import prediction
from mezzotint.eval.runner import Report, Summary, Wanted, run
from mezzotint.eval.sandbox import Sandbox
from mezzotint.eval.store import Store
from mezzotint.eval.systems import Local, System, logit_gap
from mezzotint.eval.task import STATES, Item, Task
from mezzotint.eval.tasks import TASKS, chosen, rows_of

if TYPE_CHECKING:
    from mezzotint.eval.scores import Split

KEYS = ("MEZZOTINT_EVAL_KEY", "OPENAI_API_KEY")


@dataclass(frozen=True)
class Options:
    """data: the folder of items. fixtures: take hand-made rows where it has none. answers_only: judge nothing that
    needs a sandbox.

    python: what judged code runs on. patience: what its time limits are multiplied by.
    """

    data: str | None = None
    fixtures: bool = False
    answers_only: bool = False
    grading: str = "strict"
    python: str | None = None
    patience: float = 1.0

    def judge(self, code: bool, page: bool = False) -> Judge:
        """With a sandbox where there is code, a browser where there are pages. Raises NoIsolation, NoBrowser, ValueError."""
        if not 0 < self.patience <= 100:
            raise ValueError(f"patience is {self.patience}; it must lie above 0 and up to 100")
        browser = Browser(patience=self.patience) if page else None
        return Judge(Sandbox(self.python) if code else None, self.grading, self.patience, browser)


def count_of(items: str) -> int | None:
    """--items: a number, or all (None)."""
    if items == "all":
        return None
    if not items.isdigit() or int(items) < 1:
        raise ValueError(f"--items is {items!r}; give a number from 1 up, or all")
    return int(items)


def listing(options: Options) -> list[dict[str, Any]]:
    """Every benchmark, and whether its items are in the data folder."""
    where = data.folder(options.data)
    rows = []
    for task in TASKS.values():
        found = next((paths for names in task.files if (paths := data.find(where, names))), None)
        rows.append({
            "name": task.name, "title": task.title, "items": task.rows, "founding": task.founding,
            "here": [str(path) for path in found] if found else [], "fixture": bool(task.fixture), "where": task.where,
            "published": dict(zip(("Gemini Diffusion", "Gemini 2.0 Flash-Lite"), task.published or (), strict=False)),
        })  # fmt: skip
    return rows


def located(names: Sequence[str], options: Options) -> list[tuple[Task, data.Data]]:
    """The benchmarks with their rows. Raises ValueError when one's items are not there."""
    where, found = data.folder(options.data), []
    for task in chosen(names):
        rows = rows_of(task, where, options.fixtures)
        if rows is None:
            wanted = " or ".join(", ".join(some) for some in task.files)
            hint = "; --fixtures takes hand-made rows instead" if task.fixture else ""
            raise ValueError(
                f"no items of {task.name} ({wanted}.jsonl, .jsonl.xz, .parquet or .csv) in "
                f"{where or 'the data folder, which --data or MEZZOTINT_EVALDATA names'}; get them from: {task.where}{hint}"
            )
        found.append((task, rows))
    return found


def evaluate(
    found: Sequence[tuple[Task, data.Data]], make: Callable[[], System], out: str | None, options: Options, wanted: Wanted,
    report: Report, finished: Callable[[Summary], None],
) -> tuple[Path, bool]:  # fmt: skip
    """Run benchmarks; -> the store, and whether all is well (no more than 0.5% of a benchmark's answers failed).

    The sandbox is tried before the model is loaded. `finished` hears of each benchmark as it ends.
    """
    judged = [] if options.answers_only else [task for task, _ in found]
    judge = options.judge(any(task.code for task in judged), any(task.page for task in judged))
    for task, rows in found:
        task.load(rows.rows, 0)  # a bad row is found before hours are spent
    system = make()
    folder, good = Path(out or default_folder(system.about)), True
    with Store(folder, system.about) as store:
        for task, rows in found:
            judges = None if (task.code or task.page) and options.answers_only else judge
            summary = run(task, rows, system, store, judges, wanted, report)
            finished(summary)
            good = good and not summary.failed
            if task.name == "swebench" and not rows.fixture:
                answers = store.answers(task.name).values()
                lines = [prediction(a.item, a.text, a.plain, str(system.about["model"])) for a in answers]
                (folder / "swebench.predictions.jsonl").write_text(
                    "".join(f"{line}\n" for line in lines), encoding="utf-8"
                )
    return folder, good


def default_folder(about: dict[str, Any]) -> str:
    """evals/MODEL-DECODE."""
    return "evals/" + re.sub(r"[^\w.+-]+", "-", f"{about['model']}-{about['decode']}")


def gap_of(local: Local, options: Options) -> Callable[[Split], float]:
    """How near a tie was, where two stores of one model part."""
    items: dict[tuple[str, int], dict[str, Item]] = {}

    def gap(split: Split) -> float:
        key = split.task, split.sample
        if key not in items:
            ((task, rows),) = located([split.task], options)
            items[key] = {item.id: item for item in task.load(rows.rows, split.sample)}
        return logit_gap(local, items[key][split.item], split.first[: split.at])

    return gap


def api_key() -> str | None:
    return next((os.environ[name] for name in KEYS if os.environ.get(name)), None)


def line(summary: Summary) -> str:
    """A benchmark's outcome for people."""
    total = sum(summary.states.values())
    if not total:
        return f"{summary.task}: {summary.asked} answers stored, not judged"
    states = ", ".join(
        f"{summary.states[s]} {s.replace('_', ' ')}" for s in STATES if summary.states[s] and s != "correct"
    )
    right = summary.states["correct"]
    return f"{summary.task}: {right} of {total} correct ({right / total:.1%})" + (f"; {states}" if states else "")
