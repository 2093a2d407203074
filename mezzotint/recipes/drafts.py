"""A draft head for an adapter that is there: `verified` then accepts more tokens a round, and nothing else changes.

read     the frozen network over texts of the corpus, canvases that are all noise, most of the time
learn    the head alone, some passes over what was read (`train.draft_head`)
measure  tokens that a verifying call accepts, before and after, on held-out texts; AR logits bit-equal
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mezzotint.checkpoints.load import Checkpoint
from mezzotint.recipes.adapt import Adaptation, Corpus, causal_logits, first_tokens, ids_of, measure
from mezzotint.train.batch import Batch
from mezzotint.train.canvases import Ids, Stage, make_batches
from mezzotint.train.draft_head import learn_drafts, nats, read_lessons

READING = 0.6  # of the minutes


@dataclass(frozen=True)
class Drafting:
    """minutes: of all of it, or places: lessons that are read, whatever it takes. width: of a new head. size: of a canvas.

    count: lessons a step; passes: over all of them. texts, length, held_out, prompts, draft_length: as in `Adaptation`.
    """

    name: str = "drafts"
    minutes: float | None = 60.0
    places: int | None = None
    width: int = 1024
    size: int = 9
    passes: int = 4
    count: int = 256
    learning_rate: float = 2e-3
    texts: int = 4000
    length: int = 256
    held_out: int = 1200
    prompts: int = 8
    draft_length: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.minutes is None and self.places is None:
            raise ValueError("drafting has no end: give minutes or places")
        for name in ("width", "passes", "count", "texts", "length", "held_out", "draft_length"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.size < 2:
            raise ValueError(f"size is {self.size}; a canvas of drafts has at least 2 places")


def run(
    checkpoint: Checkpoint, text: Corpus, settings: Drafting, out: str | Path, *, began: float | None = None,
    say: Callable[[str], None] = lambda line: None, prompts: Sequence[Sequence[int]] = (),
) -> dict[str, Any]:  # fmt: skip
    """Teach the adapter of `checkpoint` to draft, save it whole to `out`, and return what was measured (also `out`/report.json).

    A head that is there goes on learning. began: when the minutes began (perf_counter). Raises FileExistsError when `out` is
    there, ValueError for a checkpoint without an adapter of the canvas or for too little text.
    """
    out, began = Path(out), time.perf_counter() if began is None else began
    if out.exists():
        raise FileExistsError(f"{out} exists; choose another folder")
    if checkpoint.adapter is None or checkpoint.adapter.gate != "canvas":
        raise ValueError(f"{checkpoint.name} has no adapter of its canvas; a draft head needs one: give --adapter")
    train = [e for e in text.train if e.draft is None and len(e.text) >= 2 * settings.size]
    if not train or not text.held_out:
        raise ValueError(f"there is no text of {2 * settings.size} tokens to learn drafting from, or none held out")
    ids = ids_of(checkpoint, checkpoint.facts.shift)
    denoiser = checkpoint.denoiser().requires_grad_(False)
    assert denoiser.adapter is not None
    if not denoiser.drafts_in_order:
        torch.manual_seed(settings.seed)
        denoiser.adapter.add_draft_head(denoiser.config, settings.width).requires_grad_(False)
    measured = first_tokens(text.held_out, settings.held_out)
    prompts = (
        prompts
        or [[*e.context, *e.text[: max(1, len(e.text) // 2 if e.free else 1)]] for e in measured][: settings.prompts]
    )
    how = Adaptation(
        settings.name, max_steps=1, draft_length=settings.draft_length, canvas_length=checkpoint.facts.canvas_length
    )
    with torch.inference_mode():
        probe = causal_logits(denoiser, measured)
        before = measure(denoiser, checkpoint, measured, ids, how, prompts)

    clock, said = time.perf_counter(), 0.0
    ends = None if settings.minutes is None else began + 60 * settings.minutes * READING

    def enough(places: int) -> bool:
        nonlocal said
        if time.perf_counter() - clock >= said:
            say(f"{places} places read in {time.perf_counter() - clock:.0f} s")
            said = max(10.0, 2 * said)
        if settings.places is not None:
            return places >= settings.places
        return ends is not None and time.perf_counter() >= ends

    known = read_lessons(denoiser, _canvases(train, settings, ids), ids.mask, enough)
    reading = time.perf_counter() - clock
    say(f"{len(known.law)} places read in {reading:.0f} s; {settings.passes} passes over them")
    means = learn_drafts(denoiser, known, settings.passes, settings.count, settings.learning_rate, settings.seed)
    for number, mean in enumerate(means, 1):
        say(f"pass {number}: {mean:.3f} nats of a lesson")
    with torch.no_grad():
        rest = read_lessons(
            denoiser, _canvases(text.held_out, settings, ids), ids.mask, lambda n: n >= settings.held_out
        )
        held = float(nats(denoiser, rest).mean())
    made = dict(checkpoint.adapter.made) | {
        "drafts": {
            "places": len(known.law),
            "passes": settings.passes,
            "seconds": round(time.perf_counter() - clock, 1),
        }
    }
    checkpoint.save_adapter(out, denoiser, checkpoint.facts, made)
    with torch.inference_mode():
        after = measure(denoiser, checkpoint, measured, ids, how, prompts)
        same = torch.equal(probe, causal_logits(denoiser, measured))
    result = {
        **made, "steps": settings.passes * (len(known.law) // min(settings.count, len(known.law))),
        "train_seconds": round(time.perf_counter() - clock, 1), "reading_seconds": round(reading, 1),
        "before": before._asdict(), "after": after._asdict(), "lesson_nats": means, "held_out_lesson_nats": held,
        "ar_bit_equal": same, "held_out_texts": len(measured), "draft_length": settings.draft_length,
        "total_seconds": round(time.perf_counter() - began, 1), "threads": torch.get_num_threads(),
    }  # fmt: skip
    (out / "report.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def _canvases(examples: Sequence[Any], settings: Drafting, ids: Ids) -> Iterator[Batch]:
    """Batches of four texts, each noised twice, as long as they are asked for."""
    stage = Stage(sizes={settings.size: 1.0}, low=1.0, at_one=1.0, keep=0.0, complement=False, anywhere=True, copies=2)
    texts = [e for e in examples if e.draft is None]
    batches = make_batches(texts, (stage,), ids, lambda: 1, min(4, len(texts)), settings.seed)
    step = 0
    while True:
        yield batches(step)
        step += 1
