"""What a training run does, while it does it and afterwards.

    Monitor(folder).watch(trainer)     metrics.jsonl, one row a step; a live panel on a terminal, a line now and then on a pipe
    report.write_report(folder)        report.html: the run as a page

* Every `probe_every` steps the next batch is scored before it is learnt from: loss by what stands at a position (hidden,
  wrong, right, clean), by the share of a canvas that is noise, and by the position in the canvas.
* Rows are in the order of steps. A resumed run takes back the rows of steps that it does again.
* Model flops of a position, forward and backward: 6 a weight, 12 * layers * width * keys for attention (PaLM, arXiv
  2204.02311, appendix B); MFU is their rate over the device's peak in bfloat16. A frozen base has 2.5 a weight: of two
  canvases and their text, the canvases go forward and back through activations alone, the text forward once.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import torch
import torch.nn.functional as F
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from torch import Tensor

from mezzotint.model.config import ModelConfig
from mezzotint.model.denoiser import Denoiser
from mezzotint.model.visibility import CANVAS, CLEAN, context_causal
from mezzotint.train.batch import Batch, Batches
from mezzotint.train.loss import CHUNK
from mezzotint.train.recipe import Recipe

METRICS = "metrics.jsonl"
BINS = 5  # of the share of a canvas that is noise
SPEED = 32  # steps over which speed is measured
PARTS = ("hidden", "wrong", "right", "clean")
PEAK = {
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}  # dense bfloat16 flops a second

Sample = Callable[[Denoiser], list[str]]  # the network -> lines: a text on its way from noise


class Progress(Protocol):
    """What the trainer tells of a step; `norm`, `skipped` and `held_out` where it knows them."""

    @property
    def step(self) -> int: ...
    @property
    def share(self) -> float: ...
    @property
    def loss(self) -> float: ...
    @property
    def rate(self) -> float: ...
    @property
    def positions(self) -> int: ...
    @property
    def seconds(self) -> float: ...


class Run(Protocol):
    """A trainer, as far as it is watched."""

    denoiser: Denoiser
    batches: Batches
    recipe: Recipe

    def run(self) -> Iterator[Any]: ...


# -- measures ----------------------------------------------------------------------------------------------------------


def flops_per_position(config: ModelConfig, keys: int, frozen: bool = False) -> float:
    """Forward and backward, of a position that attends to `keys` others. frozen: the base, under an adapter."""
    q, kv = config.num_heads * config.head_size, config.num_kv_heads * config.head_size
    layer = config.width * (2 * q + 2 * kv + 3 * config.mlp_width)
    flops = 6 * (config.num_layers * layer + config.width * config.vocab_size) + 12 * config.num_layers * q * keys
    return 2.5 / 6 * flops if frozen else flops


def peak_flops(device: torch.device) -> float | None:
    """The device's peak, where we know it."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK.items() if part in name), None)


@torch.no_grad()
def breakdown(denoiser: Denoiser, batch: Batch, mask_id: int | None = None) -> dict[str, Any]:
    """Mean nats over the positions that carry a loss, whatever their weight; None where there is no such position.

    parts: by what stands there; noise_rate: over noisy positions of a canvas, by the share of it that is; position: over the
    same, by place in the canvas; block_size: the widest canvas. Hidden and wrong are one ("wrong") without a mask_id.
    """
    nats, counted, places = _nats(denoiser, batch), batch.weight != 0, batch.places
    canvas, shift = counted & (places.role == CANVAS), denoiser.shift
    stands = torch.where(canvas, batch.tokens.roll(-shift, 1), batch.tokens)  # at the place that is spoken about
    noisy = canvas & (stands != batch.target)
    hidden = noisy & (stands == (-1 if mask_id is None else mask_id))
    parts = {
        "hidden": hidden,
        "wrong": noisy & ~hidden,
        "right": canvas & ~noisy,
        "clean": counted & (places.role == CLEAN),
    }
    found: dict[str, Any] = {"parts": {name: _mean(nats, where) for name, where in parts.items()}}
    if not bool(canvas.any()):
        return found
    share, width = _canvas_shares(batch, canvas, noisy)
    number = (share * BINS).ceil().clamp(1, BINS) - 1
    found["noise_rate"] = [_mean(nats, noisy & (number == b)) for b in range(BINS)]
    inside = places.position + shift - places.start
    found["position"] = [_mean(nats, noisy & (inside == p)) for p in range(min(int(inside[canvas].max()) + 1, 64))]
    found["block_size"] = width
    return found


def _nats(denoiser: Denoiser, batch: Batch) -> Tensor:
    """Cross-entropy `[B, T]` where there is a weight, else 0; logits of `CHUNK` positions at a time."""
    training, where = denoiser.training, batch.weight != 0
    hidden = denoiser.eval()(
        batch.tokens, batch.places, context_causal(), condition=batch.condition, logits=False
    ).hidden[where]
    denoiser.train(training)
    parts = zip(*(x.split(CHUNK) for x in (hidden, batch.places.role[where], batch.target[where])), strict=True)
    found = [F.cross_entropy(denoiser.speak(h, role).float(), said, reduction="none") for h, role, said in parts]
    return torch.zeros_like(batch.weight).masked_scatter(where, torch.cat(found) if found else batch.weight[:0, 0])


def _mean(nats: Tensor, where: Tensor) -> float | None:
    return round(float(nats[where].mean()), 4) if bool(where.any()) else None


def _canvas_shares(batch: Batch, canvas: Tensor, noisy: Tensor) -> tuple[Tensor, int]:
    """Each position's share of its canvas that is noise `[B, T]`, and the widest canvas."""
    p = batch.places
    row = torch.arange(len(p.position), device=p.position.device)[:, None].expand_as(p.position)
    names = torch.stack((row, p.document, p.start, p.role), -1).flatten(0, 1)
    _, index = torch.unique(names, dim=0, return_inverse=True)
    size = torch.zeros(int(index.max()) + 1, device=index.device)
    all_of, noise = (size.scatter_add(0, index, where.flatten().float()) for where in (canvas, noisy))
    return (noise / all_of.clamp(min=1))[index].view_as(p.position), int(all_of.max())


# -- the log -----------------------------------------------------------------------------------------------------------


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a run in the order of steps; a last line that a kill cut short is left out. Raises ValueError, OSError."""
    rows: list[dict[str, Any]] = []
    lines = Path(path).read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            step = row["step"]
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number} is no row of metrics") from None
        if rows and step <= rows[-1]["step"]:
            raise ValueError(f"{path}, line {number}: step {step} after step {rows[-1]['step']}")
        rows.append(row)
    return rows


class Log:
    """metrics.jsonl: a row a step, flushed as it is written. Its first row takes back those of the same and later steps."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.file: IO[str] | None = None

    def add(self, row: dict[str, Any]) -> None:
        """Raises OSError."""
        if self.file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            kept = [r for r in read_metrics(self.path) if r["step"] < row["step"]] if self.path.exists() else []
            part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
            part.write_text("".join(_line(r) for r in kept))
            os.replace(part, self.path)
            self.file = self.path.open("a")
        self.file.write(_line(row))
        self.file.flush()

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


def _line(row: dict[str, Any]) -> str:
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(finite, ensure_ascii=False) + "\n"


# -- watching ----------------------------------------------------------------------------------------------------------


class Average:
    """A moving average over about twenty values, unbiased from the first on; what is not finite does not count."""

    def __init__(self) -> None:
        self.total = self.weight = 0.0

    def add(self, value: float) -> float:
        if math.isfinite(value):
            self.total, self.weight = 0.95 * self.total + value, 0.95 * self.weight + 1
        return self.total / self.weight if self.weight else math.nan


class Monitor:
    """Notes and shows every step of a run.

    probe_every, sample_every: steps between breakdowns and between samples, 0 for none. stage: step -> the name of the
    part of the curriculum that it belongs to. peak: of the device, flops a second; None looks it up.
    tensorboard: write its events too. every: seconds between lines where there is no terminal.
    """

    def __init__(
        self, folder: str | Path, *, mask_id: int | None = None, probe_every: int = 50, sample_every: int = 500,
        sample: Sample | None = None, stage: Callable[[int], str] | None = None, peak: float | None = None,
        tensorboard: bool = False, console: Console | None = None, every: float = 10.0,
    ) -> None:  # fmt: skip
        for name, value in (("probe_every", probe_every), ("sample_every", sample_every)):
            if value < 0:
                raise ValueError(f"{name} is {value}; it must be at least 0")
        self.folder, self.mask_id, self.stage, self.peak = Path(folder), mask_id, stage, peak
        self.probe_every, self.sample_every, self.sample = probe_every, sample_every, sample
        self.log = Log(self.folder / METRICS)
        self.events = _tensorboard(self.folder) if tensorboard else None
        self.console, self.every = console or Console(stderr=True, highlight=False), every
        self.recent: deque[tuple[float, int]] = deque(maxlen=SPEED)
        self.average, self.losses = Average(), list[float]()  # the losses smoothed
        self.probed: dict[str, Any] = {}
        self.sampled: list[str] = []
        self.shown = -math.inf

    def watch(self, trainer: Run) -> Iterator[Any]:
        """The trainer's run, every report of it passed on. Probing and sampling take time of the run."""
        live = Live(console=self.console, auto_refresh=False, transient=True) if self.console.is_terminal else None
        try:
            if live is not None:
                live.__enter__()
            for progress in trainer.run():
                row = self.row(progress, trainer)
                self.log.add(row)
                if self.events is not None:
                    _add_events(self.events, row)
                self._show(row, live)
                yield progress
        finally:
            if live is not None:
                live.__exit__(None, None, None)
            self.log.close()
            if self.events is not None:
                self.events.close()

    def row(self, at: Progress, trainer: Run) -> dict[str, Any]:
        """What is noted of a step."""
        self.recent.append((at.seconds, at.positions))
        self.losses.append(self.average.add(at.loss))
        (first, before), (last, now) = self.recent[0], self.recent[-1]
        if len(self.recent) == 1:
            first, before = 0.0, 0 if at.step == 0 else now
        speed = (now - before) / (last - first) if last > first else 0.0
        row: dict[str, Any] = {
            "step": at.step, "share": round(at.share, 6), "loss": at.loss, "rate": at.rate, "seconds": round(at.seconds, 3),
            "positions": at.positions, "positions_per_second": round(speed, 1),
            "eta_seconds": round(at.seconds * (1 - at.share) / at.share, 1) if at.share > 0 else None,
        }  # fmt: skip
        if self.stage is not None:
            row["stage"] = self.stage(at.step)
        for name in ("norm", "skipped", "held_out"):
            if (value := getattr(at, name, None)) is not None:
                row[name] = value
        denoiser = trainer.denoiser
        device = denoiser.embedding.weight.device
        if (peak := self.peak or peak_flops(device)) is not None and self.probed.get("keys"):
            frozen = denoiser.adapter is not None and not denoiser.embedding.weight.requires_grad
            row["mfu"] = round(flops_per_position(denoiser.config, self.probed["keys"], frozen) * speed / peak, 4)
        if self.probe_every and at.step % self.probe_every == 0:
            row |= self._probe(trainer, at.step + 1)
        if self.sample is not None and self.sample_every and at.step % self.sample_every == 0:
            self.sampled = row["sample"] = self.sample(denoiser)
        return row

    def _probe(self, trainer: Run, step: int) -> dict[str, Any]:
        """The breakdown of a step's first micro-batch."""
        recipe, device = trainer.recipe, trainer.denoiser.embedding.weight.device
        batch = trainer.batches(step, *((0, recipe.micro_batches) if recipe.micro_batches > 1 else ()))
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bfloat16):
            found = breakdown(trainer.denoiser, batch.to(device), self.mask_id)
        self.probed = {**found, "keys": batch.tokens.shape[1] // 2}  # of causal rows: half
        return found

    def _show(self, row: dict[str, Any], live: Live | None) -> None:
        now = time.monotonic()
        if now - self.shown < (0.25 if live is not None else self.every):
            return
        self.shown = now
        if live is not None:
            live.update(panel(row, self.losses, self.probed, self.sampled), refresh=True)
        else:
            self.console.print(_facts(row, self.losses[-1]), soft_wrap=True)


def sample_text(
    tokenizer: Any, facts: Any, prompt: str = "", max_tokens: int = 32, seed: int = 0, lines: int = 8
) -> Sample:
    """A sample that decodes by diffusion after a prompt: at most `lines` frames of it, masks as shaded blocks.

    tokenizer and facts: what the checkpoint will be saved with.
    """
    from mezzotint.checkpoints.load import Checkpoint
    from mezzotint.engine.engine import Engine
    from mezzotint.engine.request import Request

    def sample(denoiser: Denoiser) -> list[str]:
        engine = Engine(Checkpoint.of(denoiser, "in training", tokenizer, facts))
        request = Request(prompt, raw=True, decode="diffusion", max_tokens=max_tokens, seed=seed)
        trace = engine.generate([request])[0].trace
        frames = [prompt + _frame(tokenizer, facts.mask_id, ids, status) for _, ids, status in trace.views() if ids]
        frames = [frame.replace("\n", "⏎") for frame in frames]
        chosen = sorted({round(i * (len(frames) - 1) / max(lines - 1, 1)) for i in range(lines)})
        return [frames[i] for i in chosen]

    return sample


def _frame(tokenizer: Any, mask_id: int | None, ids: Sequence[int], status: Sequence[int]) -> str:
    from mezzotint.sampler.canvas import OPEN

    text, run = "", list[int]()
    for token, s in zip(ids, status, strict=True):
        if s == OPEN and token == mask_id:
            text, run = text + tokenizer.decode(run) + "░", []
        else:
            run.append(token)
    return text + tokenizer.decode(run)


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("tensorboard is not installed: pip install tensorboard, or leave it out") from None
    return SummaryWriter(str(folder))


def _add_events(events: Any, row: dict[str, Any]) -> None:
    for name in ("loss", "rate", "norm", "held_out", "positions_per_second", "mfu"):
        if isinstance(row.get(name), int | float):
            events.add_scalar(name, row[name], row["step"])
    for name, value in row.get("parts", {}).items():
        if value is not None:
            events.add_scalar(f"loss/{name}", value, row["step"])


# -- the panel -----------------------------------------------------------------------------------------------------------

BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float | None], width: int = 48) -> str:
    """Values as a row of bars, the newest on the right; a gap where there is none."""
    step = max(1, math.ceil(len(values) / width))
    shown = list(values)[::-1][::step][::-1]
    known = [v for v in shown if v is not None and math.isfinite(v)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if v is None or not math.isfinite(v) else BARS[round((v - low) * scale)] for v in shown)


def duration(seconds: float | None) -> str:
    """1:02:03, or a dash where it is not known."""
    if seconds is None:
        return "-"
    minutes, s = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{s:02d}" if minutes >= 60 else f"{minutes}:{s:02d}"


def _facts(row: dict[str, Any], loss: float) -> Text:
    parts = [
        f"{row['share']:4.0%}", f"step {row['step']}", f"loss {loss:.3f} nats", f"rate {row['rate']:.2g}",
        f"{row['positions_per_second']:,.0f} positions/s", f"left {duration(row['eta_seconds'])}",
    ]  # fmt: skip
    parts += [f"MFU {row['mfu']:.0%}"] if row.get("mfu") is not None else []
    parts += [f"norm {row['norm']:.2g}"] if row.get("norm") is not None else []
    parts += [f"held out {row['held_out']:.3f}"] if row.get("held_out") is not None else []
    parts += [f"skipped {row['skipped']}"] if row.get("skipped") else []
    parts += [str(row["stage"])] if "stage" in row else []
    return Text("  ".join(parts))


def panel(row: dict[str, Any], losses: Sequence[float], probed: dict[str, Any], sampled: Sequence[str]) -> Panel:
    """The live view: where the run is, its loss, the last breakdown, the last sample."""
    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_row("loss", sparkline(losses))
    parts = {name: value for name, value in probed.get("parts", {}).items() if value is not None}
    if parts:
        table.add_row("by what stands there", "  ".join(f"{name} {value:.2f}" for name, value in parts.items()))
    if "noise_rate" in probed:
        bins = [f"{(b + 1) / BINS:.0%} {'-' if v is None else f'{v:.2f}'}" for b, v in enumerate(probed["noise_rate"])]
        table.add_row("by noise, up to", "  ".join(bins))
        table.add_row("by place in canvas", sparkline(probed["position"]) + f"  of {probed['block_size']}")
    body: list[Any] = [_facts(row, losses[-1]), table]
    if sampled:
        body.append(Text("\n".join(sampled), "dim", no_wrap=True, overflow="ellipsis"))
    return Panel(Group(*body), title="training", expand=False)
