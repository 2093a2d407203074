"""Adaptive compute: calls spent on a block against the entropy of its text, for every stop rule.

    python benchmarks/adaptive.py [--documents 150]

Every block of 16 tokens of a held-out document is decoded from noise, the true text before it read. Its entropy is the mean
entropy, nats a token, that the same weights' causal pass has along the true text: how open the text is. A policy that spends
fewer steps where the text is easy shows a rising curve; fixed steps show a flat one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import report
import torch
from tiny import hash_of

import mezzotint as mz
from mezzotint.draws import Draws
from mezzotint.recipes import tiny
from mezzotint.sampler.canvas import Canvas
from mezzotint.sampler.decoding import (
    Decoding,
    Rule,
    above,
    all_accepted,
    changed_mind,
    edits_settled,
    entropy_bound_everywhere,
    last_step,
    mean_entropy,
    stable,
    the_others,
    top,
)  # fmt: skip
from mezzotint.sampler.loop import Sampler
from mezzotint.train.data import data_folder

SIZE = 16
BINS = 6


def looking_back(stop: Rule) -> Decoding:
    """A loop that decides every position anew each step, so that only the stop rule ends it."""
    return Decoding(entropy_bound_everywhere(0.1), the_others(), stop, num_steps=32, canvas_length=SIZE)


STOPS: dict[str, Callable[[], Decoding]] = {
    "last step": lambda: Decoding(top(), stop=last_step(), num_steps=16, canvas_length=SIZE),
    "all accepted (threshold 0.9)": lambda: Decoding(above(0.9), stop=all_accepted(), canvas_length=SIZE),
    "edits settled (threshold 0.7, edits 0.5)": lambda: Decoding(
        above(0.7) | changed_mind(0.5), stop=edits_settled(16), num_steps=48, canvas_length=SIZE
    ),
    "stable": lambda: looking_back(stable()),
    "stable twice": lambda: looking_back(stable(2)),
    "mean entropy 0.1": lambda: looking_back(mean_entropy(0.1)),
    "stable and mean entropy 0.1": lambda: looking_back(stable() & mean_entropy(0.1)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--documents", type=int, default=150)
    args = parser.parse_args()
    checkpoint = mz.load(args.model)
    order = sorted(tiny.documents(data_folder()).held_out, key=lambda document: hash_of(document.text))
    rows = [row for row in tiny.tokenise(order, checkpoint.tokenizer) if len(row) > SIZE][: args.documents]
    banned = tuple(checkpoint.facts.control_ids.values())
    entropy: list[float] = []
    calls: dict[str, list[int]] = {name: [] for name in STOPS}
    right: dict[str, list[float]] = {name: [] for name in STOPS}
    with torch.inference_mode():
        denoiser = checkpoint.denoiser()
        samplers = {name: Sampler(denoiser, checkpoint.process, make(), banned) for name, make in STOPS.items()}
        for number, row in enumerate(rows):
            cache = denoiser.new_cache(1, len(row) + SIZE)
            logits = denoiser.read(torch.tensor([row]), torch.tensor([len(row)]), cache, every=True).logits
            law = logits.double().softmax(-1)
            spread = -torch.xlogy(law, law).sum(-1)[0]  # entry i is about token i + 1
            for start in range(1, len(row) - SIZE + 1, SIZE):
                entropy.append(float(spread[start - 1 : start - 1 + SIZE].mean()))
                before = cache.fork([0], length=start)
                truth = torch.tensor(row[start : start + SIZE])
                for name, sampler in samplers.items():
                    draws = Draws.of(number).at(block=start)
                    canvas = Canvas.blank(checkpoint.process, torch.tensor([start]), SIZE, draws)
                    calls[name].append(sum(1 for _ in sampler.steps(canvas, before, draws)))
                    right[name].append(float((canvas.tokens[0] == truth).double().mean()))
    spreads = torch.tensor(entropy, dtype=torch.float64)
    edges = torch.quantile(spreads, torch.linspace(0, 1, BINS + 1, dtype=torch.float64))
    bins = torch.bucketize(spreads, edges[1:-1])
    middles = [float(spreads[bins == i].mean()) for i in range(BINS)]
    table, curves = [], {}
    for name in STOPS:
        spent = torch.tensor(calls[name], dtype=torch.float64)
        curves[name] = [
            (float(spent[bins == i].mean()), float(spent[bins == i].std()) / int((bins == i).sum()) ** 0.5)
            for i in range(BINS)
        ]
        varied = float(torch.corrcoef(torch.stack((spreads, spent)))[0, 1]) if spent.std() > 0 else 0.0
        table.append([name, *(f"{mean:.1f}" for mean, _ in curves[name]), varied, sum(right[name]) / len(right[name])])
    path = report.ROOT / "docs" / "images" / "adaptive.svg"
    draw(middles, curves, str(path))
    head = ["stop rule", *(f"{m:.2f} nats" for m in middles), "correlation", "right tokens"]
    report.write(
        "adaptive", "Calls a block against the entropy of its text",
        [f"{len(entropy)} blocks of {SIZE} tokens of {len(rows)} held-out documents, in {BINS} equal groups by entropy.", "",
         *report.table(head, table), "", "Drawn in docs/images/adaptive.svg.", ""],
    )  # fmt: skip


def draw(middles: list[float], curves: dict[str, list[tuple[float, float]]], path: str) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.5, 4.4), constrained_layout=True)
    for marker, (name, points) in zip("os^Dv*P", curves.items(), strict=True):
        axis.errorbar(
            middles, [m for m, _ in points], [1.96 * e for _, e in points], marker=marker, capsize=2, label=name
        )
    axis.set_xlabel("entropy of the block's text, nats a token")
    axis.set_ylabel(f"calls a block of {SIZE}")
    axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
