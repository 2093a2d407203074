"""Weights in 8 and 4 bits (`compute="int8-weights"` and the like): memory, what they change of the logits, time of a call.

The default model's base weights on this repository's own documentation, in windows of `LENGTH` tokens; each way is a process
of its own, since memory is measured. Time is the processor's, of one thread; ways take turns, and the best of `--rounds`
counts: noise only adds. Those weights are Q4_1 already, which int4 keeps to the bit; what 4 bits cost weights that nobody has
rounded is seen on `tiny`, on its held-out texts.
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
from mezzotint.recipes import tiny

WAYS: dict[str, tuple[torch.dtype, str | None]] = {
    "float32": (torch.float32, None), "bfloat16": (torch.bfloat16, None),
    "int8-weights, float32": (torch.float32, "int8"), "int8-weights, bfloat16": (torch.bfloat16, "int8"),
    "fp8-weights, float32": (torch.float32, "fp8"), "fp8-weights, bfloat16": (torch.bfloat16, "fp8"),
    "int4-weights, float32": (torch.float32, "int4"), "int4-weights, bfloat16": (torch.bfloat16, "int4"),
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
def measure(way: str, model: str, texts: int, rounds: int) -> dict[str, Any]:
    checkpoint = mz.load(model)
    dtype, quantize = WAYS[way]
    before = memory("VmRSS")
    network = checkpoint.denoiser(dtype, quantize=quantize)
    bytes_held = sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))
    found: dict[str, Any] = {"bytes": bytes_held, "peak": memory("VmHWM") - before}
    if model == "tiny":
        written = [document.text for document in tiny.documents(None).held_out]
    else:
        written = [path.read_text("utf-8") for path in sorted((report.ROOT / "docs").rglob("*.md"))]
    ids = checkpoint.tokenizer.encode("\n\n".join(written))
    stride = (len(ids) - LENGTH) // texts
    windows = [torch.tensor([ids[i * stride : i * stride + LENGTH]]) for i in range(texts)]
    found["ms"] = {}
    for count in POSITIONS if model == "base" else ():
        best = float("inf")
        for _ in range(rounds + 1):
            began = time.process_time()
            logits(network, windows[0][:, :count])
            best = min(best, time.process_time() - began)
        found["ms"][count] = best * 1e3
    reference = checkpoint.denoiser()
    error = norm = same = kl = nats = own = 0.0
    for window in windows:
        said, wanted = logits(network, window).double(), logits(reference, window).double()
        error += float((said - wanted).square().sum())
        norm += float((wanted - wanted.mean(-1, keepdim=True)).square().sum())
        same += float((said.argmax(-1) == wanted.argmax(-1)).double().mean()) / texts
        p, q = wanted.log_softmax(-1), said.log_softmax(-1)
        kl += float((p.exp() * (p - q)).sum(-1).mean()) / texts
        target = window[0, 1:, None]
        own -= float(p[:-1].gather(1, target).mean()) / texts
        nats += float((p[:-1].gather(1, target) - q[:-1].gather(1, target)).mean()) / texts
    return found | {"error": (error / norm) ** 0.5, "same": same, "kl": kl, "nats": nats, "own": own}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--float32", action="store_true", help="leave bfloat16 out")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--model", choices=("base", "tiny"), default="base")
    parser.add_argument("--way", choices=WAYS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.way:
        print(json.dumps(measure(args.way, args.model, args.texts, args.rounds)))
        return
    found: dict[str, Any] = {}
    for model, turn in (*(("base", turn) for turn in range(args.turns)), ("tiny", 0)):
        for way in (way for way in WAYS if way.endswith("float32") or (model == "base" and not args.float32)):
            options = {"--texts": args.texts, "--rounds": args.rounds, "--way": way, "--model": model}
            command = [sys.executable, __file__, *(str(part) for pair in options.items() for part in pair)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            one = json.loads(done.stdout.splitlines()[-1])
            if turn:
                one["ms"] = {count: min(ms, one["ms"][count]) for count, ms in found[model, way]["ms"].items()}
            found[model, way] = one
            print(model, way, json.dumps(one), file=sys.stderr, flush=True)
    told = {
        model: [
            (way, f"{f['bytes'] / 1e6:.{0 if model == 'base' else 2}f}", f"{f['peak'] / 1e6:.0f}", f"{100 * f['error']:.2f}%",
             f"{100 * f['same']:.1f}%", f"{f['kl']:.5f}", f"{f['nats']:+.4f}")
            for (of, way), f in found.items() if of == model
        ]
        for model in ("base", "tiny")
    }  # fmt: skip
    head = ["way", "MB held", "MB peak of loading", "error", "same first", "KL", "nats"]
    times = [
        (way, *(f["ms"][str(count)] for count in POSITIONS)) for (model, way), f in found.items() if model == "base"
    ]
    report.write(
        "low-bits",
        "Weights in 8 and 4 bits",
        [
            f"The base weights of the default model (135 million numbers, of which 28 million are the embedding, which stays "
            f"as it is), {args.texts} windows of {LENGTH} tokens of this documentation, beside float32. Error: of the logits, "
            "over their spread. Nats: of a token, above float32's.",
            "",
            *report.table(head, told["base"]),
            "",
            f"`tiny` (1.3 million numbers, trained in float32, never rounded) on its held-out texts, as many windows; "
            f"{found['tiny', 'float32']['own']:.3f} nats a token in float32:",
            "",
            *report.table(head, told["tiny"]),
            "",
            "Milliseconds of processor time of one pass, one thread, the best of so many rounds each turn:",
            "",
            *report.table(["way", *(f"{count} positions" for count in POSITIONS)], times),
        ],
    )


if __name__ == "__main__":
    main()
