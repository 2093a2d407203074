"""Load: a server measured from outside, through its streams. Any server that speaks OpenAI's API.

    closed loop   a fixed number of clients, each asks again when it has its answer: what can it carry?
    open loop     requests come at their own rate, answered or not: what do users wait for?

    request  ......  first draft  ......  first committed text  .... text .... text .... end
             <-----------------------------------------------------------------------> end to end

In an open loop the clock starts when a request was due, not when it could be sent, so a stall counts for all it delays.
A draft is a chunk with a `diffusion` or `diffusion_meta` object; it may change. Text that came without one is committed.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from mezzotint.sse_client import Client, Refused

KINDS = {"chat": "/chat/completions", "completions": "/completions"}
PROMPTS = (
    "Explain rain in two sentences.", "List three facts about bread.", "Why do magnets attract?", "What is 17 + 25?",
    "Write a Python function that reverses a string.", "Describe a river in one paragraph.", "Name three colours.",
    "Translate to French: good morning.",
)  # fmt: skip


READY = 8  # connections of an open loop that are there before its clock starts; a closed loop has one a client


@dataclass(frozen=True)
class Load:
    """What to ask of the server at `url` (it ends in /v1), and how often.

    concurrency: clients of a closed loop; rate: requests a second of an open one, at even distances or, with `poisson`,
    at random ones drawn from `seed`. within: limits in seconds that a good answer keeps, by name of the figure
    (first_draft, first_text, end_to_end). body: further fields of every request. Raises ValueError for what cannot be.
    """

    url: str
    model: str
    kind: str = "chat"
    prompts: Sequence[str] = PROMPTS
    requests: int = 32
    concurrency: int | None = None
    rate: float | None = None
    poisson: bool = False
    seed: int = 0
    max_tokens: int = 128
    drafts: bool = False
    key: str | None = None
    within: dict[str, float] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}; allowed: {', '.join(KINDS)}")
        Client(self.url, {})
        if not self.prompts or not all(self.prompts):
            raise ValueError("there are no prompts, or an empty one")
        for name, least in (("requests", 1), ("max_tokens", 1), ("concurrency", 1)):
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}")
        if self.rate is not None and not 0 < self.rate <= 10_000:
            raise ValueError(f"rate is {self.rate}; it must lie above 0 and at most at 10000 requests a second")
        if (self.rate is None) == (self.concurrency is None):
            raise ValueError("give a rate (open loop) or a concurrency (closed loop)")
        for name, limit in self.within.items():
            if name not in FIGURES or not limit > 0:
                raise ValueError(f"the limit {name}={limit} is none; names: {', '.join(FIGURES)}; seconds above 0")

    def asked(self, number: int) -> dict[str, Any]:
        """The body of one request."""
        prompt = self.prompts[number % len(self.prompts)]
        said = {"messages": [{"role": "user", "content": prompt}]} if self.kind == "chat" else {"prompt": prompt}
        options = {"include_usage": True, **({"include_diffusion": True} if self.drafts else {})}
        return {
            "model": self.model, **said, "max_tokens": self.max_tokens, "stream": True, "stream_options": options, **self.body
        }  # fmt: skip

    def due(self) -> list[float]:
        """When each request of an open loop is sent, in seconds after the start."""
        assert self.rate is not None
        if not self.poisson:
            return [number / self.rate for number in range(self.requests)]
        draws, now, out = random.Random(self.seed), 0.0, list[float]()
        for _ in range(self.requests):
            out.append(now)
            now += draws.expovariate(self.rate)
        return out


@dataclass
class Sample:
    """One request; times in seconds since it was due. None: it did not happen."""

    began: float  # on the run's clock
    first_draft: float | None = None
    first_text: float | None = None
    end_to_end: float | None = None
    gaps: list[float] = field(default_factory=list)  # between pieces of committed text
    tokens: int = 0
    chunks: int = 0
    error: str | None = None


FIGURES = ("first_draft", "first_text", "end_to_end")


async def run(load: Load) -> dict[str, Any]:
    """Ask, and report. Raises ValueError when no request was answered."""
    headers = {"authorization": f"Bearer {load.key}"} if load.key else {}
    client = Client(load.url, headers)
    samples: list[Sample] = []
    try:
        with suppress(OSError):  # each request will say so
            await client.connect(min(load.requests, load.concurrency or READY))
        began = time.perf_counter()

        async def ask(number: int, due: float) -> None:
            sample = Sample(due)
            samples.append(sample)
            await _ask(client, load, number, sample, began + due)

        if load.concurrency is not None:
            left = iter(range(load.requests))

            async def work() -> None:
                for number in left:
                    await ask(number, time.perf_counter() - began)

            await asyncio.gather(*(work() for _ in range(load.concurrency)))
        else:
            tasks = []
            for number, due in enumerate(load.due()):
                await asyncio.sleep(max(0.0, began + due - time.perf_counter()))
                tasks.append(asyncio.create_task(ask(number, due)))
            await asyncio.gather(*tasks)
    finally:
        await client.close()
    return report(load, samples, began)


async def _ask(client: Client, load: Load, number: int, sample: Sample, start: float) -> None:
    """One request. What goes wrong is noted in its sample."""
    last: float | None = None
    usage: int | None = None
    try:
        async with aclosing(client.post(KINDS[load.kind], load.asked(number))) as lines:
            async for line in lines:
                now = time.perf_counter() - start
                if not line.startswith("data:") or (said := line[5:].strip()) == "[DONE]":
                    continue
                chunk = json.loads(said)
                if "error" in chunk:
                    sample.error = "error in the stream"
                    return
                if (counted := (chunk.get("usage") or {}).get("completion_tokens")) is not None:
                    usage = counted
                draft = "diffusion" in chunk or "diffusion_meta" in chunk
                if draft and sample.first_draft is None:
                    sample.first_draft = now
                if any(map(_speaks, chunk.get("choices") or ())) and "diffusion_meta" not in chunk:
                    sample.chunks += 1
                    if last is None:
                        sample.first_text = now
                    else:
                        sample.gaps.append(now - last)
                    last = now
        sample.end_to_end = time.perf_counter() - start
        sample.tokens = sample.chunks if usage is None else usage
    except Refused as error:
        sample.error = str(error)
    except OSError as error:
        sample.error = error.strerror or type(error).__name__
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        sample.error = f"not a stream of chunks ({type(error).__name__})"


def _speaks(choice: dict[str, Any]) -> bool:
    """Does this part of a chunk bring text, or a piece of a call?"""
    delta = choice.get("delta") or {}
    return bool(choice.get("text") or any(delta.get(key) for key in ("content", "reasoning_content", "tool_calls")))


def report(load: Load, samples: Sequence[Sample], clock: float) -> dict[str, Any]:
    """Every figure in seconds, tokens and requests a second. goodput: answers a second that kept all limits.

    clock: when the run began on this machine's monotonic clock, to set it beside a server's log.
    """
    done = [sample for sample in samples if sample.error is None and sample.end_to_end is not None]
    failed: dict[str, int] = {}
    for sample in samples:
        if sample.error is not None:
            failed[sample.error] = failed.get(sample.error, 0) + 1
    if not done:
        raise ValueError(f"no request was answered: {', '.join(f'{n} x {what}' for what, n in failed.items())}")
    first = min(sample.began for sample in samples)
    seconds = max(sample.began + (sample.end_to_end or 0) for sample in done) - first
    good = [
        s for s in done if all((v := getattr(s, name)) is not None and v <= most for name, most in load.within.items())
    ]
    tokens = sum(sample.tokens for sample in done)
    loop = {"concurrency": load.concurrency} if load.rate is None else {"rate": load.rate, "poisson": load.poisson}
    return {
        "url": load.url, "model": load.model, "kind": load.kind, **loop,
        "clock": clock, "requests": len(samples), "answered": len(done), "failed": failed, "seconds": seconds,
        **{name: _spread([getattr(sample, name) for sample in done]) for name in FIGURES},
        "between_texts": _spread([gap for sample in done for gap in sample.gaps]),
        "tokens": tokens, "tokens_per_second": tokens / seconds,
        "tokens_per_second_each": _spread([s.tokens / s.end_to_end for s in done if s.end_to_end]),
        "requests_per_second": len(done) / seconds,
        "within": load.within, "good": len(good), "goodput": len(good) / seconds,
        "samples": [asdict(sample) for sample in samples],
    }  # fmt: skip


def _spread(values: Sequence[float | None]) -> dict[str, float] | None:
    """Mean and percentiles, None where nothing was seen."""
    seen = [value for value in values if value is not None]
    if not seen:
        return None
    p50, p90, p99 = np.percentile(seen, (50, 90, 99))
    return {"mean": float(np.mean(seen)), "p50": float(p50), "p90": float(p90), "p99": float(p99), "count": len(seen)}


def table(found: dict[str, Any]) -> str:
    """A report for reading: milliseconds."""
    loop = f"{found['concurrency']} clients" if "concurrency" in found else f"{found['rate']:g} requests/s"
    lines = [
        f"{found['answered']} of {found['requests']} requests answered in {found['seconds']:.2f} s, {loop}",
        f"{'ms':<22}{'mean':>10}{'p50':>10}{'p90':>10}{'p99':>10}",
    ]
    names = {
        "first_draft": "first draft", "first_text": "first committed text", "between_texts": "between texts",
        "end_to_end": "end to end",
    }  # fmt: skip
    for key, name in names.items():
        spread = found[key]
        cells = ["-"] * 4 if spread is None else [f"{1000 * spread[p]:.1f}" for p in ("mean", "p50", "p90", "p99")]
        lines.append(f"{name:<22}" + "".join(f"{cell:>10}" for cell in cells))
    each = found["tokens_per_second_each"]
    lines.append(f"{found['tokens_per_second']:.1f} tokens/s in all, {each['mean']:.1f} a request")
    limits = ", ".join(f"{name} {1000 * limit:g} ms" for name, limit in found["within"].items()) or "no limits"
    lines.append(f"{found['requests_per_second']:.2f} requests/s; goodput {found['goodput']:.2f} ({limits})")
    lines += [f"{count} failed: {what}" for what, count in found["failed"].items()]
    return "\n".join(lines)
