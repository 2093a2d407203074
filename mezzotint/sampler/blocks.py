"""Diffusion over a whole answer: canvas after canvas, each read into the cache by a causal pass when it is finished.

    read prompt | canvas 1: denoise .. denoise, commit | canvas 2: denoise .. denoise, commit | ...

A canvas starts right after the last committed token. The commit writes the keys and values of the clean text, which the
next canvas reads; those of the noisy passes are never kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mezzotint.constraint.guide import CanvasGuide, Guide
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


def _room(denoiser: BlockDenoiser, start: int, length: int, prompt: int) -> int:
    """Positions of a canvas at `start`: `length`, or up to the end of the block where the network's own blocks end."""
    reader = getattr(denoiser, "reader", None)
    room = None if reader is None else reader.room(start, prompt)
    return length if room is None else min(room, length)


def _begin(canvas: Canvas, ahead: Tensor, sampler: Sampler) -> None:
    """Accept what the last commit says of the first position. ahead `[B, V]`."""
    banned = [i for i in {*sampler.banned, sampler.process.mask_id} if i is not None]
    probs = ahead.to(torch.float64).index_fill(-1, torch.tensor(banned, dtype=torch.int64), -torch.inf).softmax(-1)
    first = torch.zeros_like(canvas.open)
    first[:, 0] = True
    best = probs.max(-1)
    shape = canvas.tokens.shape
    canvas.accept(best.indices[:, None].expand(shape), first, best.values[:, None].expand(shape), -1)


def block_frames(
    sampler: Sampler,
    denoiser: BlockDenoiser,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    draws: Draws,
    forced: Sequence[dict[int, int]] | None = None,
    stop_ids: frozenset[int] = frozenset(),
    guide: Guide | None = None,
) -> Iterator[Frame]:
    """Decode all prompts together, one frame a row and call. forced: per row, {offset in the answer: locked id}.

    guide: what the texts must be like; a canvas then is, at every step, the beginning of one that is.
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
        rooms = [
            _room(denoiser, start, min(length, max_tokens - written[r]), len(prompts[r]))
            for start, r in zip(cache.lengths.tolist(), active, strict=True)
        ]
        width = max(rooms)
        lock = torch.tensor([[locks[r].get(written[r] + n, -1) for n in range(width)] for r in active])
        canvas = Canvas.blank(sampler.process, cache.lengths, width, here, lock)
        canvas.valid = torch.arange(width) < torch.tensor(rooms)[:, None]
        if sampler.decoding.first_from_commit and cache.ahead is not None:
            ahead = cache.ahead
            if guide is not None:  # what the format does not allow cannot be first
                ahead = guide.masked(ahead[:, None], active, torch.zeros(len(active), 0, dtype=torch.int64))[:, 0]
            _begin(canvas, ahead, sampler)
        starts = cache.lengths.tolist()
        shape = None if guide is None else CanvasGuide(guide, active)
        for step in sampler.steps(canvas, cache, here, shape):
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
            room = rooms[i]
            tokens, status, stopped = committed(
                canvas.tokens[i, :room].tolist(), canvas.status[i, :room].tolist(), (lock[i] < 0).tolist(), stop_ids
            )
            written[r] += len(tokens)
            if guide is not None:
                guide.advance(r, tokens)
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
