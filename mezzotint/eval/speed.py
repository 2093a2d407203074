"""Speed of ways of decoding on one set of weights, beside what they get right. Definitions for text that settles late.

    prompt ... first draft ... first committed text ... half of the characters ... last       one request at a time
           <------------------------------------------------------------------------> end to end

first draft       the first canvas that shows a token; it may change. Text left to right is never a draft
committed text    text that is never changed afterwards, as the engine gives it out
visible tokens    of the final text, without end and special tokens
overhead          where a straight line through (tokens, end-to-end) meets 0 tokens; its slope is the sampling speed
difficulty        mean entropy, nats a token, of the same weights' causal law along a canvas's own text

Two kinds of prompts, each with an answer that can be checked: easy ones ask for a list of words again, hard ones are word
problems. No speed stands without the share right at the same settings.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from mezzotint.eval.extract import last_number

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mezzotint.engine.engine import Engine
    from mezzotint.engine.request import Request
    from mezzotint.sampler.trace import Frame, Trace

WORDS = (
    "apple", "river", "stone", "window", "candle", "garden", "bottle", "silver", "winter", "morning", "table", "yellow",
    "forest", "paper", "bridge", "music", "letter", "island", "summer", "button", "pocket", "mirror", "orange", "castle",
    "basket", "ladder", "hammer", "blanket", "planet", "feather",
)  # fmt: skip
GOODS, PEOPLE = (
    ("pears", "books", "stamps", "plates", "roses", "tickets"),
    ("Anna", "Ben", "Clara", "David", "Eva", "Farid"),
)
KINDS = ("easy", "hard")
WARM_UP = 1  # requests of each way before the clock counts
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Prompt:
    kind: str
    text: str
    answer: str

    def right(self, said: str) -> bool:
        """easy: the words, in order, and nothing but punctuation between them; hard: the last number."""
        if self.kind == "hard":
            number = last_number(said)
            return number is not None and float(number) == float(self.answer)
        return self.answer in " ".join(word.strip(".,:;!\"'`*-").lower() for word in said.split())


def prompts(count: int, seed: int) -> list[Prompt]:
    """So many of each kind, of differing lengths, no two the same."""
    draws, made = random.Random(seed), list[Prompt]()
    for number in range(count):
        words = [draws.choice(WORDS) for _ in range(4 + 4 * (number % 6))]
        made.append(
            Prompt("easy", f"Repeat these words exactly, with nothing else: {' '.join(words)}", " ".join(words))
        )
        a, b, c, d = draws.randint(30, 99), draws.randint(3, 29), draws.randint(2, 9), draws.randint(3, 12)
        who, goods = draws.choice(PEOPLE), draws.choice(GOODS)
        made.append(Prompt(
            "hard",
            f"{who} has {a} {goods}, gives {b} of them away and then buys {c} boxes with {d} {goods} each. How many {goods} does "
            f"{who} have now? Think step by step and end with the number.",
            str(a - b + c * d),
        ))  # fmt: skip
    return made


@dataclass
class Canvas:
    """steps: denoising calls; tokens: committed; entropy: nats a token of the causal law along them."""

    steps: int
    tokens: int
    entropy: float = math.nan


@dataclass
class Sample:
    """One request. Seconds since it was sent; None: it did not happen. shares: when 50, 90, 100% of the characters stood.

    revised: share of canvas places whose token changed after it was first filled.
    """

    kind: str
    right: bool
    text: str
    tokens: int
    calls: int
    positions: int
    end: float
    first_draft: float | None
    first_text: float | None
    shares: tuple[float, float, float]
    steps: list[float]  # seconds of each call
    revised: float
    processor: float
    canvases: list[Canvas] = field(default_factory=list)


def measure(engine: Engine, prompt: Prompt, settings: Request) -> Sample:
    """Ask once, with the clock running. settings: a Request whose prompt is left out of account."""
    from mezzotint.engine.request import Finished, Text
    from mezzotint.sampler.trace import Frame, Trace

    request = replace(settings, prompt=prompt.text)
    trace, pieces = Trace({}), list[tuple[float, str]]()
    first_draft: float | None = None
    calls, began, worked = list[float](), time.perf_counter(), time.process_time()
    for event in engine.stream(request):
        now = time.perf_counter() - began
        if isinstance(event, Frame):
            trace.add(event)
            if event.calls:
                calls.append(now)
            if event.kind == "denoise" and first_draft is None and any(_filled(event)):
                first_draft = now
        elif isinstance(event, Text):
            pieces.append((now, event.piece))
        elif isinstance(event, Finished):
            break
    end, worked = time.perf_counter() - began, time.process_time() - worked
    text = "".join(piece for _, piece in pieces)
    hidden = engine.stop_ids
    ids = trace.replay()
    sample = Sample(
        prompt.kind, prompt.right(text), text, sum(token not in hidden for token in ids), trace.num_calls, trace.num_positions,
        end, first_draft, pieces[0][0] if pieces else None, _shares(pieces, end),
        [b - a for a, b in pairwise(calls)], _revised(trace), worked, _canvases(trace),
    )  # fmt: skip
    if sample.canvases:
        _entropies(engine, request, ids, sample.canvases)
    return sample


def _filled(frame: Frame) -> Iterator[bool]:
    from mezzotint.sampler.canvas import OPEN

    return (status != OPEN for status in frame.status)


def _shares(pieces: Sequence[tuple[float, str]], end: float) -> tuple[float, float, float]:
    total, found = sum(len(piece) for _, piece in pieces), list[float]()
    for share in (0.5, 0.9, 1.0):
        stood = 0
        for when, piece in pieces:
            stood += len(piece)
            if stood >= share * total:
                found.append(when)
                break
        else:
            found.append(end)
    return found[0], found[1], found[2]


def _revised(trace: Trace) -> float:
    """Share of the filled canvas places whose token was another one later."""
    first: dict[int, int] = {}
    changed = set[int]()
    for frame in trace.frames:
        if frame.kind == "denoise":
            for at, (token, filled) in enumerate(zip(frame.tokens, _filled(frame), strict=True), frame.start):
                if filled and first.setdefault(at, token) != token:
                    changed.add(at)
    return len(changed) / len(first) if first else 0.0


def _canvases(trace: Trace) -> list[Canvas]:
    steps: dict[int, int] = {}
    made = []
    for frame in trace.frames:
        if frame.kind == "denoise":
            steps[frame.block] = steps.get(frame.block, 0) + frame.calls
        elif frame.kind == "commit" and frame.committed and frame.block in steps:
            made.append(Canvas(steps[frame.block], frame.committed))
    return made


def _entropies(engine: Engine, request: Request, ids: Sequence[int], canvases: Sequence[Canvas]) -> None:
    """One causal pass over prompt and answer, outside the clock."""
    import torch

    prompt = engine.prompt_ids(request)
    whole = [*prompt, *ids]
    with torch.inference_mode():
        cache = engine.denoiser.new_cache(1, len(whole))
        logits = engine.denoiser.read(torch.tensor([whole]), torch.tensor([len(whole)]), cache, every=True).logits[0]
        law = logits[len(prompt) - 1 : -1].double().softmax(-1)
    spread, at = (-torch.xlogy(law, law).sum(-1)).tolist(), 0
    for canvas in canvases:
        canvas.entropy = math.fsum(spread[at : at + canvas.tokens]) / canvas.tokens
        at += canvas.tokens


# -- figures --------------------------------------------------------------------------------------------------------


def quantile(values: Sequence[float], share: float) -> float:
    """Linear between neighbours; nan of none."""
    import numpy as np

    return float(np.quantile(values, share)) if len(values) else math.nan


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Least squares: intercept, slope. nan where all x are the same."""
    if len({x for x, _ in points}) < 2:
        return math.nan, math.nan
    fit = statistics.linear_regression(*zip(*points, strict=True))
    return fit.intercept, fit.slope


def correlation(points: Sequence[tuple[float, float]], count: int = 300, seed: int = 0) -> tuple[float, float, float]:
    """Spearman's rank correlation with a 95% bootstrap interval. nan where either side is constant."""
    import numpy as np

    pairs, draws = np.array(points, dtype=np.float64).reshape(-1, 2), np.random.default_rng(seed)

    def of(some: NDArray[np.float64]) -> float:
        ranks = []
        for column in some.T:
            _, where, counts = np.unique(column, return_inverse=True, return_counts=True)
            ranks.append((np.cumsum(counts) - (counts - 1) / 2)[where])  # ties share their mean rank
            if len(counts) < 2:
                return math.nan
        return float(np.asarray(np.corrcoef(ranks))[0, 1])

    if len(pairs) < 3:
        return math.nan, math.nan, math.nan
    again = [of(pairs[draws.integers(len(pairs), size=len(pairs))]) for _ in range(count)]
    known = [value for value in again if not math.isnan(value)]
    return of(pairs), quantile(known, 0.025), quantile(known, 0.975)


@dataclass(frozen=True)
class Figures:
    """Of the requests of one kind, asked in one way. Names as in the module's head; seconds."""

    requests: int
    right: int
    tokens: int
    characters: int
    speed: float  # visible tokens a second, end to end
    end_p50: float
    end_p95: float
    first_draft: float | None
    first_text: float
    half: float
    nine_tenths: float
    overhead: float
    sampling_speed: float
    tokens_per_call: float
    positions_per_token: float
    call_p50: float
    call_p95: float
    steps_per_canvas: float
    revised: float
    processor_per_token: float


def figures(samples: Sequence[Sample]) -> Figures:
    tokens, ends = sum(s.tokens for s in samples), [s.end for s in samples]
    overhead, slope = line([(s.tokens, s.end) for s in samples])
    calls = [seconds for s in samples for seconds in s.steps]
    canvases = [canvas.steps for s in samples for canvas in s.canvases]
    drafts = [s.first_draft for s in samples if s.first_draft is not None]
    per = max(tokens, 1)
    return Figures(
        len(samples), sum(s.right for s in samples), tokens, sum(len(s.text) for s in samples), tokens / sum(ends),
        quantile(ends, 0.5), quantile(ends, 0.95), quantile(drafts, 0.5) if drafts else None,
        quantile([s.first_text for s in samples if s.first_text is not None], 0.5), quantile([s.shares[0] for s in samples], 0.5),
        quantile([s.shares[1] for s in samples], 0.5), overhead, 1 / slope if slope else math.nan,
        tokens / max(1, sum(s.calls for s in samples)), sum(s.positions for s in samples) / per, quantile(calls, 0.5),
        quantile(calls, 0.95), statistics.fmean(canvases) if canvases else math.nan,
        statistics.fmean([s.revised for s in samples]), sum(s.processor for s in samples) / per,
    )  # fmt: skip


@dataclass(frozen=True)
class Load:
    """rows requests answered together: visible tokens a second of all, and processor seconds a token."""

    rows: int
    speed: float
    processor: float


@dataclass
class Found:
    """One way. samples: of every prompt, in their order; loads: by number of rows."""

    name: str
    samples: list[Sample]
    loads: list[Load]

    def of(self, kind: str | None = None) -> Figures:
        return figures([s for s in self.samples if kind is None or s.kind == kind])

    @property
    def canvases(self) -> list[tuple[float, float]]:
        """(difficulty, steps) of every full canvas: a last one that was cut short takes fewer for that."""
        full = max((c.tokens for s in self.samples for c in s.canvases), default=0)
        return [(c.entropy, float(c.steps)) for s in self.samples for c in s.canvases if c.tokens == full]


def run(
    engine: Engine, ways: Mapping[str, Request], asked: Sequence[Prompt], rows: Sequence[int], report: Report = lambda *_: None
) -> list[Found]:  # fmt: skip
    """Every way on every prompt, one request at a time; then `rows` of them together. Raises ValueError for no prompts."""
    if not asked:
        raise ValueError("there are no prompts")
    found, raw = [], engine.tokenizer.chat_template is None
    for name, settings in ((name, replace(settings, raw=raw)) for name, settings in ways.items()):
        for prompt in asked[:WARM_UP]:
            measure(engine, prompt, settings)
        samples = []
        for number, prompt in enumerate(asked, 1):
            samples.append(measure(engine, prompt, settings))
            report(name, number, len(asked))
        found.append(Found(name, samples, [_together(engine, asked, settings, count) for count in rows]))
    return found


def _together(engine: Engine, asked: Sequence[Prompt], settings: Request, count: int) -> Load:
    some = [replace(settings, prompt=asked[number % len(asked)].text, choice=number) for number in range(count)]
    began, worked = time.perf_counter(), time.process_time()
    replies = engine.generate(some)
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    tokens = sum(len(reply.ids) for reply in replies)
    return Load(count, tokens / seconds, worked / max(tokens, 1))


def same_quality(first: Figures, second: Figures) -> bool:
    """Is the second right as often as the first, within one standard error of their difference?"""
    shares = [one.right / one.requests for one in (first, second)]
    error = math.sqrt(sum(p * (1 - p) / one.requests for p, one in zip(shares, (first, second), strict=True)))
    return shares[1] >= shares[0] - error


def about(engine: Engine, seed: int, count: int, max_tokens: int) -> dict[str, Any]:
    """What figures depend on."""
    import datetime
    import platform

    import torch

    from mezzotint.engine.cost import processor

    checkpoint = engine.checkpoint
    return {
        "model": checkpoint.name, "weights_sha256": checkpoint.weights_sha256(), "compute": engine.compute,
        "processor": processor(), "libraries": f"Python {platform.python_version()}, torch {torch.__version__}",
        "prompts": f"{count} of each kind, seed {seed}, at most {max_tokens} tokens an answer",
        "date": f"{datetime.date.today():%Y-%m-%d}",
    }  # fmt: skip
