"""Live translation of held-out rows of python-docs-fr, a word at a time: quality, lag, flicker and work of four policies.

    python benchmarks/live_translate.py [--model default] [--adapter FOLDER] [--count 12] [--policies revise,agreement,...]
                                        [--retract 0.15] [--pace 0.4] [--compute auto] [--seed 0] [--rule agreement] [--k 3]

Rows are held out by source file, as in training; those of 5 to 40 words, without markup. --retract: the chance at a
word that the last 1 to 3 words are misheard first and taken back by the next hypothesis. --pace: seconds a word, for
computation-aware lag. All policies have the same weights, and all keep what they have read (`live/policies.py`).

Needs MEZZOTINT_DATA and mezzotint[train,translate]. Writes benchmarks/results/YYYY-MM-DD-live-translate.md.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Sequence

import report

import mezzotint as mz
from mezzotint.live.latency import (
    average_lagging,
    aware,
    delays,
    differentiable,
    length_adaptive,
    normalised_erasure,
    quality,
)
from mezzotint.live.pairs import LONGEST, NAME, pairs
from mezzotint.live.policies import POLICIES, Followed, follow, following
from mezzotint.live.translate import Live

SHORTEST = 5  # words


def texts_of(count: int, seed: int) -> list[tuple[str, str]]:
    """Held-out English and French rows in a drawn order. Raises ValueError without the file, and for too few rows."""
    found = sorted({english: french for english, french in pairs(held=True) if long_enough(english, french)}.items())
    if len(found) < count:
        raise ValueError(f"{NAME} has {len(found)} held-out rows that fit; {count} are wanted")
    return random.Random(seed).sample(found, count)


def long_enough(*texts: str) -> bool:
    return all(SHORTEST <= len(text.split()) <= LONGEST for text in texts)


def heard(text: str, chance: float, draw: random.Random) -> list[str]:
    """The source after each word; some words are misheard, as others of the same text, before they are heard."""
    words, said = text.split(), list[str]()
    for n in range(1, len(words) + 1):
        if draw.random() < chance and n < len(words):
            wrong = min(n, draw.randint(1, 3))
            said.append(" ".join([*words[: n - wrong], *draw.choices(words, k=wrong)]))
        said.append(" ".join(words[:n]))
    return said


def row(name: str, made: Sequence[Followed], texts: Sequence[tuple[str, str]], pace: float) -> list[object]:
    """What a policy is worth, means over sentences (calls, positions and seconds: over updates)."""
    worth = quality([one.text for one in made], [target for _, target in texts])
    lengths = [(len(source.split()), len(target.split())) for source, target in texts]

    def mean(of: Sequence[float]) -> float:
        return statistics.fmean(of) if of else float("nan")

    spoken = [
        (delays(one.steps), aware(one.steps, pace), x, y)
        for one, (x, y) in zip(made, lengths, strict=True)
        if one.text.strip()
    ]
    updates = [update for one in made for update in one.updates]
    return [
        name, worth["chrF"], worth["BLEU"], mean([average_lagging(d, x, y) for d, _, x, y in spoken]),
        mean([length_adaptive(d, x, y) for d, _, x, y in spoken]), mean([differentiable(d, x) for d, _, x, _ in spoken]),
        mean([length_adaptive(a, x, y) for _, a, x, y in spoken]),
        mean([normalised_erasure([step.shown for step in one.steps]) for one in made if one.text]),
        mean([u.calls for u in updates]), mean([u.positions for u in updates]), mean([u.seconds for u in updates]), len(made),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--adapter")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--rule", default="agreement")
    parser.add_argument("--max-erasure", type=float)
    parser.add_argument("--k", type=int, default=3)
    parser.add_argument("--retract", type=float, default=0.15)
    parser.add_argument("--pace", type=float, default=0.4)
    parser.add_argument("--compute", default="auto", choices=("auto", "float32", "int8"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    names = args.policies.split(",")
    if wrong := [name for name in names if name not in POLICIES]:
        parser.error(f"--policies: {', '.join(wrong)}; allowed: {', '.join(POLICIES)}")
    if args.count < 1 or not 0 <= args.retract <= 1 or not args.pace > 0:
        parser.error("--count is at least 1, --retract lies between 0 and 1, --pace is more than 0")
    texts = texts_of(args.count, args.seed)
    quality(["a"], ["a"])  # is it there? Better asked before an hour of work
    engine = mz.Engine(mz.load(args.model, args.adapter), compute=args.compute)
    live = Live(rule=args.rule, max_erasure=args.max_erasure)
    made: dict[str, list[Followed]] = {name: [] for name in names}
    for number, (source, _) in enumerate(texts):
        said = heard(source, args.retract, random.Random(f"{args.seed} {number}"))
        for name in random.Random(number).sample(names, len(names)):
            made[name].append(follow(following(name, engine, live, args.k), said))
        print(f"{number + 1} of {args.count}", file=sys.stderr, flush=True)
    rows = [row(name, made[name], texts, args.pace) for name in names]
    lines = report.table(
        ["policy", "chrF", "BLEU", "AL", "LAAL", "DAL", "LAAL, computation-aware", "erasure", "calls an update",
         "positions an update", "seconds an update", "sentences"], rows,
    )  # fmt: skip
    same = ""
    if {"revise", "agreement"} <= set(names):
        equal = sum(a.text == b.text for a, b in zip(made["revise"], made["agreement"], strict=True))
        same = f" revise and agreement wrote the same text in {equal} of {args.count}."
    report.write("live-translate", "Live translation, by policy", [
        f"{engine.checkpoint.name}, {engine.compute}; English to French, {args.count} held-out sentences of {NAME}, a word an "
        f"update, misheard at {args.retract:.0%} of the words. Lag in source words, one every {args.pace:g} s where computation "
        f"counts; erasure in characters; calls and positions with reading.{same}", "", *lines,
    ])  # fmt: skip


if __name__ == "__main__":
    main()
