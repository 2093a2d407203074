"""What `mezzotint eval edit` edits: texts with a request and, where there is one, the right answer.

    held-out texts of MEZZOTINT_DATA (those that training leaves out), or texts made up without it
        -> rows {id, group, instruction, before, after, ...}, the same for the same folder, tokenizer and seed

A checkpoint without a chat template reads no request: it is given short texts of the tiny model's kinds, to mend or to leave.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.edit.presets import preset
from mezzotint.eval import data
from mezzotint.eval.changes import grade
from mezzotint.eval.planted import plant
from mezzotint.recipes import tiny
from mezzotint.recipes.edits import KINDS, Edit, no_op
from mezzotint.recipes.mixture import HOLD_OUT, SETS, clean_pieces
from mezzotint.train.data import held_out, read_rows

Row = dict[str, Any]
EACH = 12  # edits of a class
SPARE = 4  # of them also as no-ops
TRIED = 400  # texts that a class is looked for in
MOST = 500  # rows of a part
LONGEST = 900  # characters of a text
TINIEST = 100  # tokens of a text for a checkpoint that reads no request
HARD = 8.0  # school years above which a paragraph is worth making easier
AUDIENCE = "ten-year-olds"
LANGUAGES = {"js": "JavaScript", "java": "Java", "cpp": "C++", "go": "Go", "rust": "Rust"}


@dataclass(frozen=True)
class Stock:
    """Where items come from. texts: the folder that MEZZOTINT_DATA names; benchmarks: that of MEZZOTINT_EVALDATA; either may
    be missing. follows: does the checkpoint read requests?"""

    tokenizer: Tokenizer
    follows: bool = True
    texts: Path | None = None
    benchmarks: Path | None = None
    seed: int = 0

    def pool(self, name: str) -> list[str]:
        """Held-out pieces of prose or code, in a drawn order."""
        found = list(dict.fromkeys(self._pieces(name)))  # pages of one author open with the same words
        return random.Random(f"{self.seed} {name}").sample(found, len(found))

    def _pieces(self, name: str) -> Iterator[str]:
        if self.texts is None:
            if name == "prose":
                yield from (d.text for d in tiny.documents(None, 4000, self.seed).held_out if len(d.text) >= 40)
            return
        for some in SETS:
            path = self.texts / f"{some.name}.jsonl.zst"
            if some.pool == name and not some.alone and path.is_file():
                for row in read_rows(path):
                    if held_out(str(row.get("source", some.name)), HOLD_OUT) and some.keep(row):
                        yield from clean_pieces(str(row.get("text") or row.get("output")), name)

    @cached_property
    def prose(self) -> list[str]:
        if self.follows:
            return self.pool("prose")
        found = [d.text for d in tiny.documents(self.texts).held_out]  # the kinds in the shares that it learnt them in
        some = random.Random(f"{self.seed} tiny").sample(found, min(2 * MOST, len(found)))
        return [text for text in some if 8 <= len(self.tokenizer.encode(text)) <= TINIEST]

    def evaluation(self, *names: str) -> data.Data | None:
        """The first of these files that either folder holds."""
        for name in names:
            for folder in (self.texts, self.benchmarks):
                if paths := data.find(folder, (name,)):
                    return data.read(paths)
        return None


def rows_of(edits: Iterator[tuple[str, Edit]]) -> list[Row]:
    """Edits as rows, each under a number of its own."""
    return [
        {"id": f"{name}/{n}", "group": e.kind, "instruction": e.instruction, "before": e.before, "after": e.after}
        for n, (name, e) in enumerate(edits)
    ]


def _edits(stock: Stock, each: int) -> Iterator[tuple[str, Edit]]:
    """Some of every class that the texts have."""
    for kinds, table in KINDS.items():
        texts = [""] * TRIED if kinds == "made" else stock.prose if kinds == "prose" else stock.pool(kinds)
        for name, make in table.items():
            some = random.Random(f"{stock.seed} {name}").sample(texts, min(TRIED, len(texts)))
            counts: Counter[str] = Counter()
            for number, text in enumerate(some):
                edit = make(text, random.Random(f"{stock.seed} {kinds} {name} {number}"))
                if edit is None or edit.before == edit.after or not edit.after.strip() or counts[edit.kind] == each:
                    continue
                counts[edit.kind] += 1
                yield f"{kinds}/{name}", edit


def edits(stock: Stock) -> list[Row]:
    """Programmatic edits of every class."""
    return rows_of(_edits(stock, EACH)) if stock.follows else []


def no_ops(stock: Stock) -> list[Row]:
    """Requests that the text fulfils already; without requests, clean texts."""
    if stock.follows:
        made = ((name, same) for name, edit in _edits(stock, SPARE) if (same := no_op(edit)))
        return rows_of(made)
    return [
        {"id": f"clean/{n}", "group": "clean", "instruction": REPAIR, "before": text, "after": text}
        for n, text in enumerate(stock.prose[:MOST])
    ]


REPAIR = "Fix the errors"


def planted(stock: Stock, rate: float) -> list[Row]:
    """Clean texts in which a share of the tokens is another text's."""
    texts, rows = stock.prose, list[Row]()
    pool = [token for text in texts[:200] for token in stock.tokenizer.encode(text)]
    for n, text in enumerate(texts):
        ids = stock.tokenizer.encode(text)
        if len(ids) < 3:
            continue
        _, spoiled, _, _ = plant([ids], rate, pool, stock.seed * 1_000_003 + n)
        try:
            before = stock.tokenizer.decode_bytes(spoiled[0].tolist()).decode()
        except UnicodeDecodeError:
            continue
        if before != text:
            rows.append({"id": f"planted/{n}", "group": "", "instruction": REPAIR, "before": before, "after": text})
        if len(rows) == MOST:
            break
    return rows


def grammar(stock: Stock) -> list[Row]:
    """JFLEG's development split, four references each."""
    found = stock.evaluation("jfleg-dev-EVAL-nc", "jfleg_dev") if stock.follows else None
    rows = []
    for n, row in enumerate(found.rows if found else ()):
        before = str(row.get("input") or row.get("source"))
        references = data.listed(row["references"])
        told = {"preset": "grammar", "instruction": preset("grammar").prompt, "references": references}
        rows.append({"id": f"jfleg/{n}", "group": "", "before": before.strip(), **told})
    return rows


def fixes(stock: Stock) -> list[Row]:
    """HumanEvalFix, Python."""
    found = stock.evaluation("humanevalpack_python") if stock.follows else None
    rows = []
    for row in found.rows if found else ():
        code = {key: row[key] for key in ("declaration", "entry_point", "test")}
        told = f"Fix the bug in {row['entry_point']}. Answer with the whole function and nothing else."
        before, after = (row["declaration"] + row[key] for key in ("buggy_solution", "canonical_solution"))
        rows.append({"id": row["task_id"], "group": "", "instruction": told, "before": before, "after": after, **code})
    return rows


def translations(stock: Stock) -> list[Row]:
    """HumanEval-X: a solution in another language, and the head that it has in Python."""
    found = stock.evaluation("humaneval-x-EVAL") if stock.follows else None
    table = {(row["lang"], str(row["task_id"]).rpartition("/")[2]): row for row in (found.rows if found else ())}
    rows = []
    for (language, number), row in table.items():
        python = table.get(("python", number))
        if language not in LANGUAGES or python is None:
            continue
        entry = str(python["test"]).rpartition("check(")[2].strip().removesuffix(")")
        told = preset("convert").ask({"language": "Python"}).instruction
        told = f"{told} It begins with:\n\n{str(python['declaration']).strip()}"
        before = str(row["declaration"]).lstrip("\n") + row["output"]
        code = {"declaration": python["declaration"], "entry_point": entry, "test": python["test"], "preset": "convert"}
        rows.append(
            {"id": str(row["task_id"]), "group": LANGUAGES[language], "instruction": told, "before": before, **code}
        )
    return rows


def keywords(stock: Stock) -> list[Row]:
    """Beginnings of real pages, and up to three keywords of their authors that they do not hold."""
    path = None if stock.texts is None else stock.texts / "npm-seo-keywords.jsonl.zst"
    if path is None or not path.is_file() or not stock.follows:
        return []
    return list(islice(_pages(path), MOST))


def _pages(path: Path) -> Iterator[Row]:
    seen = set[str]()
    for n, row in enumerate(read_rows(path)):
        pieces = clean_pieces(row["input"], "prose")
        text = ""
        for piece in pieces:
            if len(text) + len(piece) <= LONGEST:
                text = f"{text}\n\n{piece}" if text else piece
        missing = [
            w.strip() for w in row["output"].split(",") if w.strip() and w.strip().casefold() not in text.casefold()
        ]
        if len(text) >= 150 and missing and text not in seen:
            seen.add(text)
            some = ", ".join(missing[:3])
            told = preset("seo").ask({"keywords": some}).instruction
            yield {
                "id": f"page/{n}",
                "group": "",
                "instruction": told,
                "before": text,
                "preset": "seo",
                "keywords": some,
            }


def hard_texts(stock: Stock) -> list[Row]:
    """Held-out paragraphs that take more than eight school years, for ten-year-olds."""
    if not stock.follows:
        return []
    told = preset("audience").ask({"audience": AUDIENCE}).instruction
    hard = (text for text in stock.prose if len(text) >= 120 and (grade(text) or 0) >= HARD)
    return [
        {"id": f"hard/{n}", "group": "", "instruction": told, "before": text, "preset": "audience"}
        for n, text in enumerate(islice(hard, MOST))
    ]
