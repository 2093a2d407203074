"""`mezzotint eval edit`: one table of what editing is worth, for every way on the same weights, in one run.

for every part: for every way: answers, stored in OUT/WAY -> verdicts -> measures of all items -> lines of the table

Part by part and not way by way, so that a machine that is busy for a while is busy for all ways.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mezzotint.edit.passages import follows
from mezzotint.engine.engine import Engine
from mezzotint.eval import data
from mezzotint.eval.command import Options
from mezzotint.eval.edit_items import Stock
from mezzotint.eval.edit_parts import PARTS, Done, Measure, Part, items_of, mean
from mezzotint.eval.edit_ways import Editing
from mezzotint.eval.judge import Judge
from mezzotint.eval.runner import Report, Wanted, draw, run
from mezzotint.eval.sandbox import NoIsolation
from mezzotint.eval.store import Store
from mezzotint.train.data import data_folder


@dataclass
class Found:
    """What a part gave. ways: its measures by way, costs last; skipped: why it gave none."""

    name: str
    title: str
    ways: dict[str, list[Measure]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    skipped: str = ""

    def to_json(self) -> dict[str, Any]:
        table = {
            way: [
                {
                    "measure": m.name.strip(),
                    "value": _or_none(m.value),
                    "standard_error": _or_none(m.error),
                    "items": m.items,
                }
                for m in measures
            ]
            for way, measures in self.ways.items()
        }
        more = {"skipped": self.skipped} if self.skipped else {}
        return {"part": self.name, "title": self.title, "ways": table, "notes": self.notes, **more}


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def named_parts(named: str | None) -> list[Part]:
    """Raises ValueError for an unknown part. named: separated by commas; None for all."""
    names = list(PARTS) if named is None else [name.strip() for name in named.split(",") if name.strip()]
    if wrong := [name for name in names if name not in PARTS]:
        raise ValueError(f"unknown part {wrong[0]!r}; known: {', '.join(PARTS)}")
    if not names:
        raise ValueError(f"--parts names none; known: {', '.join(PARTS)}")
    return [PARTS[name] for name in names]


def evaluate(
    engine: Engine, ways: Sequence[str], parts: Sequence[Part], out: str | None, options: Options, wanted: Wanted,
    report: Report, finished: Callable[[Found], None],
) -> tuple[Path, list[Found]]:  # fmt: skip
    """Run the parts in all ways; -> the store's folder and what they gave. `finished` hears of each part as it ends.

    A part that this checkpoint, data folder or machine cannot do is skipped, and says why. Raises ValueError for a store of
    another system or other items.
    """
    stock = Stock(engine.tokenizer, follows(engine), data_folder(), data.folder(options.data), wanted.seed)
    folder = Path(out or "evals/" + re.sub(r"[^\w.+-]+", "-", f"edit-{engine.checkpoint.name}"))
    judge, why = _judge(options, any(part.code for part in parts))
    all_found: list[Found] = []
    with ExitStack() as stack:
        systems = {way: Editing(engine, way, wanted.seed) for way in ways}
        stores = {way: stack.enter_context(Store(folder / way, systems[way].about)) for way in ways}
        for part in parts:
            found, rows = Found(part.name, part.title), part.items(stock)
            if not rows:
                found.skipped = part.missing if stock.follows else f"{engine.checkpoint.name} reads no request"
            elif part.code and judge is None and not options.answers_only:
                found.skipped = why
            else:
                texts = {
                    way: _measure(part, _data(rows), systems[way], stores[way], judge, wanted, report, found)
                    for way in filter(part.goes, ways)
                }
                _compare(found)
                if "preset" not in rows[0]:  # presets have budgets and locks, under which the texts may differ
                    found.notes += _same(texts)
            all_found.append(found)
            finished(found)
    return folder, all_found


def _judge(options: Options, code: bool) -> tuple[Judge | None, str]:
    """With a sandbox where code is to be run and there is one; else None, and why."""
    if not code or options.answers_only:
        return None, "answers only"
    try:
        return options.judge(True), ""
    except NoIsolation as error:
        return None, str(error).split(":")[0]


def _data(rows: Sequence[dict[str, Any]]) -> data.Data:
    shown = json.dumps(rows, sort_keys=True).encode()
    return data.Data(tuple(rows), hashlib.sha256(shown).hexdigest(), ())


def _measure(
    part: Part, rows: data.Data, system: Editing, store: Store, judge: Judge | None, wanted: Wanted, report: Report, found: Found
) -> dict[str, str]:  # fmt: skip
    """Run a part in a way and put its measures into `found`; -> the whole answers that nothing is to be said about, by item."""
    task = part.task
    judges = judge if part.code else Judge()
    run(task, rows, system, store, judges, wanted, lambda _, at, of: report(f"{part.name}, {system.way}", at, of))
    items = {item.id: item for item in draw(items_of(rows.rows, 0), wanted.items, wanted.seed)}
    answers = {a.item: a for a in store.answers(task.name).values() if a.item in items and a.sample == 0}
    grading = judges.grading if judges and part.code else "value"
    scores = {v.item: v.score for v in store.verdicts(task.name, grading).values()}
    done = [
        Done(item, answers[name].text, scores.get(name, 0.0), answers[name].calls or 0, answers[name].seconds)
        for name, item in items.items()
    ]
    measures = part.measures(done, system.engine) if judges else []
    calls = mean("calls an edit", [one.calls for one in done], "")
    found.ways[system.way] = [*measures, calls, mean("seconds an edit", [one.seconds for one in done], "")]
    if cut := sum(a.reason != "stop" for a in answers.values()):
        found.notes.append(f"{system.way}: {cut} of {len(answers)} texts cut by the length or the context")
    for note, count in Counter(a.note for a in answers.values() if a.note).items():
        found.notes.append(f"{system.way}: {note} ({count} of {len(answers)})")
    if not judges:
        found.notes.append(f"{system.way}: {len(answers)} answers stored, not judged")
    return {a.item: a.text.rstrip() for a in answers.values() if a.reason == "stop" and not a.note}


def _compare(found: Found) -> None:
    """How many times AR's seconds and calls each way needs less."""
    if "ar" not in found.ways:
        return
    base = {m.name: m.value for m in found.ways["ar"][-2:]}
    for way, measures in found.ways.items():
        for m in measures[-2:]:
            if way != "ar" and m.value:
                what = m.name.split()[0]
                measures.append(Measure(f"{what}, AR's over these", base[m.name] / m.value, math.nan, m.items, "x"))


def _same(texts: Mapping[str, Mapping[str, str]]) -> list[str]:
    """How often `verified` says what AR says."""
    ours, base = texts.get("verified", {}), texts.get("ar", {})
    both = ours.keys() & base.keys()
    same = sum(ours[name] == base[name] for name in both)
    return [f"verified and ar: the same text in {same} of {len(both)}"] if both else []


def shown(measure: Measure) -> str:
    """41.2% ± 3.1, with no error where there is none."""
    if math.isnan(measure.value):
        return "-"
    scale, digits = (100, 1) if measure.unit == "%" else (1, 2)
    error = "" if math.isnan(measure.error) else f" ± {scale * measure.error:.{digits}f}"
    return f"{scale * measure.value:.{digits}f}{measure.unit}{error}"


def table(found: Sequence[Found], ways: Sequence[str]) -> list[dict[str, str]]:
    """Rows of the table: a measure each, under the title of its part."""
    rows: list[dict[str, str]] = []
    for part in found:
        if part.skipped:
            rows.append({"": part.title, "measure": "skipped", **dict.fromkeys(ways, "-"), "items": "0"})
            continue
        names = dict.fromkeys(m.name for measures in part.ways.values() for m in measures)
        for number, name in enumerate(names):
            cells = {way: {m.name: m for m in measures}.get(name) for way, measures in part.ways.items()}
            count = max(m.items for m in cells.values() if m)
            values = {way: shown(m) if (m := cells.get(way)) else "-" for way in ways}
            rows.append({"": part.title if number == 0 else "", "measure": name, **values, "items": str(count)})
    return rows


def said(found: Sequence[Found]) -> list[str]:
    """What there is to say beside the table."""
    skipped = [f"{part.title}: skipped ({part.skipped})" for part in found if part.skipped]
    return [*skipped, *(f"{part.title}: {note}" for part in found for note in part.notes)]
