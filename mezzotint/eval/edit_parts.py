"""The parts of `mezzotint eval edit`: where each has its items from, how an answer is judged, and what is measured of all.

Part   items (`edit_items.py`) -> Task, which `runner.py` runs -> answers -> Measures, one line of the table each
"""

from __future__ import annotations

import difflib
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mezzotint.edit.checks import absent
from mezzotint.engine.engine import Engine
from mezzotint.eval import edit_items, gleu
from mezzotint.eval.changes import TOKEN, grade, kept, pooled_f, right_changes, sentences
from mezzotint.eval.code import fix_judge
from mezzotint.eval.edit_ways import perplexity
from mezzotint.eval.judge import Judge
from mezzotint.eval.metrics import f_beta
from mezzotint.eval.task import Item, Rows, Task, Verdict, user

LIKELY = 1.5  # times the perplexity of the sentence that stood there
STAY = 0.98  # of the other tokens


@dataclass(frozen=True)
class Done:
    """An item with what became of it. score: its verdict's, 0 to 1."""

    item: Item
    text: str
    score: float
    calls: int
    seconds: float

    @property
    def gold(self) -> Mapping[str, Any]:
        return self.item.gold


@dataclass(frozen=True)
class Measure:
    """A number of one way at one part. error: its standard error over items, nan for one item; unit: % or nothing."""

    name: str
    value: float
    error: float
    items: int
    unit: str = "%"


Measures = Callable[[Sequence[Done], Engine], list[Measure]]


def mean(name: str, values: Sequence[float], unit: str = "%") -> Measure:
    """A mean with its standard error. No values give nan."""
    n = len(values)
    middle = math.fsum(values) / n if n else math.nan
    spread = math.fsum((v - middle) ** 2 for v in values)
    return Measure(name, middle, math.sqrt(spread / (n - 1) / n) if n > 1 else math.nan, n, unit)


# -- measures ----------------------------------------------------------------------------------------------------------


def _share_kept(done: Done) -> float | None:
    before = done.gold["before"]
    stayed, total = kept(before, done.gold.get("after", before), done.text)
    return stayed / total if total else None


def _locality(done: Sequence[Done]) -> Measure:
    return mean("untouched tokens kept", [share for one in done if (share := _share_kept(one)) is not None])


def exact(done: Sequence[Done], engine: Engine) -> list[Measure]:
    """Exact matches, of all and by class; locality."""
    classes: dict[str, list[float]] = defaultdict(list)
    for one in done:
        classes[one.item.group].append(one.score)
    each = [mean(f"  {name}", scores) for name, scores in sorted(classes.items())]
    return [mean("exact match", [one.score for one in done]), _locality(done), *each]


def over_edit(done: Sequence[Done], engine: Engine) -> list[Measure]:
    changed = [float(one.text != one.gold["before"]) for one in done]
    return [mean("texts changed", changed), _locality(done)]


def mended(done: Sequence[Done], engine: Engine) -> list[Measure]:
    rows = [right_changes(one.gold["before"], one.gold["after"], one.text) for one in done]
    right, made, wanted = map(sum, zip(*rows, strict=True))
    value, error = pooled_f(rows)
    some = [Measure("F0.5", value, error, len(done))]
    some += [Measure("precision", right / max(made, 1), math.nan, len(done))] if made else []
    return [*some, Measure("recall", right / max(wanted, 1), math.nan, len(done)), _locality(done)]


def fluent(done: Sequence[Done], engine: Engine) -> list[Measure]:
    rows = [(one.gold["before"], one.gold["references"], one.text) for one in done]
    same = [(before, references, before) for before, references, _ in rows]
    return [
        Measure("GLEU", *gleu.corpus(rows), len(done)),
        Measure("GLEU of doing nothing", *gleu.corpus(same), len(done)),
        mean("texts changed", [float(one.text != one.gold["before"]) for one in done]),
    ]


def passed(done: Sequence[Done], engine: Engine) -> list[Measure]:
    return [mean("tests passed", [one.score for one in done])]


def worked_in(done: Sequence[Done], engine: Engine) -> list[Measure]:
    """All keywords in sentences; and so that each changed sentence stays likely and the rest of the text stands."""
    likely, stayed = [_likely(one, engine) for one in done], [_others_kept(one) for one in done]
    whole = [one.score == 1 and fine and same for one, fine, same in zip(done, likely, stayed, strict=True)]
    asked = [[word.strip() for word in one.gold["keywords"].split(",")] for one in done]
    share = [1 - len(_missing(one.gold, one.text)) / len(words) for one, words in zip(done, asked, strict=True)]
    return [
        mean("all keywords in sentences", [one.score for one in done]),
        mean("keywords in sentences", share),
        mean(f"changed sentences at most {LIKELY}x", [float(fine) for fine in likely]),
        mean(f"{STAY:.0%} of the other tokens stay", [float(same) for same in stayed]),
        mean("all three", [float(fine) for fine in whole]),
        _locality(done),
    ]


def _others_kept(done: Done) -> bool:
    """Do 98% of the tokens stay?"""
    share = _share_kept(done)
    return share is not None and share >= STAY


def _likely(done: Done, engine: Engine) -> bool:
    """Is no changed sentence more than 1.5 times as perplexing as the one in its place (an added one: as the worst there was)?"""
    old, new = sentences(done.gold["before"]), sentences(done.text)
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        for i, sentence in enumerate(new[c:d] if kind != "equal" else ()):
            likely = [perplexity(engine, one) for one in (old[a + i : a + i + 1] if a + i < b else old)]
            least = max(likely, default=math.nan)
            if perplexity(engine, sentence) > LIKELY * least:
                return False
    return True


def easier(done: Sequence[Done], engine: Engine) -> list[Measure]:
    """School years less than the text took; and how much of it is left, since an empty text is easy."""
    before = [grade(one.gold["before"]) for one in done]
    pairs = [
        (a, b) for a, one in zip(before, done, strict=True) if a is not None and (b := grade(one.text)) is not None
    ]
    lengths = [len(TOKEN.findall(one.text)) / len(TOKEN.findall(one.gold["before"])) for one in done]
    return [mean("school years fewer", [a - b for a, b in pairs], ""), mean("length left", lengths)]


# -- judging -----------------------------------------------------------------------------------------------------------


def _exact(item: Item, text: str, plain: bool, judge: Judge) -> Verdict:
    return Verdict.of(text == item.gold["after"] or text == item.gold["after"].strip())


def _graded(score: float) -> Verdict:
    return Verdict("correct" if score == 1 else "wrong", score)


def _mended(item: Item, text: str, plain: bool, judge: Judge) -> Verdict:
    return _graded(f_beta(*right_changes(item.gold["before"], item.gold["after"], text)))


def _fluent(item: Item, text: str, plain: bool, judge: Judge) -> Verdict:
    return _graded(gleu.sentence(item.gold["before"], item.gold["references"], text))


def _worked_in(item: Item, text: str, plain: bool, judge: Judge) -> Verdict:
    missing = _missing(item.gold, text)
    return Verdict.of(not missing, f"not in a sentence: {', '.join(missing)}" if missing else "")


def _missing(gold: Mapping[str, Any], text: str) -> list[str]:
    """Keywords that stand in no sentence of a text."""
    return absent(text, gold["keywords"])


def _easier(item: Item, text: str, plain: bool, judge: Judge) -> Verdict:
    before, after = grade(item.gold["before"]), grade(text)
    return Verdict.of(before is not None and after is not None and after < before)


# -- the table ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """missing: what to say where it has no items. code: answers are run, in the sandbox. corrects: an edit puts right what is
    wrong, so that ways which follow no request are measured too. inserts: phrases are to be worked in."""

    name: str
    title: str
    items: Callable[[edit_items.Stock], list[edit_items.Row]]
    judge: Callable[[Item, str, bool, Judge], Verdict]
    measures: Measures
    missing: str = "no texts of its kind"
    code: bool = False
    corrects: bool = False
    inserts: bool = False

    def goes(self, way: str) -> bool:
        """Does this way do what the part asks for?"""
        if way == "insert":
            return self.inserts
        return self.corrects or way not in ("rescore", "repair")

    @property
    def task(self) -> Task:
        return Task(
            f"edit-{self.name}", self.title, (), items_of, self.judge, None, 0, "", code=self.code
        )  # fmt: skip


def items_of(rows: Rows, sample: int) -> list[Item]:
    """Rows as items: the request above the text, as AR is shown it."""
    return [
        Item(row["id"], user(f"{row['instruction']}\n\n{row['before']}"), "", row, str(row.get("group", "")))
        for row in rows
    ]


_JFLEG = "no file jfleg-dev-EVAL-nc in MEZZOTINT_DATA, nor jfleg_dev in the evaluations' folder"
_FIX = "no file humanevalpack_python in the evaluations' folder (--data or MEZZOTINT_EVALDATA)"
_CONVERT = "no file humaneval-x-EVAL in MEZZOTINT_DATA"
_PAGES = "no file npm-seo-keywords in MEZZOTINT_DATA"


def _repair(rate: int) -> Part:
    items = partial(edit_items.planted, rate=rate / 100)
    return Part(f"repair-{rate}", f"Repair, {rate}% errors", items, _mended, mended, corrects=True)


PARTS = {
    part.name: part
    for part in (
        Part("programmatic", "Programmatic edits", edit_items.edits, _exact, exact),
        Part("no-op", "Nothing to do", edit_items.no_ops, _exact, over_edit, corrects=True),
        *map(_repair, (2, 5, 10)),
        Part("grammar", "JFLEG dev", edit_items.grammar, _fluent, fluent, _JFLEG, corrects=True),
        Part("fix", "HumanEvalFix", edit_items.fixes, fix_judge, passed, _FIX, True),
        Part("convert", "Code to Python", edit_items.translations, fix_judge, passed, _CONVERT, True),
        Part("keywords", "Keywords into pages", edit_items.keywords, _worked_in, worked_in, _PAGES, inserts=True),
        Part("audience", "For ten-year-olds", edit_items.hard_texts, _easier, easier, "no text of eight school years or more"),
    )
}  # fmt: skip
