"""The default model on this processor against llama.cpp (the `xllamacpp` wheel) on the same GGUF, batch 1, same threads.

    pair     one process of ours, one of theirs; the one that goes first alternates; a ratio is ours over theirs
    write    64 greedy tokens behind a short prompt, ignoring the end of text    `ar`: at least 0.9 of their tokens/s is wanted
    read     a prompt of 512 tokens                                                  at least twice as fast is wanted
    curve    our milliseconds a call over 1 .. 64 positions, beside theirs for reading as many
    code     answers to --code prompts of HumanEval, of at most 128 tokens, reading not counted: theirs, our `ar`, and our

Their times are llama.cpp's own (`timings`); ours are taken around the engine's work, sampling and Python included.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import report

import mezzotint as mz

WIDTHS = (1, 2, 4, 8, 16, 32, 64)
TOKENS, READ, CODE = 64, 512, 128
TEXT = "def reverse(text):"


def ids(count: int) -> list[int]:
    """Any tokens: reading costs the same whatever they say."""
    return [100 + 7919 * n % 40000 for n in range(count)]


def questions(count: int) -> list[tuple[Mapping[str, str], ...]]:
    """Prompts of HumanEval, as a chat asks them."""
    from mezzotint.eval.code import humaneval_items
    from mezzotint.eval.data import find, folder, read

    files = find(folder(None), ("humaneval",)) if count else []
    if files is None:
        raise SystemExit("HumanEval is not there: MEZZOTINT_EVALDATA names its folder; --code 0 leaves it out")
    return [item.chat for item in random.Random(0).sample(humaneval_items(read(files).rows, 0), count)] if count else []


def answered(engine: mz.Engine, count: int) -> dict[str, list[float]]:
    """Tokens, calls and seconds of the answers to `count` questions, by way; the first token belongs to the prompt."""
    total = {way: [0.0, 0.0, 0.0] for way in ("ar", "verified")}
    for number, chat in enumerate(questions(count)):
        for way in sorted(total, reverse=bool(number % 2)):
            (reply,) = engine.generate(mz.Request(chat, decode=way, max_tokens=CODE))
            first, last = reply.trace.frames[0], reply.trace.frames[-1]
            found = (reply.trace.num_tokens - first.committed, reply.trace.num_calls, last.seconds - first.seconds)
            total[way] = [a + b for a, b in zip(total[way], found, strict=True)]
    return total


def ours(threads: int, compute: str, count: int) -> dict[str, object]:
    import torch

    from mezzotint.engine.cost import measure

    began = time.perf_counter()
    engine = mz.Engine(mz.load("default"), compute=compute, threads=threads)
    loaded = time.perf_counter() - began
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]
    tokenizer, denoiser = engine.tokenizer, engine.denoiser
    prompt = tokenizer.encode(TEXT)
    with torch.inference_mode():

        def write() -> float:
            from mezzotint.draws import Draws
            from mezzotint.sampler.verify import Verified

            times = [time.perf_counter() for _ in Verified(denoiser).frames([prompt], TOKENS + 1, Draws.of([0]))]
            return TOKENS / (times[-1] - times[0])  # the first frame is the prompt's

        def read() -> float:
            cache = denoiser.new_cache(1, READ + 1)
            began = time.perf_counter()
            denoiser.read(torch.tensor([ids(READ)]), torch.tensor([READ]), cache)
            return time.perf_counter() - began

        write(), read()
        speeds, reads = [write() for _ in range(3)], [read() for _ in range(3)]
    curve = measure(denoiser, 10)
    return {
        "write": max(speeds), "read": min(reads), "load": loaded, "resident": int(resident) / 1e3,
        "code": answered(engine, count), "curve": dict(zip(curve.positions, curve.milliseconds, strict=True)),
    }  # fmt: skip


def theirs(threads: int, count: int) -> dict[str, object]:
    import xllamacpp

    from mezzotint.checkpoints.fetch import base_path

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = str(base_path()), 2048, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)

    def ask(prompt: object, tokens: int, ignore_eos: bool = True) -> dict[str, float]:
        asked = {
            "prompt": prompt,
            "max_tokens": tokens,
            "temperature": 0,
            "cache_prompt": False,
            "ignore_eos": ignore_eos,
        }
        return server.handle_completions(asked)["timings"]

    ask(TEXT, 4)
    speeds = [ask(TEXT, TOKENS)["predicted_per_second"] for _ in range(3)]
    reads = [ask(ids(READ), 1)["prompt_ms"] / 1e3 for _ in range(3)]
    curve = {n: min(ask(ids(n), 1)["prompt_ms"] for _ in range(8)) for n in WIDTHS}
    tokenizer, total = mz.load("default").tokenizer, [0.0, 0.0]
    for chat in questions(count):
        found = ask(tokenizer.chat([dict(turn) for turn in chat]), CODE, ignore_eos=False)
        total = [total[0] + found["predicted_n"], total[1] + found["predicted_ms"] / 1e3]
    return {"write": max(speeds), "read": min(reads), "curve": curve, "code": total}


def child(args: argparse.Namespace, who: str) -> dict:
    command = [sys.executable, __file__, "--child", who, "--threads", str(args.threads), "--compute", args.compute]
    command += ["--code", str(args.code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise RuntimeError(f"{who} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def coded(pairs: Sequence[tuple[dict, dict]], count: int) -> list[str]:
    """The table of answers to questions of code, medians over pairs."""
    if not count:
        return []
    theirs = [b["code"][0] / b["code"][1] for _, b in pairs]
    rows = [("llama.cpp", statistics.median(theirs), 1.0, 1.0, "")]
    for way in ("ar", "verified"):
        speeds = [a["code"][way][0] / a["code"][way][2] for a, _ in pairs]
        over = statistics.median(x / y for x, y in zip(speeds, theirs, strict=True))
        own = statistics.median(
            x * a["code"]["ar"][2] / a["code"]["ar"][0] for x, (a, _) in zip(speeds, pairs, strict=True)
        )
        tokens, calls, _ = pairs[0][0]["code"][way]
        rows.append((f"mezzotint, `{way}`", statistics.median(speeds), over, own, f"{tokens / calls:.2f}"))
    head = ["way", "tokens/s", "times llama.cpp", "times our ar", "tokens a call"]
    return [
        "",
        f"{count} answers of at most {CODE} tokens to HumanEval's prompts, reading left out:",
        "",
        *report.table(head, rows),
    ]


def draw(mine: dict[int, float], llama: dict[int, float]) -> str:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    for curve, label in ((mine, "mezzotint"), (llama, "llama.cpp, reading")):
        left.plot(list(curve), list(curve.values()), marker="o", label=label)
    left.set(xlabel="positions a call", ylabel="milliseconds", xscale="log", yscale="log")
    left.legend()
    one = llama[1]
    right.plot(list(mine), [ms / mine[1] for ms in mine.values()], marker="o", label="to pass our own ar")
    right.plot(list(mine), [ms / one for ms in mine.values()], marker="o", label="to pass llama.cpp")
    right.set(xlabel="positions a call", ylabel="tokens a call, break-even", xscale="log")
    right.legend()
    figure.tight_layout()
    path = report.ROOT / "docs" / "images" / "cpu.svg"
    figure.savefig(path)
    return os.path.relpath(path, report.RESULTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--compute", default="int8")
    parser.add_argument("--code", type=int, default=20)
    parser.add_argument("--child", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        told = (args.threads, args.compute, args.code) if args.child == "ours" else (args.threads, args.code)
        print(json.dumps((ours if args.child == "ours" else theirs)(*told)))
        return
    pairs = []
    for number in range(args.pairs):
        order = ("ours", "theirs") if number % 2 else ("theirs", "ours")
        found = {who: child(args, who) for who in order}
        pairs.append((found["ours"], found["theirs"]))
        print(f"pair {number + 1} of {args.pairs}", file=sys.stderr)
    rows = [
        (n + 1, a["write"], b["write"], a["write"] / b["write"], a["read"], b["read"], b["read"] / a["read"])
        for n, (a, b) in enumerate(pairs)
    ]
    mine, llama = (
        {int(n): min(p[side]["curve"][n] for p in pairs) for n in pairs[0][side]["curve"]} for side in (0, 1)
    )
    picture = draw(mine, llama)
    one = 1e3 / max(b["write"] for _, b in pairs)  # milliseconds of their token
    head = ["pair", "ar tokens/s", "llama.cpp", "ratio", f"read {READ}, s", "llama.cpp", "times faster"]
    shared = [n for n in mine if n in llama]
    report.write("cpu", "The default model on a CPU, beside llama.cpp", [
        f"{args.threads} threads, batch 1, compute {args.compute}. Median ratios: ar {statistics.median(r[3] for r in rows):.3f} "
        f"(0.9 is wanted), reading {statistics.median(r[6] for r in rows):.3f} (2 is wanted). "
        f"Load {statistics.median(a['load'] for a, _ in pairs):.2f} s, {max(a['resident'] for a, _ in pairs):.0f} MB.",
        "", *report.table(head, rows), "",
        "Best milliseconds of a call, and the tokens it must give to be as fast as one token at a time:", "",
        *report.table(
            ["positions", "mezzotint", "llama.cpp", "to pass our ar", "to pass llama.cpp"],
            [(n, mine[n], llama[n], mine[n] / mine[1], mine[n] / one) for n in shared],
        ),
        "", f"![time against positions]({picture})", *coded(pairs, args.code),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
