"""Every policy on the tiny model: quality against tokens per call.

    python benchmarks/policies.py [--holes 200] [--texts 64] [--only NAME ...]

Two tasks on held-out documents. Holes: a third of the tokens hidden in spans, lengths given; exact match of a hole. Continuation:
the first third given, the rest written at temperature 1 (or the policy's own); nats a character under the default base's AR
likelihood (the exact bound), unigram entropy and repetition. Policies with a dial are run along it; see docs/images/policies.svg.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import report
import torch
from tiny import hash_of

import mezzotint as mz
from mezzotint.draws import Draws
from mezzotint.eval.metrics import repetition, unigram_entropy, wilson
from mezzotint.objective import autoregressive_nll
from mezzotint.recipes import tiny
from mezzotint.sampler import decoding as rules
from mezzotint.sampler.blocks import block_frames
from mezzotint.sampler.canvas import Canvas
from mezzotint.sampler.decoding import POLICIES, Decoding
from mezzotint.sampler.loop import Sampler
from mezzotint.train.corruption import pad_rows
from mezzotint.train.data import data_folder

ROWS = 50
Make = Callable[[], Decoding]

DIALS: dict[str, tuple[str, tuple[float, ...], Callable[[float], Decoding]]] = {
    "threshold": ("confidence", (0.5, 0.7, 0.9, 0.97), lambda x: Decoding(rules.above(x))),
    "factor": ("f", (0.25, 0.5, 1, 2), lambda x: Decoding(rules.factor(x))),
    "frechet": ("f", (0.25, 0.5, 1, 2), lambda x: Decoding(rules.frechet(x))),
    "entropy": ("nats", (0.02, 0.1, 0.5, 2), lambda x: Decoding(rules.entropy_bound(x))),
    "top": ("steps", (4, 8, 16, 32), lambda x: Decoding(rules.top(), num_steps=int(x))),
    "left-to-right": ("tokens", (1, 2, 4, 8), lambda x: Decoding(rules.left_to_right(int(x)), num_steps=64)),
}


class Variant(NamedTuple):
    policy: str
    dial: str
    decoding: Decoding


def variants(only: list[str]) -> list[Variant]:
    found = []
    for name, policy in POLICIES.items():
        if only and name not in only:
            continue
        if name in DIALS:
            unit, values, make = DIALS[name]
            found += [Variant(name, f"{unit} {x:g}", make(x)) for x in values]
        else:
            found.append(Variant(name, "", policy()))
    return found


def spans(row: list[int], r: random.Random) -> list[tuple[int, int]]:
    """Holes of 1 to 6 tokens that hide about a third of the row, at least one token apart."""
    found: list[tuple[int, int]] = []
    at = 1 + r.randint(0, 6)
    while at < len(row) - 1:
        length = min(r.randint(1, 6), len(row) - 1 - at)
        found.append((at, length))
        at += length + r.randint(4, 10)
    return found


def fill_holes(
    checkpoint: mz.Checkpoint, denoiser: mz.Denoiser, rows: list[list[int]], decoding: Decoding
) -> list[float]:
    """Exact matches, holes, right tokens, hidden tokens, calls."""
    r = random.Random(3)
    banned = tuple(sorted(checkpoint.tokenizer.specials.values()))
    end = checkpoint.tokenizer.specials[tiny.END]
    totals = [0.0] * 5
    for first in range(0, len(rows), ROWS):
        some = rows[first : first + ROWS]
        holes = [spans(row, r) for row in some]
        tokens, valid = pad_rows(some, end)
        hidden = torch.zeros_like(valid)
        for i, where in enumerate(holes):
            for start, length in where:
                hidden[i, start : start + length] = True
        # as many steps as a canvas of the policy's own length would have for so many places
        most = int(hidden.sum(-1).max())
        steps = max(decoding.num_steps, -(-decoding.num_steps * most // decoding.canvas_length))
        sampler = Sampler(denoiser, checkpoint.process, replace(decoding, num_steps=steps), banned)
        draws = Draws.of(list(range(len(some))))
        starts = torch.zeros(len(some), dtype=torch.int64)
        canvas = Canvas.blank(checkpoint.process, starts, tokens.shape[1], draws, torch.where(hidden, -1, tokens))
        canvas.valid = valid
        passes = 2 if "shadow" in decoding.needs else 1  # canvas and shadows share the scratch
        cache = denoiser.new_cache(len(some), passes * tokens.shape[1])
        for step in sampler.steps(canvas, cache, draws):
            totals[4] += int(step.running.sum())
        same = canvas.tokens == tokens
        for i, where in enumerate(holes):
            totals[0] += sum(bool(same[i, s : s + n].all()) for s, n in where)
            totals[1] += len(where)
        totals[2] += int((same & hidden).sum())
        totals[3] += int(hidden.sum())
    return totals


def continuations(
    checkpoint: mz.Checkpoint, denoiser: mz.Denoiser, rows: list[list[int]], decoding: Decoding
) -> tuple[list[list[int]], float]:
    """What follows the first third of each row, and tokens a call (commits counted)."""
    end = checkpoint.tokenizer.specials[tiny.END]
    controls = tuple(checkpoint.facts.control_ids.values())
    if decoding.temperature == 0.0:
        decoding = replace(decoding, temperature=1.0)
    sampler = Sampler(denoiser, checkpoint.process, decoding, controls)
    prompts = [row[: len(row) // 3] for row in rows]
    out: list[list[int]] = [[] for _ in rows]
    calls = 0
    most = tiny.LENGTH - max(map(len, prompts))
    for frame in block_frames(
        sampler, denoiser, prompts, most, Draws.of(list(range(len(rows)))), stop_ids=frozenset({end})
    ):
        out[frame.row] += frame.tokens[: frame.committed]
        calls += frame.calls
    return [text[:-1] if text and text[-1] == end else text for text in out], sum(map(len, out)) / calls


def base_nats(base: mz.Checkpoint, denoiser: mz.Denoiser, prompts: list[str], texts: list[str]) -> float:
    """Nats a character of the continuations under the base's causal pass, given the prompts."""
    nats, characters = 0.0, 0
    for prompt, text in zip(prompts, texts, strict=True):
        if not text:
            continue
        start = base.tokenizer.encode(prompt)
        ids = torch.tensor([[*start, *base.tokenizer.encode(text)]])
        nats += float(autoregressive_nll(denoiser, ids)[0, len(start) - 1 :].sum())
        characters += len(text)
    return nats / max(characters, 1)


def draw(rows: list[list[object]], path: str) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), constrained_layout=True)
    names = list(dict.fromkeys(str(row[0]) for row in rows))
    colours = plt.get_cmap("tab20")
    markers = "os^Dv<>Ph*XpdH8"
    for axis, (x, y, label) in zip(
        axes, ((4, 2, "exact match of a hole"), (6, 7, "nats a character under the base")), strict=True
    ):
        for number, name in enumerate(names):
            points = sorted((float(row[x]), float(row[y])) for row in rows if row[0] == name)  # type: ignore[arg-type]
            style = "-" if len(points) > 1 else ""
            axis.plot(
                *zip(*points, strict=True), style, marker=markers[number % len(markers)], markersize=5, linewidth=1.2,
                color=colours(number % 20), label=name,
            )  # fmt: skip
        axis.set_xlabel("tokens a call")
        axis.set_ylabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_title("holes: a third of the text hidden", fontsize=10)
    axes[1].set_title("continuation, temperature 1 (lower is likelier)", fontsize=10)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--holes", type=int, default=200)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--only", nargs="*", default=[])
    args = parser.parse_args()
    checkpoint, base = mz.load(args.model), mz.load("default")
    order = sorted(tiny.documents(data_folder()).held_out, key=lambda document: hash_of(document.text))
    documents = tiny.tokenise(order, checkpoint.tokenizer)
    rows: list[list[object]] = []
    with torch.inference_mode():
        denoiser, judge = checkpoint.denoiser(), base.denoiser()
        decode = checkpoint.tokenizer.decode
        some = [row for row in documents[: args.texts] if len(row) >= 12]
        prompts = [decode(row[: len(row) // 3]) for row in some]

        def quality(texts: list[list[int]]) -> list[object]:
            nats = base_nats(base, judge, prompts, [decode(text) for text in texts])
            entropy = sum(map(unigram_entropy, texts)) / len(texts)
            return [nats, entropy, sum(map(repetition, texts)) / len(texts)]

        truth = [[t for t in row[len(row) // 3 :] if t not in checkpoint.tokenizer.specials.values()] for row in some]
        reference = quality(truth)
        for policy, dial, decoding in variants(args.only):
            hits, holes, right, hidden, calls = fill_holes(checkpoint, denoiser, documents[: args.holes], decoding)
            low, high = wilson(int(hits), int(holes))
            texts, speed = continuations(checkpoint, denoiser, some, decoding)
            rows.append(
                [
                    policy,
                    dial,
                    hits / holes,
                    f"{low:.3f} to {high:.3f}",
                    hidden / calls,
                    right / hidden,
                    speed,
                    *quality(texts),
                ]
            )
            print(*rows[-1], flush=True)
    head = [
        "policy", "dial", "holes: exact match", "95% interval", "tokens a call", "right tokens", "continuation: tokens a call",
        "nats a character under the base", "unigram entropy", "4-grams repeated",
    ]  # fmt: skip
    path = report.ROOT / "docs" / "images" / "policies.svg"
    if not args.only:
        draw(rows, str(path))
    lines = [
        f"{args.holes} documents with holes, {len(some)} continued; all held out by source. The text itself: "
        f"{reference[0]:.3f} nats a character, unigram entropy {reference[1]:.3f}, 4-grams repeated {reference[2]:.3f}.", "",
        *report.table(head, rows), "", "Drawn in docs/images/policies.svg.", "",
    ]  # fmt: skip
    report.write("policies" if not args.only else "policies-some", "Policies on the tiny model", lines)


if __name__ == "__main__":
    main()
