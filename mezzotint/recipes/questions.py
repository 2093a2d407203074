"""Questions that a chat model asks itself, to be answered by `data regenerate`: text in its own words, of any subject.

    <system> ... <user>  ->  the model goes on as a user would, up to the end of the turn

Magpie (Xu et al., arXiv 2406.08464). Drafts are checked against the model's own text, so what they are taught by should be
that text too; no set of ours holds general chat.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

from mezzotint.checkpoints.files import whole_file
from mezzotint.draws import Draws
from mezzotint.engine.engine import Engine
from mezzotint.recipes.mixture import Prompts
from mezzotint.sampler.verify import Verified

SHORTEST = 12  # characters of a question
UNANSWERED = "…"  # in place of an answer: rows without any are no conversations


def questions(
    engine: Engine, count: int, max_tokens: int = 96, temperature: float = 1.0, seed: int = 0, batch: int = 48,
    report: Callable[[int, int], None] = lambda done, all: None,
) -> list[str]:  # fmt: skip
    """At most `count` different ones; those that do not end within max_tokens are left out. A seed gives the same ones.

    Raises ValueError for a checkpoint whose chat template does more than to put a frame around the request.
    """
    if count < 1 or batch < 1:
        raise ValueError(f"count is {count} and batch {batch}; both must be at least 1")
    frame = Prompts(engine.tokenizer).frame
    if frame is None:
        raise ValueError(f"{engine.checkpoint.name} has no chat template in which a user's turn could be left open")
    ids, before, _, _ = frame
    prompt = [*ids, *engine.tokenizer.encode(before)]
    stop_ids = engine.stop_ids
    found: dict[str, None] = {}
    for first in range(0, count, batch):
        rows = min(batch, count - first)
        written: list[list[int]] = [[] for _ in range(rows)]
        loop = Verified(engine.denoiser, None, 0, temperature, stop_ids=stop_ids)
        with torch.inference_mode():
            draws = Draws.of([(seed << 32) + first + row for row in range(rows)])
            for step in loop.frames([prompt] * rows, max_tokens, draws):
                written[step.row] += step.tokens[: step.committed]
        for row in written:
            text = engine.tokenizer.decode(row[:-1]).strip() if row and row[-1] in stop_ids else ""
            if len(text) >= SHORTEST:
                found[text] = None
        report(first + rows, count)
    return list(found)


def write_questions(out: str | Path, asked: list[str]) -> None:
    """Chat rows whose answer is still to come, as `data regenerate` reads them. Raises ValueError where `out` exists, OSError."""
    if Path(out).exists():
        raise ValueError(f"{out} exists; give another file")
    with whole_file(out) as file:
        for text in asked:
            turns = [{"role": "user", "content": text}, {"role": "assistant", "content": UNANSWERED}]
            file.write(json.dumps({"messages": turns, "source": text}, ensure_ascii=False).encode() + b"\n")
