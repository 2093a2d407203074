"""From stored verdicts to figures: scores with standard errors, differences between systems item by item.

score            mean over items of the mean over an item's samples; its standard error is that of items (samples of
one are no items)
difference       paired: the same items in both stores, interval by bootstrap over items
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mezzotint.eval.answer import averages
from mezzotint.eval.metrics import bootstrap, pass_at, wilson
from mezzotint.eval.store import Answer, Judged, read_json, whole_lines
from mezzotint.eval.tasks import TASKS


@dataclass(frozen=True)
class TaskResult:
    """One benchmark in one store. items: id -> mean score of its samples, from 0 to 1."""

    name: str
    about: Mapping[str, Any]
    grading: str
    isolation: str
    items: dict[str, float]
    groups: dict[str, str]
    labels: dict[str, str]
    states: Counter[str]
    samples: int
    context: int
    calls: int | None
    positions: int | None
    tokens: int
    seconds: float
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def score(self) -> float:
        return math.fsum(self.items.values()) / len(self.items)

    @property
    def error(self) -> float:
        """Standard error of the mean over items; nan for one item."""
        n, mean = len(self.items), self.score
        return math.sqrt(math.fsum((v - mean) ** 2 for v in self.items.values()) / (n - 1) / n) if n > 1 else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95%: Wilson's for one sample an item (it is right at 0 and 1 too), else bootstrap over items."""
        if all(value in (0.0, 1.0) for value in self.items.values()):
            return wilson(round(sum(self.items.values())), len(self.items))
        return bootstrap(list(self.items.values()))

    @property
    def others(self) -> dict[str, float]:
        """Other averages it is reported by, and the score of each label."""
        by_group: dict[str, list[float]] = defaultdict(list)
        by_label: dict[str, list[float]] = defaultdict(list)
        for name, value in self.items.items():
            by_group[self.groups.get(name, "")].append(value)
            if self.labels.get(name):
                by_label[self.labels[name]].append(value)
        means = averages(self.name, by_group)
        for k in (k for k in (4, 16, 64) if k <= self.samples):
            passed = [pass_at(k, self.samples, round(v * self.samples)) for v in self.items.values()]
            means[f"pass@{k}"] = math.fsum(passed) / len(passed)
        return means | {label: math.fsum(v) / len(v) for label, v in sorted(by_label.items())}


@dataclass(frozen=True)
class SystemResult:
    """A store. system: what its run.json says."""

    folder: Path
    system: Mapping[str, Any]
    tasks: dict[str, TaskResult]

    @property
    def name(self) -> str:
        return f"{self.system.get('model')}, {self.system.get('decode')}"


def read_store(folder: str | Path, grading: str | None = None) -> SystemResult:
    """A store's results; nothing is written. grading: of code, strict where both are there. Raises ValueError for a
    folder without.
    """
    folder = Path(folder)
    system = read_json(folder / "run.json")
    if system is None:
        raise ValueError(
            f"{folder} holds no evaluation: there is no run.json; name the --out folder of `mezzotint eval`"
        )
    tasks = {}
    for name in TASKS:
        about = read_json(folder / f"{name}.json")
        verdicts = [Judged(**row) for row in whole_lines(folder / f"{name}.verdicts.jsonl")]
        if about is None or not verdicts:
            continue
        gradings = {judged.grading for judged in verdicts}
        wanted = grading if grading in gradings else "strict" if "strict" in gradings else sorted(gradings)[0]
        answers = {a.key: a for a in (Answer(**row) for row in whole_lines(folder / f"{name}.answers.jsonl"))}
        latest = {j.key: j for j in verdicts if j.grading == wanted}
        if some := {key: judged for key, judged in latest.items() if key in answers}:
            tasks[name] = _result(name, about, wanted, some, answers)
    return SystemResult(folder, system, tasks)


def _result(
    name: str, about: Mapping[str, Any], grading: str, verdicts: Mapping[Any, Judged], answers: Mapping[Any, Answer]
) -> TaskResult:  # fmt: skip
    scores: dict[str, list[float]] = defaultdict(list)
    for judged in verdicts.values():
        scores[judged.item].append(judged.score)
    used = [answers[key] for key in verdicts]
    calls = [a.calls for a in used if a.calls is not None]
    positions = [a.positions for a in used if a.positions is not None]
    places = about.get("places", {})
    return TaskResult(
        name, about, grading, "/".join(sorted({j.isolation for j in verdicts.values()})),
        {item: math.fsum(values) / len(values) for item, values in scores.items()},
        {item: place[0] for item, place in places.items()}, {item: place[1] for item, place in places.items()},
        Counter(j.state for j in verdicts.values()), max(map(len, scores.values())), sum(a.reason == "context" for a in used),
        sum(calls) if calls else None, sum(positions) if positions else None, sum(a.tokens for a in used),
        math.fsum(a.seconds / a.batch for a in used), 
        Counter(j.note for j in verdicts.values() if j.state != "correct" and j.note),
    )  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """second - first on the items that both have, with its 95% interval; better, worse: items."""

    task: str
    items: int
    mean: float
    low: float
    high: float
    better: int
    worse: int


def difference(first: TaskResult, second: TaskResult) -> Difference | None:
    """None where they share no item, or were not asked the same."""
    if first.about["data_sha256"] != second.about["data_sha256"] or first.grading != second.grading:
        return None
    values = [second.items[item] - first.items[item] for item in first.items if item in second.items]
    if not values:
        return None
    low, high = bootstrap(values)
    return Difference(
        first.name, len(values), math.fsum(values) / len(values), low, high,
        sum(v > 0 for v in values), sum(v < 0 for v in values),
    )  # fmt: skip


@dataclass(frozen=True)
class Split:
    """Where two systems that should say the same do not: token `at` of an item's answer."""

    task: str
    item: str
    sample: int
    at: int
    first: list[int]
    second: list[int]


def splits(one: str | Path, other: str | Path) -> tuple[int, list[Split]]:
    """Answers that two stores share, and those whose tokens differ."""
    shared, found = 0, list[Split]()
    for name in TASKS:
        sides = [
            {a.key: a for a in (Answer(**row) for row in whole_lines(Path(folder) / f"{name}.answers.jsonl"))}
            for folder in (one, other)
        ]
        for key in sides[0].keys() & sides[1].keys():
            ours, theirs = sides[0][key], sides[1][key]
            shared += 1
            if (ours.ids, ours.text) != (theirs.ids, theirs.text):
                pairs = zip(ours.ids, theirs.ids, strict=False)
                at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours.ids), len(theirs.ids)))
                found.append(Split(name, ours.item, ours.sample, at, ours.ids, theirs.ids))
    return shared, sorted(found, key=lambda s: (s.task, s.item, s.sample))
