"""Several canvases at once: the next block is begun before the one on its left is finished, and one call serves them all.

    text, committed | block b: full policy | block b + 1: only what is very sure | ...       one canvas of growing width
                      finished: commit, in order; the rest slides left

- The blocks in flight of a row are one wider canvas that starts at the first uncommitted position: every block sees the
  others as they stand, noise and decided tokens alike, beside the clean text before all of them.
- Each block has a loop, a level and draws of its own, so the rules of the policy see one block and never the whole row.
- A block is added when the last one in flight is `add_at` decided. It is *cautious* (accepts only confidence above
  `cautious`, forced to nothing, renoises nothing, its level waits at 1) until its left neighbour is `activate_at` decided;
  then it follows the policy, from its first step. The leftmost block is never cautious.
- The blocks must be those the network was trained to see: one that only ever saw one canvas meets a wider one here.

D2F (arXiv 2508.09192) and d3LLM (arXiv 2601.07568), whose students read the left block causally. With one block in flight
this is `block_frames`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from mezzotint.draws import Draws
from mezzotint.sampler.blocks import BlockDenoiser, committed
from mezzotint.sampler.canvas import GIVEN, OPEN, Canvas
from mezzotint.sampler.decoding import Proposal, Rule, all_accepted, never
from mezzotint.sampler.loop import Sampler, Step
from mezzotint.sampler.trace import Frame
from mezzotint.sampler.verify import pad
from mezzotint.shapes import Level, Logits, Tokens, Where


@dataclass(frozen=True)
class Pipeline:
    """blocks: most blocks in flight, a row. add_at, activate_at: shares of decided positions; cautious: a confidence."""

    blocks: int = 2
    add_at: float = 0.1
    activate_at: float = 0.9
    cautious: float = 0.95

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise ValueError(f"blocks is {self.blocks}; at least 1 must be in flight")
        for name in ("add_at", "activate_at", "cautious"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"{name} is {value}; it must lie between 0 and 1")


def surely(threshold: float) -> Rule:
    """Open positions whose confidence is above the threshold; none is forced."""

    def choose(proposal: Proposal, canvas: Canvas, s: Level, draws: Draws) -> Where:
        return canvas.open & (proposal.confidence > threshold)

    return Rule(f"surely({threshold:g})", choose)


class _Said:
    """What the joint call said about one block, as the denoiser of that block's own loop."""

    logits: Logits

    def denoise(self, tokens: Tokens, positions: Tensor, valid: Where, cache: Any) -> Logits:
        return self.logits


@dataclass
class _Block:
    """One canvas `[1, C]` in flight and its loop. It is finished when its loop has stopped or nothing in it is open."""

    number: int
    canvas: Canvas
    sampler: Sampler  # its denoiser is `said`
    said: _Said
    draws: Draws
    steps: Iterator[Step]
    active: bool = False
    finished: bool = False
    step: int = 0

    @classmethod
    def begin(cls, number: int, canvas: Canvas, sampler: Sampler, draws: Draws, pipeline: Pipeline) -> _Block:
        said = _Said()
        policy = sampler.decoding
        # it waits for at most blocks - 1 others of num_steps each, so this loop never comes to its last step
        slow = replace(
            policy, accept=surely(pipeline.cautious), renoise=never(), stop=all_accepted(),
            num_steps=pipeline.blocks * policy.num_steps + 1,
        )  # fmt: skip
        waiting = replace(sampler, denoiser=said, decoding=slow)
        apart = draws.at(block=-1 - number)  # a cautious step and a step of the policy share no random number
        steps = waiting.steps(canvas, None, apart)
        return cls(number, canvas, replace(sampler, denoiser=said), said, draws, steps, finished=bool(canvas.done()))

    def activate(self) -> None:
        self.active = True
        self.canvas.level = torch.ones_like(self.canvas.level)
        self.steps = self.sampler.steps(self.canvas, None, self.draws.at(block=self.number))

    def decided(self) -> float:
        """Share of the positions that may be written and are not open; 1 when none may be."""
        editable = int(self.canvas.editable.sum())
        return 1 - int(self.canvas.open.sum()) / editable if editable else 1.0

    def take(self, logits: Logits) -> None:
        """One step of its loop with the joint call's logits `[1, C, V]`."""
        self.said.logits = logits
        step = next(self.steps)
        self.step, self.finished = step.number, not bool(step.going)


@dataclass
class _Row:
    """One answer: its blocks in flight, in order. `start`: the first uncommitted position."""

    row: int
    start: int
    lock: dict[int, int]
    draws: Draws
    sampler: Sampler
    pipeline: Pipeline
    max_tokens: int
    stop_ids: frozenset[int]
    written: int = 0  # committed tokens
    begun: int = 0  # blocks begun so far
    blocks: list[_Block] = field(default_factory=list)

    @property
    def width(self) -> int:
        return sum(block.canvas.tokens.shape[1] for block in self.blocks)

    def joined(self, name: str) -> list[int]:
        """Tokens, status or positions of all blocks in flight."""
        return [x for block in self.blocks for x in getattr(block.canvas, name)[0].tolist()]

    def fill(self) -> None:
        """Activate whose turn has come and begin what may be begun."""
        while len(self.blocks) < self.pipeline.blocks and self._may_begin():
            at, width = self.written + self.width, self.sampler.decoding.canvas_length
            offsets = range(at, min(at + width, self.max_tokens))
            lock = torch.tensor([[self.lock.get(n, -1) for n in offsets]])
            here = self.draws.at(block=self.begun)
            start = torch.tensor([self.start + self.width])
            canvas = Canvas.blank(self.sampler.process, start, len(offsets), here, lock)
            self.blocks.append(_Block.begin(self.begun, canvas, self.sampler, self.draws, self.pipeline))
            self.begun += 1
        for left, block in pairwise([None, *self.blocks]):
            assert block is not None
            ready = left is None or left.decided() >= self.pipeline.activate_at
            if ready and not block.active and not block.finished:
                block.activate()

    def _may_begin(self) -> bool:
        if self.written + self.width >= self.max_tokens:
            return False
        ends = any(
            token in self.stop_ids and status not in (OPEN, GIVEN)
            for token, status in zip(self.joined("tokens"), self.joined("status"), strict=True)
        )
        return not self.blocks or (not ends and self.blocks[-1].decided() >= self.pipeline.add_at)

    def commit(self) -> tuple[Frame, bool] | None:
        """Take the finished blocks at the left out of flight -> their frame, and whether the answer is over."""
        unfinished = next((n for n, block in enumerate(self.blocks) if not block.finished), len(self.blocks))
        if unfinished == 0:
            return None
        done, rest = self.blocks[:unfinished], self.blocks[unfinished:]
        self.blocks = done
        free = [self.written + n not in self.lock for n in range(self.width)]
        tokens, status, stopped = committed(self.joined("tokens"), self.joined("status"), free, self.stop_ids)
        start, self.blocks = self.start, rest
        self.start, self.written = start + len(tokens), self.written + len(tokens)
        over = stopped or self.written >= self.max_tokens
        calls = 0 if over else 1  # nothing is read after the end
        number = done[0].number
        frame = Frame("commit", self.row, number, 0, start, tokens, status, len(tokens), calls, calls * len(tokens))
        return frame, over


def pipeline_frames(
    sampler: Sampler,
    denoiser: BlockDenoiser,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    draws: Draws,
    forced: Sequence[dict[int, int]] | None = None,
    stop_ids: frozenset[int] = frozenset(),
    pipeline: Pipeline | None = None,
) -> Iterator[Frame]:
    """`block_frames` with up to `pipeline.blocks` blocks in flight: the same arguments, frames and endings.

    A denoise frame shows all blocks in flight; its block and step are the leftmost block's. A commit frame holds the
    finished blocks at the left, read in one call. Rows advance at their own pace, so a row's frames do not depend on the
    others. Raises ValueError for an empty prompt.
    """
    if any(not prompt for prompt in prompts):
        raise ValueError("a prompt has no tokens; give at least one (a chat template always does)")
    pipeline = pipeline or Pipeline()
    room = pipeline.blocks * sampler.decoding.canvas_length
    cache: Any = denoiser.new_cache(len(prompts), max(map(len, prompts)) + max_tokens + room)
    ids, counts = pad(prompts)
    denoiser.read(ids, counts, cache)
    fused = getattr(denoiser, "fuses_reads", False)
    carried = [0] * len(prompts)  # committed places in the next call
    rows = []
    for r, prompt in enumerate(prompts):
        yield Frame("read", r, 0, 0, len(prompt), [], [], 0, 0, len(prompt))
        lock, here = dict(forced[r]) if forced else {}, draws.rows(torch.tensor([r]))
        rows.append(_Row(r, len(prompt), lock, here, sampler, pipeline, max_tokens, stop_ids))
    while rows:
        for row in rows:
            row.fill()
        settled = [row.commit() for row in rows]
        if any(settled):
            for frame in (done[0] for done in settled if done):
                yield replace(frame, calls=0, positions=0) if fused else frame
                carried[frame.row] += len(frame.tokens) if fused else 0
            stay = [i for i, done in enumerate(settled) if not (done and done[1])]
            read = [done[0].tokens if (done := settled[i]) else [] for i in stay]
            cache = cache.fork(stay) if 0 < len(stay) < len(rows) else cache
            rows = [rows[i] for i in stay]
            if any(read):
                ids, counts = pad(read)
                denoiser.read(ids, counts, cache)
            continue
        ids, counts = pad([row.joined("tokens") for row in rows])
        places, _ = pad([row.joined("positions") for row in rows])
        valid = torch.arange(ids.shape[1]) < counts[:, None]
        logits = denoiser.denoise(ids, places, valid, cache)
        for i, row in enumerate(rows):
            at = 0
            for block in row.blocks:
                width = block.canvas.tokens.shape[1]
                if not block.finished:
                    block.take(logits[i : i + 1, at : at + width])
                at += width
            left = row.blocks[0]
            yield Frame(
                "denoise",
                row.row,
                left.number,
                left.step,
                row.start,
                row.joined("tokens"),
                row.joined("status"),
                0,
                1,
                at + carried[row.row],
            )
            carried[row.row] = 0
