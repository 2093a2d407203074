"""Many requests on one engine: throughput against static batches, memory a stream, and the cost of a block as text grows.

throughput   the same requests as rows of one static batch (`Engine.stream`), and through the scheduler; rounds in pairs,
             the one that goes first alternating; a ratio is the scheduler's tokens a second over the static batch's
uneven       three times as many requests of different lengths: static batches of 8 wait for their longest row
memory       resident bytes of a stream with 1k of context, beside what the scheduler has accounted for it
agreement    32 requests alone and in batches of 8, float32 through the scheduler and int8 as static batches: equal texts
blocks       seconds of a denoising step of 16 positions behind 128 to 8k positions of text
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import report
import torch

import mezzotint as mz
from mezzotint.engine.engine import Engine
from mezzotint.engine.scheduler import Scheduler
from mezzotint.sampler.trace import Frame

Clock = Callable[[], float]
PROMPTS = (
    "Name three colours.",
    "Write a Python function that adds two numbers.",
    "What is a mezzotint?",
    "Describe rain.",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="default")
    parser.add_argument("--tokens", type=int, default=32, help="tokens an answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--decode", default="ar,verified,diffusion")
    parser.add_argument("--contexts", default="128,512,1024,2048,4096,8192")
    parser.add_argument("--counts", default="1,2,4,8", help="requests at once")
    parser.add_argument("--parts", default="throughput,uneven,memory,blocks,agreement")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    clock = time.perf_counter if asked.clock == "wall" else time.process_time
    counts = [int(count) for count in asked.counts.split(",")]
    engine = mz.Engine(mz.load(asked.model))
    decodes = asked.decode.split(",")
    contexts = [int(context) for context in asked.contexts.split(",")]
    lines: list[str] = []
    for name in asked.parts.split(","):
        lines += {
            "throughput": lambda: throughput(engine, asked.tokens, asked.rounds, decodes, counts, clock),
            "uneven": lambda: uneven(engine, asked.tokens, asked.rounds, decodes, clock),
            "memory": lambda: memory(engine, decodes),
            "agreement": lambda: agreement(engine, asked.model, asked.tokens, decodes),
            "blocks": lambda: blocks(engine, asked.rounds, contexts, clock),
        }[name]()
    report.write("batching", "Many requests on one engine", lines)


def requests(decode: str, count: int, tokens: int) -> list[mz.Request]:
    return [
        mz.Request(PROMPTS[n % len(PROMPTS)], decode=decode, max_tokens=tokens, seed=n)  # type: ignore[arg-type]  # checked there
        for n in range(count)
    ]


def static(engine: Engine, rows: Sequence[mz.Request]) -> int:
    """Rows of one batch, `Engine.stream` -> tokens committed."""
    return sum(event.committed for event in engine.stream(rows) if isinstance(event, Frame))


def continuous(engine: Engine, rows: Sequence[mz.Request], most: int = 8) -> int:
    """The same through a scheduler with `most` rows at once."""
    scheduler = Scheduler(engine, rows=most)
    streams = [scheduler.submit(row) for row in rows]
    while scheduler.busy:
        scheduler.tick()
    return sum(event.committed for stream in streams for event in stream if isinstance(event, Frame))


def rate(work: Callable[[], int], clock: Clock) -> float:
    began = clock()
    return work() / (clock() - began)


def paired(ours: Callable[[], int], theirs: Callable[[], int], rounds: int, clock: Clock) -> tuple[float, float, float]:
    """Medians of tokens a second, ours and theirs, and of their ratio by round."""
    pairs = []
    for number in range(rounds):
        first, second = (ours, theirs) if number % 2 else (theirs, ours)
        one, two = rate(first, clock), rate(second, clock)
        pairs.append((one, two) if number % 2 else (two, one))
    return (
        statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs),
        statistics.median(p[0] / p[1] for p in pairs),
    )  # fmt: skip


def throughput(
    engine: Engine, tokens: int, rounds: int, decodes: Sequence[str], counts: Sequence[int], clock: Clock
) -> list[str]:
    table = []
    for decode in decodes:
        for count in counts:
            rows = requests(decode, count, tokens)
            measured = paired(lambda r=rows: continuous(engine, r), lambda r=rows: static(engine, r), rounds, clock)  # type: ignore[misc]  # defaults of a lambda
            table.append((decode, count, *measured))
    best = {decode: max(row[3] for row in table if row[0] == decode) for decode in decodes}
    rows = [(*row, row[2] / best[row[0]]) for row in table]
    head = ("decode", "requests", "scheduler, tokens/s", "static batch, tokens/s", "ratio", "of the best static batch")
    return ["## Throughput", "", *report.table(head, rows), ""]


def uneven(engine: Engine, tokens: int, rounds: int, decodes: Sequence[str], clock: Clock) -> list[str]:
    lengths = [max(4, tokens * (1 + 3 * n % 8) // 8) for n in range(24)]
    table = []
    for decode in decodes:
        rows = [replace(row, max_tokens=n) for row, n in zip(requests(decode, 24, tokens), lengths, strict=True)]

        def batches(rows: Sequence[mz.Request] = rows) -> int:
            # a static batch computes every row to the longest; what a shorter one asked for is counted
            groups = [rows[first : first + 8] for first in range(0, len(rows), 8)]
            for group in groups:
                static(engine, [replace(row, max_tokens=max(r.max_tokens for r in group)) for row in group])
            return sum(row.max_tokens for row in rows)

        def flowing(rows: Sequence[mz.Request] = rows) -> int:
            continuous(engine, rows)
            return sum(row.max_tokens for row in rows)

        table.append((decode, *paired(flowing, batches, rounds, clock)))
    head = ("decode", "scheduler, tokens/s", "static batches of 8, tokens/s", "ratio")
    return ["## 24 requests of different lengths, 8 at once", "", *report.table(head, table), ""]


def agreement(engine: Engine, model: str, tokens: int, decodes: Sequence[str]) -> list[str]:
    """Texts of 32 requests one at a time beside those in batches of 8, by kernels."""
    rows, raw = [], engine.tokenizer.chat_template is None
    for name, one in (
        ("float32, scheduler", engine),
        ("int8, static batches", mz.Engine(mz.load(model), compute="int8")),
    ):
        for decode in decodes:
            asked = [
                replace(request, prompt=f"{request.prompt} ({n})", temperature=0.7 if n % 2 else 0.0, raw=raw)
                for n, request in enumerate(requests(decode, 32, tokens))
            ]
            alone = [one.generate(request)[0].text for request in asked]
            together: list[str] = []
            for kind in (0, 1):  # a static batch has one temperature
                some = asked[kind::2]
                for first in range(0, len(some), 8):
                    batch = some[first : first + 8]
                    together += _scheduled(one, batch) if one is engine else [r.text for r in one.generate(batch)]
            same = [a == b for a, b in zip([*alone[0::2], *alone[1::2]], together, strict=True)]
            rows.append((name, decode, sum(same), len(same)))
    return ["## Alone and in batches of 8", "", *report.table(("kernels", "decode", "equal texts", "of"), rows), ""]


def _scheduled(engine: Engine, batch: Sequence[mz.Request]) -> list[str]:
    scheduler = Scheduler(engine, rows=len(batch))
    streams = [scheduler.submit(request) for request in batch]
    while scheduler.busy:
        scheduler.tick()
    return ["".join(event.piece for event in stream if isinstance(event, mz.Text)) for stream in streams]


def memory(engine: Engine, decodes: Sequence[str], context: int = 1024, streams: int = 4) -> list[str]:
    """Streams whose prompts share nothing, each with `context` positions in all."""
    process, table = psutil.Process(), []
    for decode in decodes:
        scheduler = Scheduler(engine, memory=1 << 31)
        words = engine.tokenizer.encode(" word" * context)
        ask = mz.Request("x", raw=True, decode=decode, max_tokens=48)  # type: ignore[arg-type]  # checked there
        list(engine.stream(replace(ask, max_tokens=2)))  # what the first call allocates is no stream's
        gc.collect()
        before = process.memory_info().rss
        for number in range(streams):
            text = f"{number} " + engine.tokenizer.decode(words[: context - ask.max_tokens - 8])
            scheduler.submit(replace(ask, prompt=text, seed=number))
        while len(scheduler.rows) < streams or any(
            not row.calls or len(row.calls[0].read) - row.calls[0].done > ask.max_tokens for row in scheduler.rows
        ):  # a prompt is still being read; what is written later is shorter
            scheduler.tick()
        for _ in range(3):
            scheduler.tick()
        used = process.memory_info().rss - before
        table.append((decode, context, streams, scheduler.memory.used / streams / 1e6, used / streams / 1e6))
        for row in scheduler.rows:
            row.job.cancelled.set()
        scheduler.tick()
    head = ("decode", "context", "streams", "accounted, MB a stream", "resident, MB a stream")
    return ["## Memory a stream", "", *report.table(head, table), ""]


def blocks(engine: Engine, rounds: int, contexts: Sequence[int], clock: Clock) -> list[str]:
    table = []
    words = engine.tokenizer.encode(" word" * 8192)
    for context in contexts:
        scheduler = Scheduler(engine, memory=1 << 31, chunk=256)
        prompt = engine.tokenizer.decode(words[: min(context, engine.denoiser.config.max_length - 40)])
        scheduler.submit(mz.Request(prompt, raw=True, decode="diffusion", max_tokens=32))
        while not scheduler.rows or not scheduler.rows[0].calls or not len(scheduler.rows[0].calls[0].tokens):
            scheduler.tick()
        scheduler.tick()
        while scheduler.rows and scheduler.rows[0].calls[0].read:
            scheduler.tick()
        times = []
        for _ in range(2 * rounds):
            began = clock()
            scheduler.tick()
            times.append(clock() - began)
        table.append((context, statistics.median(times) * 1e3))
    rows = [(context, ms, ms / table[0][1]) for context, ms in table]
    draw(rows)
    head = ("context", "ms a step of 16 positions", "of the first")
    return ["## A step as the text grows", "", *report.table(head, rows), ""]


def draw(rows: Sequence[tuple[int, float, float]]) -> Path:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5, 3))
    axis.plot([row[0] for row in rows], [row[2] for row in rows], marker="o", color="black")
    axis.set(
        xscale="log",
        xlabel="positions of text before the block",
        ylabel="cost of a step, the first = 1",
        ylim=(0, None),
    )
    axis.set_xticks([row[0] for row in rows], [str(row[0]) for row in rows])
    axis.axhline(2, linestyle=":", color="grey")
    path = report.ROOT / "docs" / "images" / "batching.svg"
    figure.savefig(path, bbox_inches="tight")
    return path


if __name__ == "__main__":
    main()
