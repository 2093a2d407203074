"""`adapt`: an AR checkpoint learns to denoise. `finetune`: any checkpoint learns a user's own rows.

    adapter    the base is frozen and teaches; what is learnt is an adapter that acts on the canvas alone
    gate=all   the pairs act and learn at every place: AR text changes too
    full       all weights learn, the clean stream with the causal loss beside the canvas, as under gate=all

One function, `run`, does both: measure held-out text, train, save, measure again. The configurations differ in numbers
only. The canvas loss is the mean cross-entropy of hidden tokens at a level, in nats, always on the same tokens and masks.
"""

from __future__ import annotations

import hashlib
import json
import re
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mezzotint.checkpoints.load import Checkpoint, Facts
from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.draws import Draws
from mezzotint.model.adapter import AdapterConfig
from mezzotint.model.denoiser import Denoiser
from mezzotint.model.layers import Block
from mezzotint.sampler.speculate import SelfSpeculation
from mezzotint.train.canvas_loss import CanvasLoss, causal_nats, held_out_nats
from mezzotint.train.canvases import Example, Ids, Stage, make_batches, stage_at
from mezzotint.train.data import held_out, read_rows
from mezzotint.train.distributed import ALONE, Ranks
from mezzotint.train.loss import Loss, loss_of
from mezzotint.train.monitor import Monitor, sample_text
from mezzotint.train.optimizer import bfloat16_is_fast
from mezzotint.train.trainer import Optimizer, Progress, Recipe, Trainer

HELD_OUT = 0.05  # of the sources
LEVELS = (0.5, 1.0)  # at which held-out text is measured
OVERHEAD = 2.0  # minutes of a run for loading and measuring; at least a tenth of them, at most 3 in 10
CONTINUED = 48  # tokens that a prompt is continued by, to count what drafts are worth
HEARD = 0.5  # of the rows, where there is self-conditioning (DiffusionGemma)
SHOWN = 16  # tokens of a prompt that a sample continues
SHORTEST = 16  # tokens of a piece of running text


@dataclass(frozen=True)
class Adaptation:
    """All numbers of an adaptation. Those of `Stage`, `CanvasLoss` and `AdapterConfig` are explained there.

    full: all weights learn, no adapter. self_conditioning: does the canvas hear what it said last? Only where the base is
    frozen, whose loss teaches it. shift: 1 while canvas rows speak about the next position, as the base's do; it,
    canvas_length and the noise are the checkpoint's own where its canvas is trained already. texts: read of each set.
    length: most tokens of a piece of text. count: texts a step, computed in `micro_batches` parts. held_out: tokens
    measured; prompts: held-out texts that are continued, to count accepted drafts. evaluate_every: steps after which
    held-out text is measured at half masking, into the run's metrics; 0 for never.
    """

    name: str
    minutes: float | None = None
    max_steps: int | None = None
    full: bool = False
    gate: str = "canvas"
    rank: int = 32
    shift: int = 1
    canvas_length: int = 12
    texts: int = 4000
    length: int = 192
    count: int = 2
    micro_batches: int = 1
    stages: tuple[Stage, ...] = field(default_factory=lambda: (Stage(sizes={12: 1.0}, keep=0.0),))
    teach: float = 0.5
    own: float = 0.0
    self_conditioning: bool = False
    confidence: float = 0.0
    ar: float = 0.3
    learning_rate: float = 1e-3
    warmup: int = 10
    decay: float = 0.5
    bfloat16: bool = True
    held_out: int = 5000
    prompts: int = 8
    evaluate_every: int = 0
    draft_length: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.minutes is None and self.max_steps is None:
            raise ValueError(f"{self.name!r} has no end: give minutes or max_steps")
        for name in ("texts", "length", "count", "held_out", "canvas_length"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.evaluate_every < 0:
            raise ValueError(f"evaluate_every is {self.evaluate_every}; it must be at least 0")
        if self.count % self.micro_batches:
            raise ValueError(f"count {self.count} is not a multiple of micro_batches {self.micro_batches}")

    def adapter(self, ids: Ids) -> AdapterConfig:
        return AdapterConfig(
            self.rank,
            2.0 * self.rank,
            self.gate,
            control_ids=tuple(ids.control.values()),
            confidence=self.confidence > 0,
            self_conditioning=self.self_conditioning and self.gate == "canvas",
        )


def cpu_smoke() -> Adaptation:
    """Seven minutes on two cores: does the canvas learn, and does the base stay?"""
    return Adaptation("cpu-smoke", minutes=7)


def cpu(name: str, minutes: float) -> Adaptation:
    """Two cores, an hour or more: short texts and small batches, since steps are few. Drafts first, repair and edits after.

    A draft is a canvas that is all noise, and the few tokens after the seed decide what it is worth: small blocks, hidden
    whole, anywhere in a text, where a twin would have nothing to learn. Errors keep half of the weight of right tokens, or
    the canvas would overwrite too much.
    """
    drafts = Stage(0.5, {4: 0.4, 8: 0.4, 16: 0.2}, at_one=0.7, keep=0.0, complement=False, anywhere=True)
    mixture = {8: 0.3, 16: 0.4, 0: 0.3}
    errors = Stage(0.25, {16: 0.2, 0: 0.8}, low=0.0, high=0.5, at_one=0.02, errors=0.15, keep=0.5)
    stages = (drafts, Stage(0.1, mixture, at_one=0.3, keep=0.0), errors, replace(errors, share=0.15, edits=0.5))
    return Adaptation(
        name, minutes, length=256, stages=stages, canvas_length=16, count=1, learning_rate=8e-4, warmup=20, decay=0.3,
        held_out=1200, prompts=4,
    )  # fmt: skip


def gpu(name: str, minutes: float) -> Adaptation:
    """Growing blocks, then a mixture of sizes, then errors to repair, then edits among them; for a folder of examples."""
    mixture = {4: 0.1, 8: 0.2, 16: 0.4, 32: 0.2, 0: 0.1}
    stages = (
        Stage(0.075, {4: 1.0}, 0.45, 0.95, keep=0.0), Stage(0.075, {8: 1.0}, 0.45, 0.95, keep=0.0),
        Stage(0.45, mixture, keep=0.0), Stage(0.2, mixture | {0: 0.25}, errors=0.15, keep=0.1),
        Stage(0.2, mixture | {0: 0.25}, errors=0.15, keep=0.1, edits=0.4),
    )  # fmt: skip
    return Adaptation(
        name, minutes, rank=64, length=512, count=128, micro_batches=8, stages=stages, own=0.25, self_conditioning=True,
        confidence=0.1, canvas_length=16, learning_rate=5e-4, warmup=100, decay=0.15, held_out=100_000, prompts=100,
    )  # fmt: skip


CONFIGURATIONS: dict[str, Callable[[], Adaptation]] = {
    "cpu-smoke": cpu_smoke,
    "cpu-hour": lambda: cpu("cpu-hour", 60),
    "gpu-30min": lambda: gpu("gpu-30min", 28),
    "gpu-2b": lambda: gpu("gpu-2b", 240),
}


# -- text --------------------------------------------------------------------------------------------------------------


class Corpus(NamedTuple):
    train: list[Example]
    held_out: list[Example]


def corpus(data: Path | None, tokenizer: Tokenizer, length: int, most: int) -> Corpus:
    """Running text in pieces of at most `length` tokens, split by source; of each set the first `most` texts.

    data: the training folder (Python functions and documentation, PSF, MIT, BSD, Apache-2.0), or None: the source of the
    standard library of this very Python.
    """
    found = Corpus([], [])
    texts = _standard_library(most) if data is None else _folder(data, most)
    for text, source in texts:
        into = found.held_out if held_out(source, HELD_OUT) else found.train
        ids = tokenizer.encode(text)
        pieces = (ids[begin : begin + length] for begin in range(0, len(ids), length))
        into.extend(Example([], piece, free=True) for piece in pieces if len(piece) >= SHORTEST)
    return found


def within(examples: Sequence[Example], length: int) -> list[Example]:
    """Examples of at most `length` tokens: running text is cut into pieces, others that are longer are left out."""
    found: list[Example] = []
    for example in examples:
        if len(example) <= length:
            found.append(example)
        elif example.free and not example.context and example.draft is None:
            pieces = (example.text[begin : begin + length] for begin in range(0, len(example.text), length))
            found += [replace(example, text=piece, ends=False) for piece in pieces if len(piece) >= SHORTEST]
    return found


def _folder(data: Path, most: int) -> Iterator[tuple[str, str]]:
    for number, row in enumerate(read_rows(data / "python-functions.jsonl.zst")):
        if number == most:
            break
        yield row["output"], row["source"]
    pages = 0
    for row in read_rows(data / "docs-corpus.jsonl.zst"):
        if "CC BY-SA" in row["licence"]:
            continue
        for part in re.findall(r"(?s).{200,3000}?(?:\n\n|\Z)", row["text"])[:8]:
            yield part.strip(), row["source"]
        pages += 1
        if pages * 8 >= most:
            break


def _standard_library(most: int) -> Iterator[tuple[str, str]]:
    each = max(1, most // 100)  # of a file
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        parts = (part for part in re.split(r"\n\n\n(?=\w|@)", text) if len(part) > 200)
        for part in list(parts)[:each]:
            yield part, path.name
            most -= 1
        if most <= 0:
            return


def finetuning(minutes: float, full: bool = False, edits: bool = False) -> Adaptation:
    """A user's own rows: answers in canvases of several sizes, and edit labels where there are edits."""
    stage = Stage(sizes={4: 0.2, 8: 0.3, 16: 0.5}, keep=0.1 if edits else 0.0, edits=0.4 if edits else 0.0)
    return Adaptation(
        "finetune", minutes, full=full, length=512, stages=(stage,), canvas_length=16, held_out=2000, prompts=4,
        learning_rate=1e-4 if full else 1e-3,
    )  # fmt: skip


# -- a run -------------------------------------------------------------------------------------------------------------


class Measured(NamedTuple):
    """Canvas loss in nats a hidden token by level, over `hidden_tokens` of them; tokens of an answer that a verifying call
    settles; the clean stream's loss in nats a token, where that stream learns."""

    canvas_nats: dict[str, float]
    hidden_tokens: int
    accepted_per_round: float | None
    causal_nats: float | None


def ids_of(checkpoint: Checkpoint, shift: int) -> Ids:
    """Raises ValueError for a checkpoint without MASK, DELETE, INSERT and EXPAND."""
    noise, facts = checkpoint.noise("hybrid"), checkpoint.facts
    assert facts.mask_id is not None
    end = checkpoint.tokenizer.eos_ids
    if not end:
        raise ValueError(f"{checkpoint.name} declares no end token, which an answer needs")
    return Ids(facts.mask_id, end[0], torch.tensor(noise.support), facts.control_ids, shift)


def adapted(known: Facts, settings: Adaptation) -> Facts:
    """The facts of a checkpoint that has been adapted: its own where its canvas was trained before."""
    noise = "hybrid" if any(stage.errors for stage in settings.stages) else "absorbing"
    return known if known.trained_canvas else replace(
        known, shift=settings.shift, trained_canvas=True, canvas_length=settings.canvas_length, noise=noise
    )  # fmt: skip


def run(
    checkpoint: Checkpoint, text: Corpus, settings: Adaptation, out: str | Path, *, began: float | None = None,
    report: Callable[[Progress], None] = lambda progress: None, say: Callable[[str], None] = lambda line: None,
    prompts: Sequence[Sequence[int]] = (), folder: Path | None = None, resume: bool = False, ranks: Ranks = ALONE,
) -> dict[str, Any]:  # fmt: skip
    """Adapt `checkpoint` on `text`, save to `out`, and return what was measured (also `out`/report.json).

    A checkpoint that has an adapter goes on learning in it. began: when the minutes began (perf_counter); time that
    measuring takes counts. folder: where the run keeps checkpoints of its own and is watched; resume goes on from them. On
    several ranks the first one saves and measures; the others return how they trained. Raises FileExistsError when `out` is
    there, ValueError for too little text.
    """
    out, began = Path(out), time.perf_counter() if began is None else began
    if out.exists():
        raise FileExistsError(f"{out} exists; choose another folder")
    for name, some in zip(Corpus._fields, text, strict=True):
        if not some:
            raise ValueError(f"there is no text in {name}; give more, from several sources")
    old, known = checkpoint.adapter, checkpoint.facts
    ids = ids_of(checkpoint, known.shift if known.trained_canvas else settings.shift)
    measure_on = first_tokens(text.held_out, settings.held_out)
    prompts = prompts or [
        [*e.context, *e.text[: max(1, len(e.text) // 2 if e.free else 1)]] for e in measure_on[: settings.prompts]
    ]
    facts = adapted(known, settings)

    say(f"measuring the start on {sum(len(e.text) for e in measure_on)} tokens of {len(measure_on)} held-out texts")
    clock = time.perf_counter()
    denoiser = network(checkpoint, settings, ids).to(ranks.device)
    probe = causal_logits(denoiser, measure_on)
    before = measure(denoiser, checkpoint, measure_on, ids, settings, prompts)
    measuring = time.perf_counter() - clock

    _learnt(denoiser, settings)
    minutes = settings.minutes
    if minutes is not None:
        left = minutes - (time.perf_counter() - began + 1.3 * measuring) / 60
        if left < 0.1 * minutes:
            raise ValueError(
                f"measuring takes {measuring / 60:.1f} of {minutes:g} minutes twice; give more, or less held-out text"
            )
        planned = minutes - min(0.3 * minutes, max(0.1 * minutes, OVERHEAD))  # a resumed run comes to the same
        minutes = min(left, planned)
    recipe = Recipe(
        settings.name, denoiser.config, minutes, settings.max_steps, settings.seed, bfloat16=settings.bfloat16,
        optimizer=Optimizer("adamw", settings.learning_rate, settings.warmup, settings.decay),
        micro_batches=settings.micro_batches, evaluate_every=settings.evaluate_every or Recipe.evaluate_every,
    )  # fmt: skip
    both = _both(denoiser)

    def half_masked(network: Denoiser) -> float:
        return held_out_nats(network, measure_on, ids, settings.canvas_length, LEVELS[0])[0]

    loss: Loss = CanvasLoss(
        ids.mask, settings.teach, settings.own, HEARD if denoiser.self_conditioned else 0.0, settings.confidence
    )
    trainer = Trainer(
        denoiser, recipe,
        make_batches(
            text.train, settings.stages, ids, lambda: trainer.at.plan, settings.count, settings.seed,
            settings.ar if both else 0.0,
        ),
        loss_of if both else loss, folder=folder, evaluate=half_masked if settings.evaluate_every else None, ranks=ranks,
        data=hashlib.sha256(repr(text.train).encode()).hexdigest(),
    )  # fmt: skip
    clock = time.perf_counter()
    losses: list[float] = []

    def told(progress: Progress) -> None:
        losses.append(progress.loss)
        report(progress)

    watch = None
    if folder is not None and ranks.first:
        first = measure_on[0]
        said = checkpoint.tokenizer.decode([*first.context, *first.text[: SHOWN // 2]][-SHOWN:])
        sample = sample_text(checkpoint.tokenizer, facts, said)
        watch = Monitor(
            folder, mask_id=ids.mask, sample=sample, stage=lambda step: _stage(settings.stages, step, trainer.at.plan)
        ).watch
    trainer.follow(told, resume, watch)
    seconds = time.perf_counter() - clock
    made = {
        "configuration": settings.name, "seed": settings.seed, "steps": trainer.at.step, "positions": trainer.at.positions,
        "train_seconds": round(seconds, 1), "full": settings.full, "gate": settings.gate,
    }  # fmt: skip
    if not ranks.first:
        return made
    if settings.full:
        Checkpoint.of(denoiser, checkpoint.name, checkpoint.tokenizer, facts, checkpoint.license).save(
            out, torch.bfloat16
        )
        after_network = denoiser
        after_checkpoint = Checkpoint.of(denoiser, out.name, checkpoint.tokenizer, facts)
    else:
        plain = replace(checkpoint, adapter=None, name=checkpoint.name if old is None else old.base.name)
        plain.save_adapter(out, denoiser, facts, made)
        after_checkpoint = plain.with_adapter(out)
        after_network = after_checkpoint.denoiser(device=ranks.device)
    say("measuring the end")
    after = measure(after_network, after_checkpoint, measure_on, ids, settings, prompts)
    result = {
        **made, "before": before._asdict(), "after": after._asdict(), "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "ar_bit_equal": torch.equal(probe, causal_logits(after_network, measure_on)),
        "held_out_texts": len(measure_on), "draft_length": settings.draft_length,
        "total_seconds": round(time.perf_counter() - began, 1), "threads": torch.get_num_threads(),
    }  # fmt: skip
    (out / "report.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def network(checkpoint: Checkpoint, settings: Adaptation, ids: Ids) -> Denoiser:
    """The network as it is before the first step, in float32."""
    if settings.full:
        if checkpoint.adapter is not None:
            raise ValueError(f"{checkpoint.name} has an adapter; full fine-tuning starts from a checkpoint without one")
        config = replace(checkpoint.config, canvas_role=True)
        role = [("mezzotint.canvas_role", torch.zeros(config.width))] if not checkpoint.config.canvas_role else []
        return Denoiser(config, ids.shift).load([*checkpoint.weights(), *role]).eval()
    denoiser = checkpoint.denoiser()
    denoiser.shift = ids.shift
    if denoiser.adapter is None:
        torch.manual_seed(settings.seed)
        denoiser.adapt(settings.adapter(ids))
    return denoiser


def _learnt(denoiser: Denoiser, settings: Adaptation) -> None:
    """Only what is learnt requires a gradient; the frozen linears are kept in bfloat16 where they are computed in it."""
    if settings.full:
        denoiser.requires_grad_(True)
        return
    denoiser.requires_grad_(False)
    assert denoiser.adapter is not None
    denoiser.adapter.requires_grad_(True)
    if settings.bfloat16 and bfloat16_is_fast(denoiser.embedding.weight.device):
        for block in denoiser.blocks:
            assert isinstance(block, Block)
            for linear in (block.attention.qkv, block.attention.out, block.mlp.gate_up, block.mlp.down):
                linear.weight.data = linear.weight.data.bfloat16()


def _stage(stages: Sequence[Stage], step: int, total: int | None) -> str:
    """Which stage a step is in, and of what block sizes."""
    stage = stage_at(stages, step, total)
    sizes = " ".join(str(size) if size else "whole" for size in stage.sizes)
    return f"{list(stages).index(stage) + 1} of {len(stages)}, blocks of {sizes}"


def _both(denoiser: Denoiser) -> bool:
    """Does the clean stream learn too?"""
    return denoiser.adapter is None or denoiser.adapter.config.gate == "all"


def first_tokens(examples: Sequence[Example], tokens: int) -> list[Example]:
    """The first examples that hold so many tokens together, the last one cut; edits are left out."""
    found: list[Example] = []
    for example in examples:
        if example.draft is not None or tokens <= 0:
            continue
        found.append(replace(example, text=example.text[:tokens]))
        tokens -= len(example.text)
    if not found:
        raise ValueError("there is no held-out text to measure on")
    return found


def measure(
    denoiser: Denoiser, checkpoint: Checkpoint, examples: Sequence[Example], ids: Ids, settings: Adaptation,
    prompts: Sequence[Sequence[int]],
) -> Measured:  # fmt: skip
    """Canvas loss at each level, and the tokens that a verifying call accepts when the canvas drafts for it."""
    nats, tokens = {}, 0
    for level in LEVELS:
        nats[f"t={level:g}"], count = held_out_nats(denoiser, examples, ids, settings.canvas_length, level)
        tokens += count
    causal = causal_nats(denoiser, examples, ids) if _both(denoiser) else None
    if not prompts:
        return Measured(nats, tokens, None, causal)
    here = denoiser if denoiser.embedding.weight.device.type == "cpu" else deepcopy(denoiser).to("cpu")
    drafting = SelfSpeculation(
        here, checkpoint.process, settings.draft_length, "none", stop_ids=frozenset(checkpoint.tokenizer.eos_ids),
        controls=tuple(ids.control.values()),
    )  # fmt: skip
    with torch.inference_mode():
        frames = list(drafting.frames(prompts, CONTINUED, Draws.of(list(range(len(prompts))))))
    rounds = [frame.committed for frame in frames if frame.kind == "verify"]
    return Measured(nats, tokens, sum(rounds) / len(rounds) if rounds else None, causal)


@torch.no_grad()
def causal_logits(denoiser: Denoiser, examples: Sequence[Example]) -> torch.Tensor:
    """What the clean stream says of the first held-out texts: logits that an adapter must leave as they are."""
    ids = [list(e.context) + list(e.text) for e in examples[:4]]
    length = min(64, *map(len, ids))
    tokens = torch.tensor([row[:length] for row in ids], device=denoiser.embedding.weight.device)
    counts = torch.full((len(ids),), length)
    return denoiser.read(tokens, counts, denoiser.new_cache(len(ids), length), every=True).logits
