"""`digits`: handwritten digits as text, a class label to follow, and a strength to follow it with. Minutes on one core.

    ██  a token a pixel, in five shades `  ░░▒▒▓▓██`, and a token for the end of a line:
    a picture of 8 x 8 pixels is a text of 8 lines and 71 tokens, and printing it shows it

    rows       [ c | canvas of 71 ]    c: a soft token of the class, or of the null in a tenth of the rows
    noise      absorbing or uniform, a level a row
    loss       where masked; with uniform noise, which does not show where it is, everywhere

Data: the UCI ML hand-written digits (E. Alpaydin, C. Kaynak, 1998; CC BY 4.0), the 1,797 test images that scikit-learn
(BSD-3-Clause) bundles. A fifth is held out from the generator and from the classifier that judges it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mezzotint.checkpoints.load import Checkpoint, Facts
from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.draws import Draws
from mezzotint.model.condition import Condition
from mezzotint.model.config import Conditioning, ModelConfig
from mezzotint.model.denoiser import Denoiser
from mezzotint.noise import Absorbing, NoiseProcess, Uniform
from mezzotint.shapes import Tokens
from mezzotint.train.corruption import told_batch
from mezzotint.train.distributed import ALONE, Ranks
from mezzotint.train.monitor import Monitor
from mezzotint.train.recipe import apply
from mezzotint.train.trainer import Batch, Batches, Optimizer, Progress, Recipe, Trainer, by_rows, initialise

SHADES = ("  ", "░░", "▒▒", "▓▓", "██")
TOKENS = (*SHADES, "\n")
MASK, MASK_ID = "<|mask|>", len(TOKENS)
SIDE, CLASSES = 8, 10
LENGTH = SIDE * (SIDE + 1) - 1
NOISE = ("absorbing", "uniform")
DROP = 0.1  # of the rows are told the null
CONFIG = ModelConfig(
    len(TOKENS) + 1, 64, 4, 4, 4, 16, 160, LENGTH + 1, canvas_role=True, condition=Conditioning(classes=CLASSES)
)


class Pictures(NamedTuple):
    """shades int64 `[B, 8, 8]`, 0 (paper) to 4 (ink); labels int64 `[B]`."""

    shades: Tensor
    labels: Tensor

    def rows(self, index: Tensor) -> Pictures:
        return Pictures(self.shades[index], self.labels[index])


def load_pictures() -> tuple[Pictures, Pictures]:
    """Those to train on and those held out. Raises ValueError where scikit-learn is missing."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ValueError("the digits are scikit-learn's: pip install 'mezzotint[digits]'") from None
    found = load_digits()
    grey = torch.from_numpy(found.images).to(torch.int64)  # [1797, 8, 8], 0 to 16
    pictures = Pictures((grey + 2) // 4, torch.from_numpy(found.target).to(torch.int64))
    out = torch.tensor([hashlib.sha256(image.numpy().tobytes()).digest()[0] < 51 for image in grey])  # a fifth
    return pictures.rows(~out), pictures.rows(out)


def to_tokens(shades: Tensor) -> Tokens:
    """`[B, 8, 8]` -> int64 `[B, 71]`, a line break between lines."""
    lines = torch.nn.functional.pad(shades, (0, 1), value=TOKENS.index("\n"))
    return lines.flatten(1)[:, :-1]


def to_shades(tokens: Tokens) -> Tensor:
    """The inverse; a pixel that is no shade is paper."""
    pixels = torch.nn.functional.pad(tokens, (0, 1)).view(-1, SIDE, SIDE + 1)[:, :, :-1]
    return torch.where(pixels < len(SHADES), pixels, 0)


def tokenizer() -> Tokenizer:
    """Seven tokens: the shades, the line break, the mask. It decodes; no other text can be spelled with it."""
    return Tokenizer.of_tokens(TOKENS, [MASK])


def process(noise: str) -> NoiseProcess:
    """absorbing, or uniform over the shades and the line break. Raises ValueError for another name."""
    if noise not in NOISE:
        raise ValueError(f"noise is {noise!r}; allowed: {', '.join(NOISE)}")
    size = len(TOKENS) + 1
    return Absorbing(MASK_ID, size) if noise == "absorbing" else Uniform(len(TOKENS), size)


def facts(noise: str) -> Facts:
    known = Facts(noise=noise, shift=0, canvas_length=LENGTH, trained_canvas=True, whole=True)
    return known.with_control({"MASK": MASK}, tokenizer())


def make_batches(pictures: Pictures, noise: str, prefix: int = 1, seed: int = 0, rows: int = 32) -> Batches:
    """step -> batch of pictures drawn evenly. prefix: places of the condition before the canvas, 0 with AdaLN."""
    clean, kind = to_tokens(pictures.shades), process(noise)
    told = [Condition(class_label=label) for label in pictures.labels.tolist()]

    def batch(step: int) -> Batch:
        generator = torch.Generator().manual_seed((seed << 32) + step)
        index = torch.randint(len(clean), (rows,), generator=generator)
        draws = Draws.of([(seed << 32) + row for row in range(rows)]).at(step=step)
        chosen = [told[i] for i in index.tolist()]
        return told_batch(clean[index], chosen, kind, prefix, DROP, draws, generator)

    return by_rows(batch)


def train(
    pictures: Pictures, noise: str = "absorbing", minutes: float | None = 4.0, max_steps: int | None = None, seed: int = 0,
    report: Callable[[Progress], None] = lambda progress: None, config: ModelConfig = CONFIG, rows: int = 32,
    overrides: Sequence[str] = (), folder: Path | None = None, resume: bool = False, ranks: Ranks = ALONE,
) -> Denoiser:  # fmt: skip
    """Train and return the network; `checkpoint` makes it one that can be saved.

    overrides: `KEY=VALUE` settings of the recipe. folder: where the run keeps its own checkpoints; resume goes on from them.
    """
    recipe = Recipe(f"digits {noise}", config, minutes, max_steps, seed, Optimizer(learning_rate=4e-3), bfloat16=False)
    recipe = apply(recipe, overrides)
    denoiser = initialise(recipe.config, recipe.seed)
    batches = make_batches(pictures, noise, recipe.config.prefix, recipe.seed, rows)
    data = hashlib.sha256(pictures.shades.numpy().tobytes()).hexdigest()
    watch = None
    if folder is not None and ranks.first:
        watch = Monitor(folder, mask_id=MASK_ID, probe_every=50 * (not recipe.shard)).watch
    Trainer(denoiser, recipe, batches, folder=folder, data=data, ranks=ranks).follow(report, resume, watch)
    return denoiser


def checkpoint(denoiser: Denoiser, noise: str = "absorbing") -> Checkpoint:
    return Checkpoint.of(denoiser, "digits", tokenizer(), facts(noise), "Apache-2.0")
