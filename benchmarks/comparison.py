"""One text, one network shape, one budget: AR, block diffusion 4, 8, 16, masked, hybrid and uniform noise, in nats a character.

    python benchmarks/comparison.py [--positions 1000000] [--seeds 3] [--runs FILE]

Every arm minimises what it is measured by: AR its likelihood, each diffusion arm the integrand of its own bound (MDLM's,
BD3-LM's, GIDD's, UDLM's: `NoiseProcess.nelbo`), levels even over [0.001, 1]. All else is one for all: network, optimizer, rate,
windows of text, number of computed positions. A block arm computes every window twice, canvas and clean text, so it reads half
as much text; positions, not minutes, are counted because the machine may be busy. No arm is tuned by itself.

--runs: JSON lines, one a finished run; runs found there are not repeated. Needs MEZZOTINT_DATA: the Python documentation.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from math import log, nan
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import report
import torch
from torch import Tensor

from mezzotint.draws import Draws
from mezzotint.model.config import ModelConfig
from mezzotint.model.denoiser import Denoiser
from mezzotint.model.visibility import CANVAS, Places, context_causal, two_stream_places
from mezzotint.noise import Absorbing, NoiseProcess, Uniform, gidd
from mezzotint.objective import (
    autoregressive_nll,
    by_count,
    by_level,
    legal,
    levels,
    likelihood,
    two_stream,
    whole_text,
)
from mezzotint.shapes import Tokens
from mezzotint.train.corruption import causal_batch
from mezzotint.train.data import data_folder, held_out, read_rows
from mezzotint.train.trainer import Batch, Batches, Optimizer, Recipe, Trainer, by_rows, initialise, loss_of

LENGTH = 128  # characters of a window; the first is given in every arm
ROWS = 16  # windows a step; half of that in two streams
HELD_OUT = 0.1  # of the pages
LOWEST = 1e-3  # level seen in training
Loss = Callable[[Denoiser, Batch], Tensor]


class Arm(NamedTuple):
    """noise: of the vocabulary's size; None is AR. size: of a block, None for one canvas a window."""

    noise: Callable[[int], NoiseProcess] | None
    size: int | None = None


def masked(characters: int) -> NoiseProcess:
    return Absorbing(characters, characters + 1)


def hybrid(characters: int) -> NoiseProcess:
    return gidd(characters, range(characters), characters + 1, 0.1)


def uniform(characters: int) -> NoiseProcess:
    return Uniform(characters, characters + 1)


ARMS = {
    "AR": Arm(None),
    "block 4": Arm(masked, 4),
    "block 8": Arm(masked, 8),
    "block 16": Arm(masked, 16),
    "masked": Arm(masked),
    "hybrid": Arm(hybrid),
    "uniform": Arm(uniform),
}
# OpenWebText perplexities: AR, blocks, masked of BD3-LM (arXiv 2503.09573); uniform of UDLM in Duo (2506.10892); hybrid of GIDD
# (2503.04482), whose own masked twin has 23.05
PUBLISHED = {
    "AR": 17.54, "block 4": 20.73, "block 8": 21.68, "block 16": 22.27, "masked": 22.98, "hybrid": 22.98 * 23.67 / 23.05,
    "uniform": 27.4,
}  # fmt: skip


class Text(NamedTuple):
    """One string of ids each; `characters` in the order of their ids."""

    train: Tensor
    held_out: Tensor
    characters: str


def read_text() -> Text:
    """The Python documentation, ASCII characters alone, pages split by a hash of their name."""
    folder = data_folder()
    if folder is None:
        raise SystemExit("set MEZZOTINT_DATA to the training folder")
    rows = [row for row in read_rows(folder / "docs-corpus.jsonl.zst") if row["licence"].startswith("PSF")]
    sides = ["\n".join(r["text"] for r in rows if held_out(r["source"], HELD_OUT) == side) for side in (False, True)]
    sides = [side.encode("ascii", "ignore").decode() for side in sides]
    characters = "".join(sorted(set("".join(sides))))
    index = {c: i for i, c in enumerate(characters)}
    train, test = (torch.tensor([index[c] for c in side]) for side in sides)
    return Text(train, test, characters)


def windows(text: Tensor, count: int, generator: torch.Generator) -> Tokens:
    start = torch.randint(len(text) - LENGTH + 1, (count, 1), generator=generator)
    return text[start + torch.arange(LENGTH)]


def batches_of(arm: Arm, process: NoiseProcess | None, text: Tensor, seed: int) -> Batches:
    """The weight of a noisy position is its level, which the bound needs; 0 where nothing is learnt."""

    def batch(step: int) -> Batch:
        clean = windows(text, ROWS // 2 if arm.size else ROWS, torch.Generator().manual_seed((seed << 32) + step))
        if process is None:
            return causal_batch(clean, torch.ones_like(clean, dtype=torch.bool))
        count, size = len(clean), arm.size or LENGTH
        u = levels(Draws.of(seed).at(step=step), count, LENGTH // size)[0].repeat_interleave(size, 1)
        t = LOWEST + (1 - LOWEST) * u
        scored = (torch.arange(LENGTH) > 0).expand_as(clean)
        noisy = process.corrupt(clean, t, scored, Draws.of(seed, count).at(step=step))
        if arm.size is None:
            position = torch.arange(LENGTH).expand_as(clean)
            return Batch(noisy, Places.of(position, torch.full_like(position, CANVAS)), clean, t * scored)
        level = torch.cat((t * scored, torch.zeros_like(t)), 1)
        return Batch(
            torch.cat((noisy, clean), 1), two_stream_places(LENGTH, size, count), torch.cat((clean, clean), 1), level
        )

    return by_rows(batch)


def loss_for(process: NoiseProcess | None) -> Loss:
    """AR: cross-entropy. Noise: the bound's integrand, a mean over characters."""
    if process is None:
        return lambda denoiser, batch: loss_of(denoiser, batch, context_causal())

    def bound(denoiser: Denoiser, batch: Batch) -> Tensor:
        tokens, target, t = batch.tokens[:, :LENGTH], batch.target[:, :LENGTH], batch.weight[:, :LENGTH]
        want = torch.arange(LENGTH).expand_as(target)
        logits = denoiser(batch.tokens, batch.places, context_causal(), want=want).logits
        log_probs = legal(process, logits).log_softmax(-1)
        prediction = "leave_one_out" if process.support else "full"
        nats = process.nelbo(log_probs, target, tokens, t.clamp(min=LOWEST), prediction=prediction)
        return nats[t > 0].mean()

    return bound


def config(characters: int) -> ModelConfig:
    return ModelConfig(characters + 1, 96, 3, 4, 4, 24, 256, LENGTH, canvas_role=True)


class Run(NamedTuple):
    """nats a character of held-out windows, the standard error of their noise (0 for AR), CPU seconds of training."""

    arm: str
    seed: int
    positions: int
    nats: float
    error: float
    estimator: str
    steps: int
    seconds: float


def run(name: str, seed: int, positions: int, text: Text, rows: int, count: int) -> Run:
    arm = ARMS[name]
    process = arm.noise(len(text.characters)) if arm.noise else None
    steps = positions // (ROWS * LENGTH)
    recipe = Recipe(
        name,
        config(len(text.characters)),
        max_steps=steps,
        seed=seed,
        optimizer=Optimizer(learning_rate=6e-3),
        bfloat16=False,
    )
    denoiser = initialise(recipe.config, seed)
    began = time.process_time()
    trainer = Trainer(denoiser, recipe, batches_of(arm, process, text.train, seed), loss_for(process))
    for progress in trainer.run():
        if progress.step % 100 == 0:
            print(f"{name} {seed}: {progress.share:.0%} {progress.loss:.3f} {progress.seconds:.0f} s", flush=True)
    seconds = time.process_time() - began
    test = windows(text.held_out, rows, torch.Generator().manual_seed(0))
    with torch.inference_mode():
        if process is None:
            nats = autoregressive_nll(denoiser, test)
            return Run(name, seed, positions, float(nats.mean()), 0.0, "exact", steps, seconds)
        predict = whole_text(denoiser, context_causal()) if arm.size is None else two_stream(denoiser, arm.size)
        scored, draws = (torch.arange(LENGTH) > 0).expand_as(test), Draws.of(list(range(rows)))
        if process.support:
            how = {"estimator": by_level(), "count": 4 * count, "prediction": "leave_one_out"}
        else:
            how = {"estimator": by_count(), "count": count, "prediction": "full"}
        bound = likelihood(process, predict, test, scored, draws=draws, size=arm.size, rows_at_once=32, **how)
    characters = int(scored.sum())
    error = float(bound.standard_error.square().sum().sqrt()) / characters
    return Run(name, seed, positions, float(bound.nats.sum()) / characters, error, bound.estimator, steps, seconds)


def results(done: list[Run]) -> list[str]:
    """The table, and the picture beside it."""
    by_arm = {name: [run for run in done if run.arm == name] for name in ARMS}
    by_arm = {name: runs for name, runs in by_arm.items() if runs}
    means = {name: mean(run.nats for run in runs) for name, runs in by_arm.items()}
    rows = []
    for name, runs in by_arm.items():
        values = [run.nats for run in runs]
        read = runs[0].positions // (2 if ARMS[name].size else 1)
        rows.append([
            name, f"{means[name]:.4f}", f"{stdev(values):.4f}" if len(values) > 1 else "", ", ".join(f"{x:.4f}" for x in values),
            f"{max(run.error for run in runs):.4f}", f"{means[name] - means.get('AR', nan):+.3f}",
            f"{log(PUBLISHED[name] / PUBLISHED['AR']):+.3f}", f"{read / 1e6:.2f}", f"{mean(run.seconds for run in runs):.0f}",
        ])  # fmt: skip
    head = ["arm", "nats a character", "seeds' deviation", "seeds", "standard error of the noise, at most", "above AR",
            "published: nats a token above AR", "million characters read", "CPU seconds"]  # fmt: skip
    order = {"ours": sorted(means, key=means.__getitem__), "published": [name for name in PUBLISHED if name in means]}
    found = {f"{runs[0].estimator}: {', '.join(n for n, r in by_arm.items() if r[0].estimator == runs[0].estimator)}"
             for runs in by_arm.values()}  # fmt: skip
    draw(by_arm)
    return [
        f"{done[0].positions:,} computed positions, {done[0].steps} steps each, on the Python documentation. Levels over the "
        "full range; diffusion values are upper bounds.", "", *report.table(head, rows), "",
        *(f"{who}: {' < '.join(names)}" + ("  " if who == "ours" else "") for who, names in order.items()), "",
        "Estimators: " + "; ".join(sorted(found)) + ".", "", "Drawn in docs/images/comparison.svg.",
    ]  # fmt: skip


def draw(by_arm: dict[str, list[Run]]) -> None:
    """Ours a dot a seed, published nats above AR beside them."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "comparison"
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), constrained_layout=True)
    for place, (name, runs) in enumerate(by_arm.items()):
        left.plot([place] * len(runs), [run.nats for run in runs], "o", color="#1f6f8b", alpha=0.7)
        right.plot(place, log(PUBLISHED[name] / PUBLISHED["AR"]), "s", color="#c0562b")
    left.set_ylabel("nats a character, each seed")
    right.set_ylabel("published: nats a token above AR")
    for axis in (left, right):
        axis.set_xticks(range(len(by_arm)), list(by_arm), rotation=30)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(report.ROOT / "docs" / "images" / "comparison.svg", metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--rows", type=int, default=128, help="held-out windows")
    parser.add_argument("--count", type=int, default=16, help="noisy texts a window; four times as many drawn levels")
    parser.add_argument("--runs", type=Path, help="JSON lines of finished runs, read and added to")
    args = parser.parse_args()
    text = read_text()
    done: dict[tuple[str, int, int], Run] = {}
    if args.runs and args.runs.exists():
        for line in args.runs.read_text().splitlines():
            one = Run(**json.loads(line))
            done[one.arm, one.seed, one.positions] = one
    for seed in range(args.seeds):
        for name in args.arms:
            key = (name, seed, args.positions)
            if key not in done:
                done[key] = run(*key, text, args.rows, args.count)
                print(done[key], flush=True)
                if args.runs:
                    with args.runs.open("a") as file:
                        file.write(json.dumps(done[key]._asdict()) + "\n")
    finished = [
        r for r in done.values() if r.positions == args.positions and r.arm in args.arms and r.seed < args.seeds
    ]
    report.write("comparison", "One text, one budget: seven ways to model it", results(finished))


if __name__ == "__main__":
    main()
