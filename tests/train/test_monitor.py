"""A run watched: breakdowns that agree with a slow count, rows in order through a resume, a report that stands alone."""

import io
import json
import math
import re
import xml.etree.ElementTree as ET
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console

from mezzotint.draws import Draws
from mezzotint.model.config import ModelConfig
from mezzotint.model.visibility import CANVAS, CLEAN, context_causal
from mezzotint.noise import Hybrid
from mezzotint.recipes import tiny
from mezzotint.train.canvases import Example, Ids, Stage, text_batch
from mezzotint.train.corruption import Corruption, causal_batch, pad_rows
from mezzotint.train.monitor import (
    BINS,
    Monitor,
    breakdown,
    duration,
    flops_per_position,
    read_metrics,
    sample_text,
    sparkline,
)
from mezzotint.train.report import chart, report, write_report
from mezzotint.train.trainer import Recipe, Trainer, by_rows, initialise

MASK, V = 0, 60
CONFIG = ModelConfig(V, 32, 2, 2, 2, 16, 64, 128, canvas_role=True)
CORRUPTION = Corruption(Hybrid(MASK, range(3, V), V, 0.2))
GENERATOR = torch.Generator().manual_seed(0)
ROWS = [torch.randint(4, V, (n,), generator=GENERATOR).tolist() for n in (20, 33, 9, 40)]


def streams(step=0):
    draws = Draws.of([0, 1, 2, 3]).at(step=step)
    return CORRUPTION.blocks(ROWS, 3, 8, draws, torch.Generator().manual_seed(step), ar=0.3)


def trainer(steps=12, batches=None):
    recipe = Recipe("x", CONFIG, max_steps=steps, bfloat16=False)
    return Trainer(initialise(CONFIG, 0), recipe, batches or by_rows(streams))


def quiet(**options):
    return {"console": Console(file=io.StringIO(), width=400), **options}


def test_a_breakdown_is_what_counting_one_by_one_gives():
    denoiser, batch = initialise(CONFIG, 0), streams()
    found = breakdown(denoiser.train(), batch, MASK)
    assert denoiser.training
    with torch.no_grad():
        logits = denoiser(batch.tokens, batch.places, context_causal()).logits
    slow: dict[object, list[float]] = {}
    for row in range(4):
        for at in range(batch.tokens.shape[1]):
            if batch.weight[row, at] == 0:
                continue
            nats = float(F.cross_entropy(logits[row, at], batch.target[row, at]))
            token, right, start = (int(x[row, at]) for x in (batch.tokens, batch.target, batch.places.start))
            if batch.places.role[row, at] == CLEAN:
                slow.setdefault("clean", []).append(nats)
                continue
            slow.setdefault("right" if token == right else "hidden" if token == MASK else "wrong", []).append(nats)
            if token != right:
                own = (batch.places.role[row] == CANVAS) & (batch.places.start[row] == start) & (batch.weight[row] != 0)
                share = float((batch.tokens[row, own] != batch.target[row, own]).sum() / own.sum())
                slow.setdefault(("bin", min(math.ceil(share * BINS - 1e-6), BINS) - 1), []).append(nats)
                slow.setdefault(("position", int(batch.places.position[row, at]) - start), []).append(nats)
    means = {key: sum(some) / len(some) for key, some in slow.items()}
    for name, value in found["parts"].items():
        assert value == pytest.approx(means[name], abs=2e-4)
    assert len(found["noise_rate"]) == BINS and len(found["position"]) == found["block_size"] == 8
    for kind, values in (("bin", found["noise_rate"]), ("position", found["position"])):
        for index, value in enumerate(values):
            assert value == pytest.approx(means.get((kind, index)), abs=2e-4)
    alone = breakdown(denoiser, causal_batch(*pad_rows(ROWS, 3)))
    assert set(alone) == {"parts"} and alone["parts"]["clean"] > 3 and alone["parts"]["hidden"] is None
    assert breakdown(denoiser, batch)["parts"]["hidden"] is None  # unknown without the mask's id


def test_a_shifted_row_is_counted_by_the_place_that_it_speaks_about():
    network = initialise(CONFIG, 0)
    network.shift = 1
    pair = [Example([], [7, 8, 9, 10, 11, 12, 13, 14])]
    batch = text_batch(
        pair, 4, Stage(low=1, high=1, complement=False), Ids(MASK, 3, torch.arange(4, V), {}, 1), GENERATOR
    )
    found = breakdown(network, batch, MASK)
    assert found["parts"]["right"] is found["parts"]["wrong"] is None and found["block_size"] == 3
    assert found["position"][0] is None and all(nats > 0 for nats in found["position"][1:])


def test_every_step_is_a_row_and_the_run_is_passed_on(tmp_path):
    monitor = Monitor(
        tmp_path, mask_id=MASK, probe_every=5, stage=lambda step: "one" if step < 6 else "two", **quiet(peak=1e9)
    )
    told = list(monitor.watch(trainer()))
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(12)) == [p.step for p in told]
    assert [row["loss"] for row in rows] == [p.loss for p in told]
    assert [row["step"] for row in rows if "parts" in row] == [0, 5, 10] and rows[5]["stage"] == "one" != rows[6][
        "stage"
    ]
    for row in rows[1:]:
        expected = flops_per_position(CONFIG, streams().tokens.shape[1] // 2) * row["positions_per_second"] / 1e9
        assert row["positions_per_second"] > 0 and row["mfu"] == pytest.approx(expected, abs=1e-4)
        assert row["eta_seconds"] == pytest.approx(
            row["seconds"] / row["share"] * (1 - row["share"]), rel=0.02, abs=0.2
        )
    untouched = [p.loss for p in trainer().run()]
    assert [p.loss for p in told] == untouched  # watching changes nothing


class Step(NamedTuple):
    step: int
    share: float
    loss: float
    rate: float
    positions: int
    seconds: float
    norm: float = 1.0
    skipped: int = 0
    held_out: float | None = None


def replayed(begin, end, loss=2.0):
    steps = [
        Step(n, n / 100, loss, 1e-3, 10 * (n + 1), n / 7, held_out=1.5 if n % 4 == 3 else None)
        for n in range(begin, end)
    ]
    return SimpleNamespace(denoiser=initialise(CONFIG, 0), batches=by_rows(streams), run=lambda: iter(steps))


def test_tensorboard_reads_what_was_measured(tmp_path):
    pytest.importorskip("tensorboard", reason="make test-full installs it")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monitor = Monitor(tmp_path, mask_id=MASK, probe_every=2, tensorboard=True, **quiet())
    losses = [progress.loss for progress in monitor.watch(trainer(4))]
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [e.value for e in events.Scalars("loss")] == pytest.approx(losses)
    assert [e.step for e in events.Scalars("loss")] == [0, 1, 2, 3]
    assert any(tag.startswith("loss/") for tag in events.Tags()["scalars"])


def test_a_resumed_run_takes_back_the_rows_that_it_repeats(tmp_path):
    for begin, end, loss in ((0, 8, 2.0), (5, 12, float("nan"))):
        list(Monitor(tmp_path, probe_every=0, **quiet()).watch(replayed(begin, end, loss)))
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 1')  # as a kill leaves it
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(12)) and rows[4]["loss"] == 2.0 and rows[5]["loss"] is None
    assert rows[7]["held_out"] == 1.5 and rows[7]["norm"] == 1.0 and "held_out" not in rows[8]
    assert "<svg" in report(rows)
    (tmp_path / "metrics.jsonl").write_text('{"step": 3}\nnothing\n{"step": 4}\n')
    with pytest.raises(ValueError, match="line 2 is no row"):
        read_metrics(tmp_path / "metrics.jsonl")
    (tmp_path / "metrics.jsonl").write_text('{"step": 3}\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2: step 2 after step 3"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_the_panel_and_the_lines(tmp_path):
    out = io.StringIO()
    monitor = Monitor(
        tmp_path, mask_id=MASK, probe_every=2, sample_every=2, sample=lambda denoiser: ["░░ cat", "the cat"],
        console=Console(file=out, force_terminal=True, width=120),
    )  # fmt: skip
    list(monitor.watch(trainer(4)))
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    for part in ("training", "step 0", "positions/s", "hidden", "by place in canvas", "of 8", "░░ cat"):
        assert part in drawn
    piped = io.StringIO()
    list(Monitor(tmp_path, every=0.0, **quiet(console=Console(file=piped, width=300))).watch(trainer(4)))
    assert len(piped.getvalue().splitlines()) == 4 and "nats" in piped.getvalue()
    assert sparkline([1, None, 3, float("inf")]) == "▁ █ " and sparkline([]) == "" and len(sparkline(range(1000))) <= 48
    assert (duration(None), duration(65), duration(3723)) == ("-", "1:05", "1:02:03")


def test_the_report_stands_alone_and_its_lines_are_the_numbers(tmp_path):
    monitor = Monitor(tmp_path, mask_id=MASK, probe_every=3, sample=lambda d: ["<b>░"], sample_every=6, **quiet())
    list(monitor.watch(trainer()))
    page = write_report(tmp_path).read_text()
    assert "http" not in page and "src=" not in page and "<b>░" not in page and "&lt;b&gt;░" in page
    pictures = re.findall(r"<svg.*?</svg>", page)
    assert len(pictures) >= 6
    for picture in pictures:
        ET.fromstring(picture)
    root = ET.fromstring(chart({"a": [(0, 1.0), (1, 3.0), (2, None), (3, 2.0)]}))
    path = root.find("path").attrib["d"]
    (x0, y0), (x1, y1), (x3, y3) = [tuple(map(float, p.split())) for p in re.split("[ML]", path)[1:]]
    assert path.count("M") == 2 and x1 - x0 == pytest.approx((x3 - x0) / 3, abs=0.2)
    assert y0 > y3 > y1 and y3 == pytest.approx((y0 + y1) / 2, abs=0.2)  # 2 lies halfway between 1 and 3
    assert chart({"a": [(0, None)]}) == "<p>nothing measured</p>"
    for problem, make in (("no run", lambda: write_report(tmp_path / "x")), ("no row", lambda: report([]))):
        with pytest.raises(ValueError, match=problem):
            make()
    with pytest.raises(ValueError, match="probe_every is -1"):
        Monitor(tmp_path, probe_every=-1)


def test_flops_are_the_matrices_of_the_network():
    """Without attention and biases: six a weight of every matrix, the head among them."""
    denoiser = initialise(CONFIG, 0)
    weights = sum(p.numel() for name, p in denoiser.named_parameters() if p.dim() == 2 and "embedding" not in name)
    weights += CONFIG.vocab_size * CONFIG.width * (denoiser.head is None)
    assert flops_per_position(CONFIG, 0) == 6 * weights
    assert flops_per_position(CONFIG, 100) - 6 * weights == 12 * 2 * 32 * 100


def test_a_sample_goes_from_noise_to_text():
    texts = ["Mia has a red ball."] * 3
    tokenizer = tiny.make_tokenizer(texts, 300)
    denoiser = initialise(tiny.config(tokenizer.vocab_size), 0)
    frames = sample_text(tokenizer, tiny.facts(tokenizer), "Mia", 12, lines=4)(denoiser)
    assert 2 <= len(frames) <= 4 and frames[0].count("░") > frames[-1].count("░") == 0 and frames[0].startswith("Mia")
    assert json.dumps(frames) == json.dumps(sample_text(tokenizer, tiny.facts(tokenizer), "Mia", 12, lines=4)(denoiser))
