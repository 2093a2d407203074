"""Guidance: does a stronger condition give more of what it asks for? Digits by class, sentences by label and by embedding.

    python benchmarks/guidance.py                     train the four networks where they are missing, sample, judge, draw
    python benchmarks/guidance.py --count 20          the same with few samples, to see that it runs

Networks are kept in `--networks` (build/guidance), and each point beside the network it was sampled from, so that a run
that was stopped goes on. `--noise` does one noise alone, without a report. What judges has seen real digits and sentences
only. Writes benchmarks/results/YYYY-MM-DD-guidance.md, docs/images/guidance.svg and docs/images/digits-by-strength.svg.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import report
import torch
from matplotlib import pyplot as plt

import mezzotint as mz
from mezzotint.checkpoints.files import sha256
from mezzotint.model.condition import Condition
from mezzotint.recipes import digits, templates
from mezzotint.sampler.decoding import Decoding, ancestral
from mezzotint.train.trainer import Progress

STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0)
NOISE = ("absorbing", "uniform")
IMAGES = report.ROOT / "docs" / "images"
PAPER, INK, COLOURS = "#f6f3ec", "#1d1b18", {"absorbing": "#23547a", "uniform": "#a8552a"}


class Point(NamedTuple):
    """Samples that the judge gives the class asked for, of `count`."""

    right: int
    count: int

    @property
    def share(self) -> float:
        return self.right / self.count

    @property
    def error(self) -> float:
        return (self.share * (1 - self.share) / self.count) ** 0.5


Curve = dict[float, Point]


def told(progress: Progress) -> None:
    if progress.step % 100 == 0:
        print(f"step {progress.step}, loss {progress.loss:.3f}, {progress.seconds:.0f} s", flush=True)


def engine(task: str, noise: str, folder: Path, steps: int, train: Callable[[], mz.Checkpoint]) -> mz.Engine:
    """The network of that name, trained first if it is not in the folder."""
    path = folder / f"{task}-{noise}"
    if not path.is_dir():
        print(f"training {path.name}, {steps} steps", flush=True)
        train().save(path)
    return mz.Engine(mz.load(path))


def write(engine: mz.Engine, conditions: list[Condition], strength: float, steps: int) -> list[mz.Reply]:
    """One text a condition, by the ancestral sampler; text i has seed i at every strength."""
    policy = Decoding(ancestral(), num_steps=steps, temperature=1.0)
    ask: dict[str, Any] = {"decode": "diffusion", "policy": policy, "guidance": strength}
    requests = [mz.Request(condition=condition, seed=seed, **ask) for seed, condition in enumerate(conditions)]
    return engine.generate(requests)


def kept(engine: mz.Engine, what: str, count: int, steps: int, sample: Callable[[], int]) -> Point:
    """A point from the file beside these very weights, or sampled now."""
    path = engine.checkpoint.source / "points.json"
    points = json.loads(path.read_text()) if path.exists() else {}
    key = f"{what}, {count} samples, {steps} steps, {sha256(engine.checkpoint.source / 'model.safetensors')[:12]}"
    if key not in points:
        points[key] = sample()
        path.write_text(json.dumps(points, indent=1))
    print(f"{engine.checkpoint.name}: {key}: {points[key]} right", flush=True)
    return Point(points[key], count)


def sweep(engine: mz.Engine, classes: int, judge: Callable[[list[mz.Reply]], list[int]], args: Any) -> Curve:
    labels = [index % classes for index in range(args.count)]

    def sample(strength: float) -> int:
        replies = write(engine, [Condition(class_label=c) for c in labels], strength, args.steps)
        return sum(a == b for a, b in zip(judge(replies), labels, strict=True))

    return {s: kept(engine, f"class at {s:g}", args.count, args.steps, partial(sample, s)) for s in STRENGTHS}


def rises(curve: Curve) -> tuple[float, float]:
    """Points between the ends, and the largest fall from a strength to the next, in standard errors (negative: none falls)."""
    falls = [(a.share - b.share) / max((a.error**2 + b.error**2) ** 0.5, 1e-9) for a, b in pairwise(curve.values())]
    return 100 * (curve[STRENGTHS[-1]].share - curve[STRENGTHS[0]].share), max(falls)


# -- judges ---------------------------------------------------------------------------------------------------------


def digit_judge(train: digits.Pictures, out: digits.Pictures) -> tuple[Callable[[list[mz.Reply]], list[int]], float]:
    """A support vector machine on real digits, and its accuracy on those held out."""
    from sklearn.svm import SVC

    machine = SVC(C=10).fit(train.shades.flatten(1).numpy(), train.labels.numpy())

    def judge(replies: list[mz.Reply]) -> list[int]:
        shades = digits.to_shades(torch.tensor([reply.ids for reply in replies]))
        return machine.predict(shades.flatten(1).numpy()).tolist()

    return judge, machine.score(out.shades.flatten(1).numpy(), out.labels.numpy())


def topic_judge(found: templates.Sentences) -> tuple[Callable[[list[mz.Reply]], list[int]], float]:
    """Naive Bayes on the words of real sentences with their labels, and how often it finds a held-out sentence's topic."""
    from sklearn.naive_bayes import MultinomialNB

    def counts(texts: list[str]) -> np.ndarray:
        table = np.zeros((len(texts), len(templates.WORDS)))
        for row, text in enumerate(texts):
            for word in text.split():
                table[row, templates.IDS[word]] += 1
        return table

    chance = random.Random(0)
    bayes = MultinomialNB().fit(
        counts([s.text for s in found.train]), [templates.label(s, chance) for s in found.train]
    )

    def judge(replies: list[mz.Reply]) -> list[int]:
        return bayes.predict(counts([reply.text for reply in replies])).tolist()

    held = bayes.predict(counts([s.text for s in found.held_out]))
    return judge, float(np.mean(held == [s.topic for s in found.held_out]))


def landed(engine: mz.Engine, found: templates.Sentences, count: int, strength: float, steps: int) -> int:
    """Embeddings of held-out sentences, with noise: how many texts are of the template whose centre is nearest."""
    chance, centres = random.Random(1), templates.centres(found.train)
    by_template = [[s for s in found.held_out if s.template == index] for index in range(len(templates.ALL))]
    some = [sentences for sentences in by_template if sentences]
    asked = [chance.choice(some[i % len(some)]) for i in range(count)]
    vectors = [templates.embed(sentence.text, templates.SPREAD, chance) for sentence in asked]
    replies = write(engine, [Condition(embedding=vector) for vector in vectors], strength, steps)
    hits = [
        templates.template_of(reply.text.strip()) == templates.nearest(vector, centres)
        for reply, vector in zip(replies, vectors, strict=True)
    ]
    return sum(hits)


# -- pictures -------------------------------------------------------------------------------------------------------


def draw_curves(curves: dict[tuple[str, str], Curve], path: Path) -> None:
    figure, panels = plt.subplots(1, 2, figsize=(8.4, 3.5), sharey=True, facecolor=PAPER)
    for axes, (task, title, chance) in zip(
        panels, (("digits", "digits of the class asked for", 10), ("templates", "sentences of the label's topic", 25)),
        strict=True,
    ):  # fmt: skip
        axes.set_facecolor(PAPER)
        axes.axhline(chance, color="#b8b0a0", lw=1)
        axes.text(2, chance + 1.5, "chance", ha="right", color="#8a8272", size=8)
        if task == "templates":
            fine = np.linspace(0, 2, 60)
            axes.plot(fine, [100 * templates.topic_law(g) for g in fine], color=INK, lw=1, ls="--", label="closed form")
        for noise in NOISE:
            curve = curves[task, noise]
            axes.errorbar(
                list(curve), [100 * p.share for p in curve.values()], [200 * p.error for p in curve.values()],
                color=COLOURS[noise], marker="o", ms=4, lw=1.5, capsize=2, label=f"{noise} noise",
            )  # fmt: skip
        axes.set_title(title, size=10, color=INK)
        axes.set_xlabel("strength: 0 unconditional, 1 plain", color=INK)
        axes.set_ylim(0, 103)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 0.12 + chance / 100), fontsize=8)
    panels[0].set_ylabel("per cent, two standard errors", color=INK)
    figure.tight_layout()
    figure.savefig(path, facecolor=PAPER)
    plt.close(figure)


def draw_digits(engine: mz.Engine, steps: int, path: Path) -> None:
    """Ten classes, one seed each, at every strength."""
    figure, axes = plt.subplots(figsize=(7.4, 3.9), facecolor=PAPER)
    sheet = np.full((9 * len(STRENGTHS) - 1, 9 * digits.CLASSES - 1), np.nan)
    for row, strength in enumerate(STRENGTHS):
        replies = write(engine, [Condition(class_label=c) for c in range(digits.CLASSES)], strength, steps)
        for column, shades in enumerate(digits.to_shades(torch.tensor([reply.ids for reply in replies]))):
            sheet[9 * row : 9 * row + 8, 9 * column : 9 * column + 8] = shades.numpy()
    axes.imshow(np.ma.masked_invalid(sheet), cmap="Greys", vmin=0, vmax=len(digits.SHADES) - 1, interpolation="nearest")
    axes.set_facecolor(PAPER)
    axes.set_yticks([9 * row + 3.5 for row in range(len(STRENGTHS))], [f"{s:g}" for s in STRENGTHS])
    axes.set_xticks([9 * column + 3.5 for column in range(digits.CLASSES)], [str(c) for c in range(digits.CLASSES)])
    axes.set_ylabel("strength", color=INK)
    axes.set_xlabel("class asked for", color=INK)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, facecolor=PAPER)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=500, help="samples a point")
    parser.add_argument("--embeddings", type=int, default=200, help="embeddings asked for")
    parser.add_argument("--steps", type=int, default=16, help="steps of the sampler")
    parser.add_argument("--noise", choices=NOISE, help="one noise alone")
    parser.add_argument("--digits-steps", type=int, default=2200, help="training steps of a digits network")
    parser.add_argument("--templates-steps", type=int, default=1500, help="training steps of a templates network")
    parser.add_argument("--networks", type=Path, default=report.ROOT / "build" / "guidance")
    args = parser.parse_args()

    pictures, out = digits.load_pictures()
    found = templates.sentences()
    judges = {"digits": digit_judge(pictures, out), "templates": topic_judge(found)}
    classes = {"digits": digits.CLASSES, "templates": len(templates.TOPICS)}
    curves: dict[tuple[str, str], Curve] = {}
    near: list[tuple[object, ...]] = []
    for noise in [args.noise] if args.noise else NOISE:

        def train_digits(noise: str = noise) -> mz.Checkpoint:
            return digits.checkpoint(digits.train(pictures, noise, None, args.digits_steps, report=told), noise)

        def train_templates(noise: str = noise) -> mz.Checkpoint:
            return templates.train(found, noise, None, args.templates_steps, report=told)

        engines = {
            "digits": engine("digits", noise, args.networks, args.digits_steps, train_digits),
            "templates": engine("templates", noise, args.networks, args.templates_steps, train_templates),
        }
        for task, one in engines.items():
            curves[task, noise] = sweep(one, classes[task], judges[task][0], args)
        for strength in (1.0, 2.0):
            ask = (engines["templates"], found, args.embeddings, strength, args.steps)
            point = kept(ask[0], f"embedding at {strength:g}", args.embeddings, args.steps, partial(landed, *ask))
            near.append((noise, strength, point.count, f"{100 * point.share:.1f} ± {100 * point.error:.1f}"))
        if noise == "absorbing" and not args.noise:
            draw_digits(engines["digits"], args.steps, IMAGES / "digits-by-strength.svg")
    if args.noise:
        return
    draw_curves(curves, IMAGES / "guidance.svg")

    rows = []
    for (task, noise), curve in curves.items():
        gain, fall = rises(curve)
        met = "yes" if gain >= 30 and fall <= 2 else "no"
        cells = [f"{100 * p.share:.1f} ± {100 * p.error:.1f}" for p in curve.values()]
        rows.append((task, noise, *cells, f"{gain:.1f}", f"{fall:.1f}", met))
    law = [f"{100 * templates.topic_law(g):.1f}" for g in STRENGTHS]
    rows.append(("templates", "closed form", *law, f"{float(law[-1]) - float(law[0]):.1f}", "", ""))
    held = {task: f"{100 * share:.1f}%" for task, (_, share) in judges.items()}
    embedding_table = report.table(["noise", "strength", "embeddings", "nearest template, %"], near)
    head = ["task", "noise", *(f"strength {s:g}" for s in STRENGTHS), "ends apart", "largest fall, s.e.", "met"]
    lines = [
        f"Per cent of {args.count} samples a point that the judge gives the class asked for, ± one standard error; ancestral",
        f"sampler, {args.steps} steps. Goal: no point below the one before by more than two standard errors, 30 points between",
        "the ends.",
        "",
        *report.table(head, rows),
        "",
        f"Judges have seen real data alone: a support vector machine on {len(pictures.labels)} digits",
        f"({held['digits']} of {len(out.labels)} held out), naive Bayes on {len(found.train)} sentences with their labels",
        f"({held['templates']} of the topics of {len(found.held_out)} held out). A label is the sentence's topic in",
        f"{100 * templates.HONEST:.0f}% of the training rows; the",
        "closed form is p(topic | label)^g p(topic)^(1 - g).",
        "",
        "Embeddings of held-out sentences, with noise: per cent of texts that are, word for word, a sentence of the template",
        "whose centre is nearest. Goal: 90% of 200.",
        "",
        *embedding_table,
        "",
        f"Networks: digits {args.digits_steps} steps of 32 pictures, templates {args.templates_steps} of 64 sentences, seed 0.",
    ]
    report.write("guidance", "Guidance by strength", lines)


if __name__ == "__main__":
    main()
