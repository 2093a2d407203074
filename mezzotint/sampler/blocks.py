"""Diffusion over a whole answer: canvas after canvas, each read into the cache by a causal pass when it is finished.

    read prompt | canvas 1: denoise .. denoise, commit | canvas 2: denoise .. denoise, commit | ...

A canvas starts right after the last committed token. The commit writes the keys and values of the clean text, which the
next canvas reads; those of the noisy passes are never kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch

from mezzotint.draws import Draws
from mezzotint.sampler.canvas import ACCEPTED, OPEN, Canvas
from mezzotint.sampler.loop import CanvasDenoiser, Sampler
from mezzotint.sampler.trace import Frame
from mezzotint.sampler.verify import CausalDenoiser, pad


class BlockDenoiser(CanvasDenoiser, CausalDenoiser, Protocol):
    """A network with both passes.

    One that has `fuses_reads` carries what it reads in its next call: a commit is then no call of its own.
    """


def committed(
    tokens: list[int], status: list[int], free: Sequence[bool], stop_ids: frozenset[int]
) -> tuple[list[int], list[int], bool]:
    """What of a finished canvas becomes text: all up to a stop id at a `free` (not locked) position, and if one was there."""
    stop = next((n for n, token in enumerate(tokens) if token in stop_ids and free[n]), None)
    end = len(tokens) if stop is None else stop + 1
    return tokens[:end], [ACCEPTED if s == OPEN else s for s in status[:end]], stop is not None


def block_frames(
    sampler: Sampler,
    denoiser: BlockDenoiser,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    draws: Draws,
    forced: Sequence[dict[int, int]] | None = None,
    stop_ids: frozenset[int] = frozenset(),
) -> Iterator[Frame]:
    """Decode all prompts together, one frame a row and call. forced: per row, {offset in the answer: locked id}.

    A row ends after a stop id or `max_tokens`. Raises ValueError for an empty prompt.
    """
    if any(not prompt for prompt in prompts):
        raise ValueError("a prompt has no tokens; give at least one (a chat template always does)")
    length = sampler.decoding.canvas_length
    locks = list(forced or [{} for _ in prompts])
    written = [0] * len(prompts)
    active = list(range(len(prompts)))
    fused = getattr(denoiser, "fuses_reads", False)
    carried = [0] * len(prompts)  # committed places in the next call
    cache: Any = denoiser.new_cache(len(prompts), max(map(len, prompts)) + max_tokens + length)
    ids, counts = pad(prompts)
    denoiser.read(ids, counts, cache)
    for row, prompt in enumerate(prompts):
        yield Frame("read", row, 0, 0, len(prompt), [], [], 0, 0, len(prompt))
    block = 0
    while active:
        here = draws.rows(torch.tensor(active)).at(block=block)
        width = min(length, max(max_tokens - written[r] for r in active))
        lock = torch.tensor([[locks[r].get(written[r] + n, -1) for n in range(width)] for r in active])
        canvas = Canvas.blank(sampler.process, cache.lengths, width, here, lock)
        starts = cache.lengths.tolist()
        for step in sampler.steps(canvas, cache, here):
            for i in step.running.nonzero()[:, 0].tolist():
                status = canvas.status[i].tolist()
                yield Frame(
                    "denoise",
                    active[i],
                    block,
                    step.number,
                    starts[i],
                    canvas.tokens[i].tolist(),
                    status,
                    0,
                    sampler.branches,
                    step.positions + carried[active[i]],
                )
                carried[active[i]] = 0
        lengths: list[int] = []
        ended: list[int] = []
        for i, r in enumerate(active):
            room = max_tokens - written[r]
            tokens, status, stopped = committed(
                canvas.tokens[i, :room].tolist(), canvas.status[i, :room].tolist(), (lock[i] < 0).tolist(), stop_ids
            )
            written[r] += len(tokens)
            over = stopped or written[r] >= max_tokens
            calls = 0 if over or fused else sampler.branches  # nothing is read after the end
            carried[r] = len(tokens) if fused else 0
            yield Frame("commit", r, block, 0, starts[i], tokens, status, len(tokens), calls, calls * len(tokens))
            lengths.append(len(tokens))
            if over:
                ended.append(i)
        stay = [i for i in range(len(active)) if i not in ended]
        active = [active[i] for i in stay]
        if not active:
            return
        if ended:
            cache = cache.fork(stay)
        denoiser.read(canvas.tokens[stay], torch.tensor([lengths[i] for i in stay]), cache)
        block += 1
