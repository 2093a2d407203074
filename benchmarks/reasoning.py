"""Non-causal reasoning: three kinds of puzzle, three networks of one shape and budget, and the orders they fill blanks in.

    python benchmarks/reasoning.py                 train each arm, test on 500 puzzles a task, draw the orders
    python benchmarks/reasoning.py --steps 50      the same in a minute, to see that it runs

Writes benchmarks/results/YYYY-MM-DD-reasoning.md and docs/images/reasoning-order.svg. What is trained, and what each arm
may see, is told in mezzotint/recipes/reasoning.py.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import matplotlib
import report
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from scipy.stats import binomtest

from mezzotint.recipes.reasoning import (
    ARMS,
    CONFIG,
    DIGITS,
    GRIDS,
    TASKS,
    VOCABULARY,
    Puzzles,
    Solved,
    for_testing,
    laid_out,
    near,
    puzzles,
    right,
    solve,
    train,
)
from mezzotint.sampler.decoding import Decoding, above, left_to_right, top
from mezzotint.train.trainer import Progress

PICTURE = report.ROOT / "docs" / "images" / "reasoning-order.svg"
ORDERS = {"left to right": left_to_right(), "by confidence": top()}  # one blank a call
WAYS = {
    ("ar", "left to right"): None,
    ("ar puzzle first", "left to right"): None,
    **{("diffusion", name): Decoding(rule, num_steps=16) for name, rule in ORDERS.items()},
    ("diffusion", "all above 0.9"): Decoding(above(0.9), num_steps=16),
    ("diffusion", "all above 0.5"): Decoding(above(0.5), num_steps=16),
    ("diffusion", "by confidence in 4 calls"): Decoding(top(), num_steps=4),
    ("diffusion", "all at once"): Decoding(top(), num_steps=1),
}  # fmt: skip
PAPER, INK, GIVEN, WRONG = "#f6f3ec", "#1d1b18", "#e4ded1", "#b3261e"


class Outcome(NamedTuple):
    asked: Puzzles
    found: Solved
    right: torch.Tensor


def percent(right_rows: torch.Tensor) -> str:
    """`84.2 (80.7-87.1)`: per cent and the 95% Wilson interval."""
    share = binomtest(int(right_rows.sum()), len(right_rows)).proportion_ci(method="wilson")
    return f"{100 * float(right_rows.float().mean()):.1f} ({100 * share.low:.1f}-{100 * share.high:.1f})"


def train_arms(steps: int, rows: int, seed: int) -> tuple[dict[str, torch.nn.Module], list[tuple[object, ...]]]:
    networks, told = {}, []
    for arm in ARMS:
        losses: list[float] = []

        def note(progress: Progress, arm: str = arm, losses: list[float] = losses) -> None:
            losses.append(progress.loss)
            if len(losses) % 200 == 0:
                print(f"{arm}: step {len(losses)}, loss {sum(losses[-200:]) / 200:.4f}", flush=True)

        began = time.perf_counter()
        networks[arm] = train(arm, steps, seed, rows, note)
        length = laid_out(arm, puzzles(("clue",), 1, 0, False)).tokens.shape[1]
        last = losses[-max(1, steps // 20) :]
        minutes = (time.perf_counter() - began) / 60
        told.append((arm, steps, steps * rows, steps * rows * length, sum(last) / len(last), f"{minutes:.1f}"))
    return networks, told


def possible(outcome: Outcome) -> list[float]:
    """Per cent of sudoku blanks for which 0, 1, 2, 3, 4 digits were still possible, by row, column and box, when filled."""
    counts = [0] * 5
    for ids, filled, at in zip(outcome.asked.tokens, *outcome.found[:2], strict=True):
        cells = ["?" if step >= 0 else VOCABULARY[i] for i, step in zip(ids[1:], at[1:], strict=True)]
        for cell in sorted((i for i in range(16) if cells[i] == "?"), key=at[1:].tolist().__getitem__):
            counts[len(set(DIGITS) - {cells[i] for i in near(cell)})] += 1
            cells[cell] = VOCABULARY[filled[cell + 1]]
    return [100 * count / sum(counts) for count in counts]


# -- the picture ----------------------------------------------------------------------------------------------------


def cell(axes: Axes, x: float, y: float, text: str, share: float | None, step: int, wrong: bool) -> None:
    """One token: grey if given, else tinted by when it was filled (share: 0 first, 1 last), the call in its corner."""
    shade = GIVEN if share is None else matplotlib.colormaps["YlGnBu"](0.08 + 0.5 * share)
    axes.add_patch(plt.Rectangle((x, y), 1, 1, facecolor=shade, edgecolor=PAPER, linewidth=1.5))
    axes.text(x + 0.5, y + (0.5 if share is None else 0.42), text, ha="center", va="center", size=12,
              color=WRONG if wrong else INK, weight="bold" if wrong else "normal", family="DejaVu Sans Mono")  # fmt: skip
    if share is not None:
        axes.text(x + 0.9, y + 0.9, str(step + 1), ha="right", va="top", size=6.5, color=INK)
    if wrong:
        axes.add_patch(plt.Rectangle((x + 0.04, y + 0.04), 0.92, 0.92, fill=False, edgecolor=WRONG, linewidth=1.4))


def strip(axes: Axes, outcome: Outcome, row: int, columns: int, unique: bool, y: float = 0) -> None:
    """One solved puzzle in lines of `columns`; unique: a token unlike the solution's is marked as wrong."""
    ids, at = outcome.found.tokens[row, 1:].tolist(), outcome.found.accepted_at[row, 1:].tolist()
    wanted = outcome.asked.tokens[row, 1:].tolist()
    for i, (token, step) in enumerate(zip(ids, at, strict=True)):
        text = VOCABULARY[token] if len(VOCABULARY[token]) == 1 else VOCABULARY[token][:4].removesuffix("e")
        share = None if step < 0 else step / max(*at, 1)
        cell(axes, i % columns, y - i // columns, text, share, step, unique and token != wanted[i])


def example(outcomes: dict[str, Outcome]) -> int:
    """The first puzzle that only the confident order gets right; else the first of most blanks."""
    left, sure = (outcomes[name].right for name in ORDERS)
    only = (sure & ~left).nonzero()
    return int(only[0]) if len(only) else int(outcomes["by confidence"].asked.blank.sum(-1).argmax())


def draw(found: dict[str, dict[str, Outcome]], path: Path) -> None:
    """found: task -> order -> outcome, on the same puzzles."""
    matplotlib.rcParams.update({"svg.hashsalt": "reasoning", "font.size": 9, "text.color": INK, "axes.edgecolor": INK})
    figure = plt.figure(figsize=(9.2, 6.1), facecolor=PAPER)
    sudoku = found["sudoku"]
    row = example(sudoku)
    for number, (name, outcome) in enumerate(sudoku.items()):
        axes = figure.add_axes((0.03 + 0.29 * number, 0.53, 0.27, 0.41))
        strip(axes, outcome, row, 4, True, 3)
        for line in (0, 2, 4):
            axes.plot([0, 4], [line, line], color=INK, linewidth=1.4)
            axes.plot([line, line], [0, 4], color=INK, linewidth=1.4)
        axes.set(xlim=(-0.05, 4.05), ylim=(-0.05, 4.05), aspect="equal")
        axes.axis("off")
        axes.set_title(f"sudoku, {name}: {verdict(outcome, row)}", size=9)
    axes = figure.add_axes((0.70, 0.61, 0.27, 0.31), facecolor=PAPER)
    for number, (name, outcome) in enumerate(sudoku.items()):
        shares = possible(outcome)
        axes.bar(
            [x + 0.38 * number - 0.19 for x in range(5)], shares, 0.36, color=("#a59d8f", "#1d6996")[number], label=name
        )
    axes.set(xticks=range(5), ylabel="% of blanks", xlabel="digits possible when a blank is filled")
    axes.set_title(f"{len(sudoku['by confidence'].right)} sudokus", size=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    for number, task in enumerate(("brackets", "clue")):
        axes = figure.add_axes((0.03, 0.26 - 0.245 * number, 0.94, 0.22))
        row = example(found[task])
        for y, (name, outcome) in zip((1.25, 0), found[task].items(), strict=True):
            strip(axes, outcome, row, 16, task != "brackets", y)
            axes.text(-0.2, y + 0.5, name, ha="right", va="center", size=9)
            axes.text(16.2, y + 0.5, verdict(outcome, row), ha="left", va="center", size=9)
        axes.text(0, 2.4, {"brackets": "brackets", "clue": "clue to the right"}[task], size=9, va="bottom")
        axes.set(xlim=(-3.2, 17.6), ylim=(-0.05, 2.9), aspect="equal")
        axes.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, facecolor=PAPER, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=130)
    plt.close(figure)


def verdict(outcome: Outcome, row: int) -> str:
    return "right" if bool(outcome.right[row]) else "wrong"


# -- the whole ------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="training steps of each arm")
    parser.add_argument("--rows", type=int, default=96, help="puzzles a step")
    parser.add_argument("--items", type=int, default=500, help="test puzzles a task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()

    networks, told = train_arms(options.steps, options.rows, options.seed)
    outcomes: dict[tuple[str, str], dict[str, Outcome]] = defaultdict(dict)
    for task in TASKS:
        asked = puzzles((task,), options.items, f"test {options.seed}", test=True)
        for (arm, way), decoding in WAYS.items():
            found = solve(networks[arm], arm, asked, decoding)
            outcomes[arm, way][task] = Outcome(asked, found, right(task, asked, found.tokens))
            print(f"{task}, {arm}, {way}: {percent(outcomes[arm, way][task].right)}", flush=True)

    orders = {task: {name: outcomes["diffusion", name][task] for name in ORDERS} for task in TASKS}
    draw(orders, options.picture)
    cells = [
        (
            arm,
            way,
            *(
                x
                for o in outcomes[arm, way].values()
                for x in (percent(o.right), f"{float(o.found.calls.float().mean()):.1f}")
            ),
        )
        for arm, way in WAYS
    ]
    pairs = []
    for task, (left, sure) in ((task, orders[task].values()) for task in TASKS):
        gained, lost = int((sure.right & ~left.right).sum()), int((left.right & ~sure.right).sum())
        p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
        pairs.append((task, gained, lost, f"{p:.2g}"))
    report.write("reasoning", "Non-causal reasoning", [
        f"One network an arm, {sum(p.numel() for p in networks['ar'].parameters()):,} weights ({CONFIG.num_layers} layers of "
        f"{CONFIG.width}), trained on the mix of the three tasks: same shape, optimizer, steps and puzzles; nothing was tuned "
        "for one arm. The tasks and what each arm sees: `mezzotint/recipes/reasoning.py`.",
        "",
        *report.table(["arm", "steps", "puzzles", "positions", "loss of the last 5%", "minutes"], told),
        "",
        f"Whole puzzles right of {options.items} a task, per cent with 95% Wilson intervals, and calls a puzzle. A call is "
        "one forward for one puzzle; only blanks cost calls. A canvas call computes 17 positions; an AR call needs one, "
        "given a cache. No tested solution was trained on; all sudokus tested share "
        f"{sum(map(for_testing, GRIDS))} of the {len(GRIDS)} grids, so their intervals speak of new puzzles more than new grids.",
        "",
        *report.table(["arm", "order", *(x for task in TASKS for x in (task, "calls"))], cells),
        "",
        "The two orders of the diffusion weights, one blank a call, on the same puzzles (exact McNemar test):",
        "",
        *report.table(["task", "right only by confidence", "right only left to right", "p"], pairs),
        "",
        "Per cent of the sudoku blanks for which so many digits were possible, by row, column and box, when they were filled:",
        "",
        *report.table(["order", *range(5)],
                      [(name, *(f"{x:.1f}" for x in possible(o))) for name, o in orders["sudoku"].items()]),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
