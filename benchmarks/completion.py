"""Completion at a cursor: how long it takes once the left side has been read, and how often it is right.

    python benchmarks/completion.py [--model default] [--compute auto] [--places 40] [--items 60] [--seed 0]

Time    a file of Python is open: 512 tokens on the left have been read, one line has been typed since, 32 tokens stand on the
        right. Seconds to a suggestion of one line, as an editor shows it, and to 16 tokens, wherever they lead; the first request
        of a file, which reads all of the left, apart.
Right   exact match (white space at the ends aside) on HumanEval-Infilling, single lines and random spans: ours, which reads
        both sides; AR, which sees the left alone; AR that is shown the right too, quoted in a chat. All on the same weights.

Needs MEZZOTINT_DATA and MEZZOTINT_EVALDATA. Writes benchmarks/results/YYYY-MM-DD-completion.md.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import report

import mezzotint as mz
from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.eval.command import Options, located
from mezzotint.eval.extract import python_block
from mezzotint.eval.runner import draw
from mezzotint.eval.task import Item
from mezzotint.live.complete import LENGTHS, Completer
from mezzotint.live.document import Place
from mezzotint.recipes.mixture import HOLD_OUT
from mezzotint.train.data import data_folder, held_out, read_rows

READ, GIVEN, WRITTEN = 512, 32, 16  # tokens on the left, on the right, of a suggestion
GOAL = 0.3  # seconds, at the middle
SETS = ("infilling-single-line", "infilling-random-span-light")
LONGEST = (*LENGTHS, 32)


def files(tokenizer: Tokenizer, count: int, seed: int) -> list[tuple[str, str, str]]:
    """Held-out Python: what has been read, the line typed since, what stands on the right. Raises ValueError without data."""
    folder = data_folder()
    path = None if folder is None else folder / "python-functions.jsonl.zst"
    if path is None or not path.is_file():
        raise ValueError("python-functions.jsonl.zst is not there; set MEZZOTINT_DATA to the folder that holds it")
    texts = [str(row["output"]) for row in read_rows(path) if held_out(str(row["source"]), HOLD_OUT)]
    rng, found = random.Random(seed), list[tuple[str, str, str]]()
    while len(found) < count:
        lines, left = "\n\n".join(rng.sample(texts, 20)).splitlines(keepends=True), ""
        at = 0
        while len(tokenizer.encode(left)) < READ:
            left, at = left + lines[at], at + 1
        while not lines[at].strip():
            left, at = left + lines[at], at + 1
        right = tokenizer.decode(tokenizer.encode("".join(lines[at + 2 :]))[:GIVEN])
        found.append((left, lines[at], "\n" + right))
    return found


def timed(engine: mz.Engine, texts: Sequence[tuple[str, str, str]]) -> dict[str, list[float]]:
    """Seconds of each request, by what was asked for."""
    lengths = [length for length in LENGTHS if length <= WRITTEN]
    took: dict[str, list[float]] = {"cold": [], "a line": [], f"{WRITTEN} tokens": []}
    for number, (left, line, right) in enumerate(texts):
        for name, one_line in (("a line", True), (f"{WRITTEN} tokens", False)):
            completer = Completer(engine)
            for key, place in (("cold", Place(left, line + right)), (name, Place(left + line, right))):
                began = time.perf_counter()
                completer.complete(place, one_line=one_line, lengths=lengths)
                took[key].append(time.perf_counter() - began)
        print(f"{number + 1} of {len(texts)}", file=sys.stderr, flush=True)
    return took


def writers(engine: mz.Engine) -> dict[str, Callable[[Item, bool], str]]:
    """Ways to fill an item's hole, of one line or not."""

    def ours(item: Item, one_line: bool) -> str:
        assert item.hole is not None
        made = Completer(engine).complete(Place(*item.hole), one_line=one_line, lengths=LONGEST)
        return made.text if made else ""

    def left(item: Item, one_line: bool) -> str:
        assert item.hole is not None
        made = Completer(engine).complete(Place(item.hole[0], ""), one_line=one_line, lengths=LONGEST)
        return made.text if made else ""

    def quoted(item: Item, one_line: bool) -> str:
        asked = mz.Request(list(item.chat), decode="ar", max_tokens=2 * LONGEST[-1])
        return python_block(engine.generate(asked)[0].text) or ""

    return {"ours, both sides": ours, "AR, the left alone": left, "AR, the right quoted in a chat": quoted}


def right(engine: mz.Engine, count: int, seed: int) -> list[list[object]]:
    """Exact matches and seconds an item, by set and way."""
    rows: list[list[object]] = []
    for task, data in located(SETS, Options(None)):
        items = draw(task.load(data.rows, 0), count, seed)
        for way, fill in writers(engine).items():
            began, exact = time.perf_counter(), 0
            for item in items:
                text = fill(item, "single-line" in task.name)
                exact += text.strip() == item.gold["canonical_solution"].strip()
            spent = (time.perf_counter() - began) / len(items)
            rows.append([task.title, way, f"{exact} of {len(items)}", spent])
            print(*rows[-1], file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--adapter")
    parser.add_argument("--compute", default="auto", choices=("auto", "float32", "int8"))
    parser.add_argument("--places", type=int, default=40)
    parser.add_argument("--items", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.places < 2 or args.items < 1:
        parser.error("--places is at least 2, --items at least 1")
    engine = mz.Engine(mz.load(args.model, args.adapter), compute=args.compute)
    Completer(engine).complete(
        Place("def add(a, b):\n    return ", "\n")
    )  # what the first call allocates is no request's
    took = timed(engine, files(engine.tokenizer, args.places, args.seed))
    tables = report.table(
        ["request", "P50, ms", "P95, ms", "requests"],
        [[name, 1000 * statistics.median(some), 1000 * sorted(some)[int(len(some) * 0.95)], len(some)]
         for name, some in took.items()],
    )  # fmt: skip
    middle = statistics.median(took[f"{WRITTEN} tokens"])
    goal = "met" if middle < GOAL else "*missed*"
    exact = report.table(["set", "way", "exact", "seconds an item"], right(engine, args.items, args.seed))
    way = Completer(engine).way(Place("a", "b"))
    report.write("completion", "Completion at a cursor", [
        f"{engine.checkpoint.name}, {engine.compute}, {way}. {READ} tokens on the left read, a line typed since, {GIVEN} tokens "
        f"on the right. Goal, P50 to {WRITTEN} tokens under {GOAL * 1000:g} ms: {goal}.", "", *tables, "",
        "Exact match on HumanEval-Infilling, a drawn sample:", "", *exact,
    ])  # fmt: skip


if __name__ == "__main__":
    main()
