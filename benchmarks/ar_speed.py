"""Plain decoding against transformers' `generate` on the same fp32 weights; how long loading takes and how much memory.

Both decode the same prompts greedily in one process, in turn, the one that goes first alternating; a round's ratio is
their time over ours, so 1 means as fast and more means faster. Loading and memory are taken from fresh processes.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import report

ROUNDS, TOKENS, FRESH = 5, 64, 5
LOAD = """
import time
began = time.perf_counter()
import torch
imported = time.perf_counter()
import mezzotint as mz
mz.Engine(mz.load("default"))
print(imported - began, time.perf_counter() - imported)
"""


def main() -> None:
    lines = load_and_memory()  # first: before this process fills the memory
    lines += speed()
    report.write("ar-speed", "Plain decoding against transformers, loading and memory", lines)


def speed() -> list[str]:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    import mezzotint as mz

    sys.path.append(str(report.ROOT / "tests"))
    from prompts import PROMPTS

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    engine = mz.Engine(mz.load("default"))
    path = engine.checkpoint.source
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    prompts = PROMPTS[:10]

    def ours_decodes(prompt: str) -> list[int]:
        reply = engine.generate(mz.Request(prompt, decode="ar", max_tokens=TOKENS))[0]
        return reply.trace.replay()  # with the stop id, as theirs

    def theirs_decodes(prompt: str) -> list[int]:
        ids = torch.tensor([engine.tokenizer.chat([{"role": "user", "content": prompt}])])
        with torch.inference_mode():
            out = theirs.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False,
                eos_token_id=sorted(engine.stop_ids), pad_token_id=0,
            )  # fmt: skip
        return out[0, ids.shape[1] :].tolist()

    texts = [(ours_decodes(prompt), theirs_decodes(prompt)) for prompt in prompts]  # and both are warm now
    same, tokens = sum(a == b for a, b in texts), sum(len(a) for a, _ in texts)
    rounds = []
    for number in range(ROUNDS):
        times = {ours_decodes: 0.0, theirs_decodes: 0.0}
        for index, prompt in enumerate(prompts):
            order = [ours_decodes, theirs_decodes] if (number + index) % 2 else [theirs_decodes, ours_decodes]
            for decode in order:
                times[decode] += seconds(decode, prompt)
        rounds.append((times[ours_decodes], times[theirs_decodes]))
        print(f"round {number + 1} of {ROUNDS}: ratio {rounds[-1][1] / rounds[-1][0]:.3f}", file=sys.stderr)
    ratios = [b / a for a, b in rounds]
    rows = [(n + 1, tokens / a, tokens / b, b / a) for n, (a, b) in enumerate(rounds)]
    return [
        "## Speed",
        "",
        f"{len(prompts)} prompts, {tokens} greedy tokens a round, batch 1, prefill included, fp32; "
        f"equal texts: {same} of {len(prompts)}.",
        "",
        *report.table(["round", "mezzotint tokens/s", "transformers tokens/s", "ratio"], rows),
        "",
        f"Ratio: {spread(ratios)}. At least 1 is wanted.",
    ]


def seconds(function: Callable[[str], object], argument: str) -> float:
    began = time.perf_counter()
    function(argument)
    return time.perf_counter() - began


def load_and_memory() -> list[str]:
    imports, loads, walls, peaks = [], [], [], []
    for number in range(FRESH + 1):
        output, _, _ = fresh([sys.executable, "-c", LOAD])
        _, wall, peak = fresh([
            sys.executable, "-m", "mezzotint", "generate", "Write a Python function that reverses a string.",
            "--seed", "7", "--max-tokens", "64",
        ])  # fmt: skip
        if number:  # the first run of each only fills the file cache
            importing, loading = map(float, output.split())
            imports.append(importing)
            loads.append(loading)
            walls.append(wall)
            peaks.append(peak / 1e9)
    return [
        "## Loading and memory",
        "",
        f"Fresh processes, file cache warm, {FRESH} runs of each.",
        "",
        *report.table(["what", "median (min to max)", "wanted"], [
            ("`mz.Engine(mz.load(\"default\"))`", f"{spread(loads)} s", "under 5 s"),
            ("`import torch` before it", f"{spread(imports)} s", ""),
            ("`mezzotint generate`, 64 tokens, whole process", f"{spread(walls)} s", ""),
            ("peak memory of that process", f"{spread(peaks)} GB", "under 1.5 GB"),
        ]),
        "",
    ]  # fmt: skip


def fresh(command: Sequence[str]) -> tuple[str, float, int]:
    """Run a process to its end: its output, wall seconds and peak resident bytes."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=report.ROOT)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return output, time.perf_counter() - began, usage.ru_maxrss * unit


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


if __name__ == "__main__":
    main()
