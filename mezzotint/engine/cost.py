"""What a call costs on this machine, and which way of decoding follows from it.

    curve   milliseconds of a causal call over 1, 2, 4 .. 64 positions   the break-even line
    trial   each way of decoding on two short prompts, one at a time     tokens a call, and how long its calls take
    plan    ms a token = the median of each kind of call, times how many there were, / tokens      the least wins

A call over n positions costs c(n) and AR's costs c(1), so a way of causal calls over n positions must give c(n) / c(1) tokens a
call to pass AR. A call on a canvas costs more: pairs of an adapter, a head over every place, the choice of what to keep. That is
why the trial is timed and not predicted by the curve; medians leave out most of the machine's noise.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from mezzotint.checkpoints.cache import cache_folder
from mezzotint.checkpoints.files import sha256, whole_file
from mezzotint.engine.request import Request
from mezzotint.sampler.quality import QUALITY
from mezzotint.sampler.trace import Trace

if TYPE_CHECKING:
    from mezzotint.engine.engine import Engine
    from mezzotint.model.denoiser import Denoiser

POSITIONS = (1, 2, 4, 8, 16, 32, 64)
CONTEXT = 128  # positions in the cache while a call is timed
PROMPTS = ("Write a Python function that reverses a string.", "Name three colours and say why people like them.")
TOKENS = 24  # of each trial
VERSION = 4  # of the file: another measures anew


@dataclass(frozen=True)
class Curve:
    """milliseconds[i]: of one call over positions[i] positions, one row, behind CONTEXT cached ones; the best of several."""

    positions: tuple[int, ...]
    milliseconds: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.positions, self.positions[1:], strict=False))
        if len(self.positions) < 2 or len(self.positions) != len(self.milliseconds) or not rising:
            raise ValueError(f"a curve needs rising positions and a time for each; got {self.positions}")

    def at(self, positions: int) -> float:
        """Milliseconds of a call over so many positions: between measured ones a line, beyond them the last slope."""
        pairs = list(zip(self.positions, self.milliseconds, strict=True))
        index = next((i for i, (n, _) in enumerate(pairs) if n >= positions), len(pairs) - 1)
        (n0, t0), (n1, t1) = pairs[max(index, 1) - 1], pairs[max(index, 1)]
        return t0 + (t1 - t0) * (positions - n0) / (n1 - n0)

    def break_even(self, positions: int) -> float:
        """Tokens a call that calls over so many positions must give to be as fast as AR."""
        return self.at(positions) / self.at(1)


def measure(
    denoiser: Denoiser, repeats: int = 5, clock: Callable[[], float] = time.perf_counter, most: int = POSITIONS[-1]
) -> Curve:
    """Time causal calls of one row. Takes about a second for the default model."""
    most = min(most, denoiser.config.max_length - 1)
    context = min(CONTEXT, denoiser.config.max_length - most)
    widths = [n for n in POSITIONS if n <= most]
    best = dict.fromkeys(widths, float("inf"))
    with torch.inference_mode():
        cache = denoiser.new_cache(1, context + most)
        denoiser.read(torch.ones(1, context, dtype=torch.int64), torch.tensor([context]), cache)
        for _ in range(repeats + 1):  # the first round warms up, and counts too: the best is kept
            for width in widths:
                tokens, counts = torch.ones(1, width, dtype=torch.int64), torch.tensor([width])
                began = clock()
                denoiser.read(tokens, counts, cache, every=True)
                best[width] = min(best[width], 1e3 * (clock() - began))
                cache.truncate([context])
    return Curve(tuple(widths), tuple(round(best[n], 3) for n in widths))


@dataclass(frozen=True)
class Way:
    """A way of decoding, as the trial found it. draft_length and block: 0 where there is none."""

    decode: str
    draft: str
    draft_length: int
    block: int
    tokens_per_call: float
    positions_per_call: float
    ms_per_token: float

    @property
    def name(self) -> str:
        if self.decode == "verified":
            return f"verified, draft {self.draft}, {self.draft_length} tokens"
        return f"diffusion, blocks of {self.block}" if self.decode == "diffusion" else self.decode


@dataclass(frozen=True)
class Plan:
    """What was measured and what follows: `lossless` writes AR's text, `block` is None for weights that cannot denoise."""

    curve: Curve
    ways: tuple[Way, ...]

    @property
    def lossless(self) -> Way:
        return min((way for way in self.ways if way.decode != "diffusion"), key=lambda way: way.ms_per_token)

    @property
    def block(self) -> Way | None:
        return min((w for w in self.ways if w.decode == "diffusion"), key=lambda w: w.ms_per_token, default=None)

    def apply(self, request: Request, diffusion: bool) -> Request:
        """The request decoded in the fastest lossless way, or by diffusion in the fastest block under its own policy."""
        if diffusion:
            if self.block is None or isinstance(request.policy, str):
                return replace(request, decode="diffusion")
            return replace(request, decode="diffusion", policy=replace(request.policy, canvas_length=self.block.block))
        way = self.lossless
        return replace(
            request, decode=way.decode, draft=way.draft or request.draft,  # type: ignore[arg-type]  # a Way's are a Request's
            draft_length=way.draft_length or request.draft_length,
        )  # fmt: skip

    def lines(self) -> list[str]:
        """The whole of it as text."""
        rows = [f"{'positions a call':<34}{'ms':>8}{'tokens a call to pass ar':>28}"]
        for n, ms in zip(self.curve.positions, self.curve.milliseconds, strict=True):
            rows.append(f"{n:<34}{ms:>8.1f}{self.curve.break_even(n):>28.2f}")
        head = f"way (trial of {TOKENS * len(PROMPTS)} tokens)"
        rows += ["", f"{head:<34}{'ms/token':>8}{'tokens/call':>14}{'positions/call':>16}"]
        picked = {id(self.lossless), id(self.block)}
        for way in sorted(self.ways, key=lambda way: way.ms_per_token):
            mark = "  <- picked" if id(way) in picked else ""
            rows.append(
                f"{way.name:<34}{way.ms_per_token:>8.1f}{way.tokens_per_call:>14.2f}{way.positions_per_call:>16.1f}{mark}"
            )
        return rows


def timed(traces: Sequence[Trace]) -> tuple[float, float, float]:
    """Tokens a call, positions a call and milliseconds a token of finished traces; reading the prompt is not counted.

    Calls of one kind over as many positions count as equal: each costs their median.
    """
    kinds: dict[tuple[object, ...], list[float]] = {}
    number = positions = 0
    for trace in traces:
        for before, frame in pairwise(trace.frames):
            kinds.setdefault((frame.kind, frame.calls, frame.positions), []).append(frame.seconds - before.seconds)
            number, positions = number + frame.calls, positions + frame.positions * bool(frame.calls)
    tokens = sum(trace.num_tokens for trace in traces) or 1
    seconds = sum(len(times) * median(times) for times in kinds.values())
    return tokens / max(number, 1), positions / max(number, 1), 1e3 * seconds / tokens


def candidates(trained: bool, blocks: Sequence[int] = (8, 16, 32)) -> list[Request]:
    """The ways that are tried; drafts from the own canvas and diffusion only where it has learnt to denoise."""
    base = Request("-", max_tokens=TOKENS)
    ways = [replace(base, decode="ar")]
    ways += [replace(base, decode="verified", draft="fixed-point", draft_length=k) for k in (2, 4, 8)]
    ways += [replace(base, decode="verified", draft="lookup", draft_length=8)]
    if trained:
        for draft, lengths in (("self", (2, 4)), ("self-last", (4, 8)), ("self-two-call", (2, 4, 8))):
            ways += [replace(base, decode="verified", draft=draft, draft_length=k) for k in lengths]  # type: ignore[arg-type]  # a draft's name
        policy = QUALITY["balanced"]()
        ways += [replace(base, decode="diffusion", policy=replace(policy, canvas_length=n)) for n in blocks]
    return ways


def make_plan(engine: Engine, repeats: int = 5, clock: Callable[[], float] = time.perf_counter) -> Plan:
    """Measure and try. Raises ValueError for a model of whole canvases: there is nothing to choose."""
    if engine.checkpoint.facts.whole:
        raise ValueError(f"{engine.checkpoint.name} writes whole canvases; there is no other way to choose")
    curve = measure(engine.denoiser, repeats, clock)
    raw = engine.tokenizer.chat_template is None
    ways = []
    for request in candidates(engine.checkpoint.facts.trained_canvas):
        replies = [engine.generate(replace(request, prompt=prompt, raw=raw))[0] for prompt in PROMPTS]
        verified = request.decode == "verified"
        block = (
            request.policy.canvas_length if request.decode == "diffusion" and not isinstance(request.policy, str) else 0
        )
        ways.append(
            Way(
                request.decode, request.draft if verified else "", request.draft_length if verified else 0, block,
                *timed([reply.trace for reply in replies]),
            )
        )  # fmt: skip
    return Plan(curve, tuple(ways))


def plan(engine: Engine) -> Plan:
    """The plan of this model on this machine: from the cache, or measured now and kept there."""
    path = cache_folder() / "plans" / f"{_key(engine)}.json"
    try:
        return _from_json(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there yet, or damaged: measured anew
    made = make_plan(engine)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.write(json.dumps(asdict(made)).encode())
    except OSError:
        pass  # a cache that cannot be written costs the measurement once more
    return made


def _key(engine: Engine) -> str:
    """Model, adapter, kernels, threads and machine: what the times depend on."""
    checkpoint = engine.checkpoint
    files = {slot.file for slot in checkpoint.adapter.slots.values()} if checkpoint.adapter else set[Path]()
    adapter = sorted(sha256(file) for file in files)
    try:
        base = checkpoint.weights_sha256()
    except ValueError:
        base = checkpoint.name
    machine = [platform.node(), platform.machine(), processor(), torch.__version__]
    threads = getattr(engine.denoiser, "threads", torch.get_num_threads())
    parts = [VERSION, base, adapter, engine.compute, threads, *machine]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def processor() -> str:
    """This machine's, by the name that it gives itself; empty where it gives none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _from_json(table: dict[str, Any]) -> Plan:
    curve = Curve(tuple(table["curve"]["positions"]), tuple(table["curve"]["milliseconds"]))
    return Plan(curve, tuple(Way(**way) for way in table["ways"]))
