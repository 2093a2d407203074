"""Weights in 8 bits (`compute="int8-weights"`): memory, what they change of the logits, and the time of a call.

The default model's base weights on this repository's own documentation, in windows of `LENGTH` tokens; each way is a process
of its own, since memory is measured. Ways take turns in timing, and the best of `--rounds` counts: noise only adds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import report
import torch
from torch import Tensor

import mezzotint as mz
from mezzotint.model.denoiser import Denoiser
from mezzotint.model.visibility import CLEAN, Places, context_causal

WAYS: dict[str, tuple[torch.dtype, str | None]] = {
    "float32": (torch.float32, None), "bfloat16": (torch.bfloat16, None),
    "int8-weights, float32": (torch.float32, "int8"), "int8-weights, bfloat16": (torch.bfloat16, "int8"),
}  # fmt: skip
POSITIONS = (1, 4, 16, 64, 256)
LENGTH = 256


def logits(network: Denoiser, ids: Tensor) -> Tensor:
    count = ids.shape[1]
    places = Places.of(torch.arange(count)[None], torch.full((1, count), CLEAN))
    return network(ids, places, context_causal()).logits[0]


def memory(which: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(which)).split()[1])


@torch.inference_mode()
def measure(way: str, texts: int, rounds: int) -> dict[str, Any]:
    checkpoint = mz.load("base")
    dtype, quantize = WAYS[way]
    before = memory("VmRSS")
    network = checkpoint.denoiser(dtype, quantize=quantize)
    bytes_held = sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))
    found: dict[str, Any] = {"bytes": bytes_held, "peak": memory("VmHWM") - before}
    docs = sorted((report.ROOT / "docs").rglob("*.md"))
    ids = checkpoint.tokenizer.encode("\n\n".join(path.read_text("utf-8") for path in docs))
    stride = (len(ids) - LENGTH) // texts
    windows = [torch.tensor([ids[i * stride : i * stride + LENGTH]]) for i in range(texts)]
    found["ms"] = {}
    for count in POSITIONS:
        best = float("inf")
        for _ in range(rounds + 1):
            began = time.perf_counter()
            logits(network, windows[0][:, :count])
            best = min(best, time.perf_counter() - began)
        found["ms"][count] = best * 1e3
    reference = checkpoint.denoiser()
    error = norm = same = kl = nats = 0.0
    for window in windows:
        said, wanted = logits(network, window).double(), logits(reference, window).double()
        error += float((said - wanted).square().sum())
        norm += float((wanted - wanted.mean(-1, keepdim=True)).square().sum())
        same += float((said.argmax(-1) == wanted.argmax(-1)).double().mean()) / texts
        p, q = wanted.log_softmax(-1), said.log_softmax(-1)
        kl += float((p.exp() * (p - q)).sum(-1).mean()) / texts
        target = window[0, 1:, None]
        nats += float((p[:-1].gather(1, target) - q[:-1].gather(1, target)).mean()) / texts
    return found | {"error": (error / norm) ** 0.5, "same": same, "kl": kl, "nats": nats}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--way", choices=WAYS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.way:
        print(json.dumps(measure(args.way, args.texts, args.rounds)))
        return
    found: dict[str, Any] = {}
    for turn in range(2):
        for way in WAYS:
            command = [sys.executable, __file__, "--texts", str(args.texts), "--rounds", str(args.rounds), "--way", way]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            one = json.loads(done.stdout.splitlines()[-1])
            if turn:
                one["ms"] = {count: min(ms, one["ms"][count]) for count, ms in found[way]["ms"].items()}
            found[way] = one
    told = [
        (way, f"{f['bytes'] / 1e6:.0f}", f"{f['peak'] / 1e6:.0f}", f"{100 * f['error']:.2f}%", f"{100 * f['same']:.1f}%",
         f"{f['kl']:.5f}", f"{f['nats']:+.4f}")
        for way, f in found.items()
    ]  # fmt: skip
    times = [(way, *(f["ms"][str(count)] for count in POSITIONS)) for way, f in found.items()]
    report.write(
        "eight-bits",
        "Weights in 8 bits",
        [
            f"The base weights of the default model (135 million numbers, of which 28 million are the embedding, which stays "
            f"as it is), {args.texts} windows of {LENGTH} tokens of this documentation, beside float32. Error: of the logits, "
            "over their spread. Nats: of a token, above float32's.",
            "",
            *report.table(["way", "MB held", "MB peak of loading", "error", "same first", "KL", "nats"], told),
            "",
            "Milliseconds of one pass, one thread, the best of twice as many rounds:",
            "",
            *report.table(["way", *(f"{count} positions" for count in POSITIONS)], times),
        ],
    )


if __name__ == "__main__":
    main()
