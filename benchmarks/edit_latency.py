"""Editing a document of 500 tokens against AR writing it again: seconds and calls at 1, 5 and 20% changed, in pairs.

    python benchmarks/edit_latency.py [--model default] [--count 10] [--tokens 500] [--ways diffusion,verified] [--compute auto]

For every document and share: errors planted in that share of the tokens, then each way and AR one after the other on the same
weights in the same engine, in an order that is drawn anew.

    edit     "Fix the errors", the text as the source; strength is the share, so that as much of it starts as noise (diffusion)
    AR       reads request and text, then writes as many tokens as the text has, one a call, whatever they are: what the model
             says is not measured here (`mezzotint eval edit` does), and it must not end early

A ratio is AR's seconds over the edit's, of one pair. Writes benchmarks/results/YYYY-MM-DD-edit-latency.md and draws
docs/images/edit-latency.svg (--picture).
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import report
import torch
from matplotlib import pyplot as plt

import mezzotint as mz
from mezzotint.draws import Draws
from mezzotint.edit.ask import Ask
from mezzotint.edit.editor import Where, edit
from mezzotint.edit.passages import follows, told
from mezzotint.eval.changes import changes
from mezzotint.eval.edit_items import REPAIR, Stock
from mezzotint.eval.edit_ways import EDITS, unable
from mezzotint.eval.planted import plant
from mezzotint.sampler.verify import Verified
from mezzotint.train.data import data_folder

SHARES = (0.01, 0.05, 0.2)
GOALS = {0.01: 8.0, 0.05: 5.0, 0.2: 2.0}  # on a CPU
PICTURE = report.ROOT / "docs" / "images" / "edit-latency.svg"
INK, PAPER, GREY = "#27343c", "#fbfaf7", "#8a949a"


@dataclass(frozen=True)
class Timed:
    """One edit and AR's rewriting of the same text. changed: share of the words that the edit changed."""

    way: str
    share: float
    seconds: float
    calls: int
    changed: float
    ar_seconds: float
    ar_calls: int

    @property
    def ratio(self) -> float:
        return self.ar_seconds / self.seconds


def documents(engine: mz.Engine, tokens: int, count: int) -> list[list[int]]:
    """Held-out prose, joined and cut to `tokens`. Raises ValueError where there is too little of it."""
    stock = Stock(engine.tokenizer, follows(engine), data_folder())
    found: list[list[int]] = []
    ids: list[int] = []
    for text in stock.prose:
        ids += engine.tokenizer.encode(text + "\n\n")
        if len(ids) >= tokens:
            found.append(ids[:tokens])
            ids = []
        if len(found) == count:
            return found
    raise ValueError(
        f"held-out prose gives {len(found)} documents of {tokens} tokens, {count} are wanted; set MEZZOTINT_DATA"
    )


def rewrite(engine: mz.Engine, text: str, tokens: int) -> tuple[float, int]:
    """Seconds, what is read first included, and calls of AR writing `tokens` tokens behind request and text."""
    prompt = told(engine, REPAIR, text) or engine.tokenizer.encode(text)
    longest = engine.denoiser.config.max_length
    if len(prompt) + tokens > longest:
        raise ValueError(f"{len(prompt)} + {tokens} tokens do not fit into {engine.checkpoint.name}'s {longest}")
    banned, calls, began = tuple(engine.stop_ids), 0, time.perf_counter()
    with torch.inference_mode():
        for frame in Verified(engine.denoiser, banned=banned).frames([prompt], tokens, Draws.of([0])):
            calls += frame.calls
    return time.perf_counter() - began, calls


def revise(engine: mz.Engine, text: str, way: str, share: float) -> tuple[float, int, float]:
    """Seconds, calls, and the share of the words that changed."""
    began = time.perf_counter()
    done = edit(engine, text, Ask(REPAIR, strength=share), Where(keep_layout=False), way)
    seconds = time.perf_counter() - began
    touched = sum(max(c.end - c.start, 1) for c in changes(text, done.after))
    return seconds, done.num_calls, touched / max(1, len(text.split()))


def measure(engine: mz.Engine, ways: list[str], rows: list[list[int]], shares: list[float]) -> list[Timed]:
    pool, found = [token for row in rows for token in row], list[Timed]()
    for number, row in enumerate(rows):
        for share in shares:
            _, spoiled, _, _ = plant([row], share, pool, number)
            text = engine.tokenizer.decode(spoiled[0].tolist())
            for way in random.Random(f"{number} {share}").sample(ways, len(ways)):
                pair = {}
                for which in random.Random(f"{number} {share} {way}").sample(["edit", "ar"], 2):
                    pair[which] = (
                        revise(engine, text, way, share) if which == "edit" else rewrite(engine, text, len(row))
                    )
                found.append(Timed(way, share, *pair["edit"], *pair["ar"]))  # type: ignore[arg-type]  # by its kind
                print(f"{number + 1} of {len(rows)}, {share:.0%}, {way}: {found[-1].ratio:.2f}x", flush=True)
    return found


def spread(values: list[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return statistics.fmean(values), error


def lines(found: list[Timed]) -> list[str]:
    rows = []
    for way in dict.fromkeys(t.way for t in found):
        for share in dict.fromkeys(t.share for t in found):
            some = [t for t in found if (t.way, t.share) == (way, share)]
            ratio, error = spread([t.ratio for t in some])
            seconds, ar = (statistics.median(getattr(t, name) for t in some) for name in ("seconds", "ar_seconds"))
            calls, ar_calls = (statistics.fmean(getattr(t, name) for t in some) for name in ("calls", "ar_calls"))
            changed = statistics.fmean(t.changed for t in some)
            rows.append([way, f"{share:.0%}", f"{changed:.1%}", seconds, ar, calls, ar_calls, f"{ratio:.2f} ± {error:.2f}",
                         f"{GOALS[share]:g}" if share in GOALS else "", len(some)])  # fmt: skip
    head = ["way", "errors planted", "words changed", "seconds", "AR's seconds", "calls", "AR's calls", "AR's seconds over these",
            "goal on a CPU", "pairs"]  # fmt: skip
    return report.table(head, rows)


def draw(found: list[Timed], path: Path) -> None:
    """AR's seconds over the edit's, by share: each pair a dot, the mean a line, the goals beside them."""
    matplotlib.rcParams.update(
        {"svg.hashsalt": "edit-latency", "font.size": 9, "text.color": INK, "axes.edgecolor": INK}
    )
    figure, axes = plt.subplots(figsize=(5.6, 3.4), facecolor=PAPER, layout="constrained")
    axes.set_facecolor(PAPER)
    shares = sorted({t.share for t in found})
    at = {share: i for i, share in enumerate(shares)}
    for way, colour in zip(
        dict.fromkeys(t.way for t in found), ("#1f6f8b", "#b4552d", "#5b7b3a", "#77538a"), strict=False
    ):
        some = [t for t in found if t.way == way]
        axes.scatter([at[t.share] for t in some], [t.ratio for t in some], s=12, color=colour, alpha=0.5, linewidths=0)
        means = [statistics.fmean(t.ratio for t in some if t.share == share) for share in shares]
        axes.plot(range(len(shares)), means, color=colour, linewidth=1.6)
        axes.annotate(way, (len(shares) - 1, means[-1]), (6, 0), textcoords="offset points", color=colour, va="center")
    known = [share for share in shares if share in GOALS]
    axes.scatter([at[s] for s in known], [GOALS[s] for s in known], marker="_", s=300, color=GREY, zorder=0)
    if known:
        axes.annotate(
            "goal", (at[known[0]], GOALS[known[0]]), (0, 4), textcoords="offset points", color=GREY, ha="center"
        )
    axes.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_yscale("log")
    axes.set_xticks(range(len(shares)), [f"{share:.0%}" for share in shares])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.yaxis.set_minor_formatter(lambda value, _: "")
    axes.set(xlabel="errors planted", ylabel="AR's seconds over the edit's", xlim=(-0.4, len(shares) - 0.1))
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--adapter")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=500)
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    parser.add_argument("--ways", help="separated by commas; else those of diffusion and verified that the model can")
    parser.add_argument("--compute", default="auto", choices=("auto", "float32", "int8"))
    parser.add_argument("--picture", type=Path, default=PICTURE)
    args = parser.parse_args()
    engine = mz.Engine(mz.load(args.model, args.adapter), compute=args.compute)
    named = args.ways.split(",") if args.ways else [w for w in ("diffusion", "verified") if not unable(engine, w)]
    if wrong := [
        f"{way} ({unable(engine, way) or 'unknown'})" for way in named if way not in EDITS or unable(engine, way)
    ]:
        parser.error(f"--ways: {', '.join(wrong)}")
    if args.count < 1 or args.tokens < 8 or not all(0 < share <= 1 for share in args.shares):
        parser.error("--count is at least 1, --tokens at least 8, and a share lies above 0 and up to 1")
    rows = documents(engine, args.tokens, args.count)
    rewrite(engine, engine.tokenizer.decode(rows[0][:8]), 2)  # the first call of a process is slower
    found = measure(engine, named, rows, args.shares)
    draw(found, args.picture)
    report.write("edit-latency", f"Editing {args.tokens} tokens against writing them again", [
        f"{engine.checkpoint.name}, {engine.compute}; {args.count} held-out documents; pairs in one run, their order drawn. "
        "Medians of seconds, means of the rest, ± standard error over documents.", "", *lines(found),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
