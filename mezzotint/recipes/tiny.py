"""`tiny`: a model of 1.3 million weights, trained from scratch on a CPU in ten minutes. It generates, fills holes, repairs.

    text       little texts of our own; dialogues and documentation of the training folder where it is there
    tokens     byte-level BPE trained on that text; control tokens MASK, DELETE, INSERT, EXPAND
    rows       one document each, [<end>] text [<end>], at most 128 tokens
    batches    whole canvases (noise, holes, errors) and two streams in turn: see `train/corruption.py`

The AR twin has the same shape, text, optimizer and budget; only its batches are causal.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import tokenizers
import torch

from mezzotint.checkpoints.load import Checkpoint, Facts
from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.draws import Draws
from mezzotint.model.config import ModelConfig
from mezzotint.noise import Hybrid, NoiseProcess
from mezzotint.recipes.tiny_text import little_texts
from mezzotint.train.corruption import Corruption, causal_batch, pad_rows
from mezzotint.train.data import Rows, held_out, read_rows
from mezzotint.train.distributed import ALONE, Ranks
from mezzotint.train.monitor import Monitor, sample_text
from mezzotint.train.recipe import apply
from mezzotint.train.trainer import Batch, Batches, Optimizer, Progress, Recipe, Trainer, by_rows, initialise

END = "<|endoftext|>"
CONTROL = {"MASK": "<|mask|>", "DELETE": "<|delete|>", "INSERT": "<|insert|>", "EXPAND": "<|expand|>"}
LENGTH = 128  # tokens of a training row
VOCABULARY = 1536
SHARE = 0.1  # of the noise that is a random token instead of the mask
HELD_OUT = 0.06  # of the sources
OBJECTIVES = ("diffusion", "ar")
BLOCKS = (8, 16, 32)
AR_STEPS = 800  # first batches of a denoising run: every token teaches, where a canvas teaches by its hidden ones


class Document(NamedTuple):
    """source: the file or generator that a split goes by."""

    text: str
    source: str


class Corpus(NamedTuple):
    train: list[Document]
    held_out: list[Document]


def documents(data: Path | None, little: int = 40000, seed: int = 0) -> Corpus:
    """All text, split by source; our own texts are their own sources. data: the training folder, None to do without."""
    found = [Document(text, f"little texts: {text}") for text in little_texts(little, seed)]
    if data is not None:
        found += _dialogues(data / "taskmaster4-coffee-dialogs.jsonl.zst")
        found += _paragraphs(data / "docs-corpus.jsonl.zst")
    kept: dict[str, Document] = {document.text: document for document in found}
    corpus = Corpus([], [])
    for document in kept.values():
        (corpus.held_out if held_out(document.source, HELD_OUT) else corpus.train).append(document)
    return corpus


def _dialogues(path: Path) -> Iterator[Document]:
    """Conversations at a coffee bar, CC BY 4.0. A conversation is a source: its six files share one origin."""
    for row in read_rows(path):
        lines = [f"{'Guest' if m['role'] == 'user' else 'Bar'}: {m['content']}" for m in row["messages"]]
        text = "\n".join(lines)
        if len(text) <= 420:
            yield Document(text, f"dialogue: {row['messages'][0]['content']}")


def _paragraphs(path: Path) -> Iterator[Document]:
    """Plain paragraphs of the Python (PSF-2.0) and Rust (MIT or Apache-2.0) documentation; a page is a source."""
    for row in read_rows(path):
        if "CC BY-SA" in row["licence"]:
            continue
        for paragraph in re.split(r"\n\s*\n", row["text"]):
            text = " ".join(paragraph.split())
            plain = sum(c.isalpha() or c in " ,." for c in text)
            if 80 <= len(text) <= 360 and text[0].isupper() and text[-1] in ".:" and plain > 0.95 * len(text):
                yield Document(text, f"documentation: {row['source']}")


def make_tokenizer(texts: list[str], size: int = VOCABULARY) -> Tokenizer:
    """Byte-level BPE with single digits, as SmolLM2's; the special tokens come first."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    pre = tokenizers.pre_tokenizers
    model.pre_tokenizer = pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)])
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, special_tokens=[END, *CONTROL.values()], initial_alphabet=pre.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    model.train_from_iterator(texts, trainer)
    return Tokenizer(json.loads(model.to_str()), eos=[END])


def config(vocab_size: int) -> ModelConfig:
    """1.3 million weights."""
    return ModelConfig(vocab_size, 128, 5, 4, 4, 32, 384, 4 * LENGTH, canvas_role=True)


def facts(tokenizer: Tokenizer) -> Facts:
    plain = Facts(noise="hybrid", shift=0, canvas_length=32, trained_canvas=True)
    return plain.with_control(CONTROL, tokenizer)


def process(tokenizer: Tokenizer) -> NoiseProcess:
    support = [i for i in range(tokenizer.vocab_size) if i not in tokenizer.specials.values()]
    return Hybrid(tokenizer.specials[CONTROL["MASK"]], support, tokenizer.vocab_size, SHARE)


def tokenise(corpus: list[Document], tokenizer: Tokenizer) -> list[list[int]]:
    """Rows of [<end>] text [<end>], longer ones cut."""
    end = tokenizer.specials[END]
    return [[end, *tokenizer.encode(document.text), end][:LENGTH] for document in corpus]


def make_batches(
    rows: Rows, tokenizer: Tokenizer, objective: str = "diffusion", count: int = 16, ar_steps: int = AR_STEPS
) -> Batches:
    """step -> batch. Diffusion begins with `ar_steps` of AR, then takes two whole canvases and one of two streams by turns.

    A row loses its first <end> half the time, since a text may begin anywhere.
    count: rows of a whole-canvas or AR batch; a two-stream batch, whose rows are computed twice, has half as many.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective is {objective!r}; allowed: {', '.join(OBJECTIVES)}")
    corruption, end = Corruption(process(tokenizer)), tokenizer.specials[END]

    def batch(step: int) -> Batch:
        generator = rows.generator(step)
        streams = objective == "diffusion" and step >= ar_steps and step % 3 == 2
        some = rows.draw(count // 2 if streams else count, generator)
        bare = (torch.rand(len(some), generator=generator) < 0.5).tolist()
        some = [row[1:] if cut else row for row, cut in zip(some, bare, strict=True)]
        if objective == "ar" or step < ar_steps:
            return causal_batch(*pad_rows(some, end))
        draws = Draws.of([rows.seed + index for index in range(len(some))]).at(step=step)
        if streams:
            size = BLOCKS[int(torch.randint(len(BLOCKS), (), generator=generator))]
            return corruption.blocks(some, end, size, draws, generator, ar=0.3)
        return corruption.whole(some, end, draws, generator)

    return by_rows(batch)


def recipe_of(
    vocab_size: int, minutes: float | None, max_steps: int | None, seed: int = 0, objective: str = "diffusion",
    learning_rate: float = 6e-3, optimizer: str = "muon",
) -> Recipe:  # fmt: skip
    """The run itself. In float32: so small a network is no faster in bfloat16."""
    moves = Optimizer(optimizer, learning_rate)
    return Recipe(f"tiny {objective}", config(vocab_size), minutes, max_steps, seed, moves, bfloat16=False)


def train(
    corpus: Corpus, minutes: float | None, max_steps: int | None, seed: int = 0, objective: str = "diffusion",
    tokenizer: Tokenizer | None = None, report: Callable[[Progress], None] = lambda progress: None,
    learning_rate: float = 6e-3, optimizer: str = "muon", count: int = 16, overrides: Sequence[str] = (),
    folder: Path | None = None, resume: bool = False, ranks: Ranks = ALONE,
) -> Checkpoint:  # fmt: skip
    """Train and return the checkpoint, not yet saved. tokenizer: None trains one on the corpus.

    overrides: `KEY=VALUE` settings of the recipe. folder: where the run keeps its own checkpoints; resume goes on from them.
    """
    tokenizer = tokenizer or make_tokenizer([document.text for document in corpus.train])
    recipe = recipe_of(tokenizer.vocab_size, minutes, max_steps, seed, objective, learning_rate, optimizer)
    recipe = apply(recipe, overrides)
    denoiser = initialise(recipe.config, recipe.seed)
    rows = Rows(tokenise(corpus.train, tokenizer), recipe.seed)
    data = hashlib.sha256(repr(rows.rows).encode()).hexdigest()
    ar_steps = min(AR_STEPS, recipe.max_steps // 4) if recipe.max_steps else AR_STEPS
    batches = make_batches(rows, tokenizer, objective, count, ar_steps)
    known, watch = facts(tokenizer), None
    if folder is not None and ranks.first:
        alone = not recipe.shard  # a sharded network computes on all ranks or not at all
        sample = sample_text(tokenizer, known, "Mia has") if alone and objective == "diffusion" else None
        watch = Monitor(folder, mask_id=known.mask_id, probe_every=50 * alone, sample=sample).watch
    Trainer(denoiser, recipe, batches, folder=folder, data=data, ranks=ranks).follow(report, resume, watch)
    if objective == "ar":
        known = Facts().with_control(CONTROL, tokenizer)
    return Checkpoint.of(denoiser, recipe.name.replace(" diffusion", ""), tokenizer, known, "Apache-2.0")
