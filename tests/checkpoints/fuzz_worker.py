"""Damage a checkpoint many times and load each copy, in a process of its own so that its peak of memory means something.

    python fuzz_worker.py FILE TARGET COUNT SEED     FILE: what load() gets, TARGET: the file in or at it to damage

Prints one JSON object: cases, refused, accepted, slowest (seconds of CPU), peak (bytes above the start), problems.
"""

from __future__ import annotations

import contextlib
import json
import random
import resource
import struct
import sys
import time
from dataclasses import replace
from pathlib import Path

from mezzotint.checkpoints.errors import CheckpointError
from mezzotint.checkpoints.gguf import read_gguf
from mezzotint.checkpoints.load import Checkpoint, load

HUGE = [
    0,
    1,
    2,
    0x7F,
    0xFF,
    0xFFFF,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 40,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
]


def damage(data: bytes, draw: random.Random, head: int) -> bytes:
    """One mutation; three in four strike the first `head` bytes, where counts, lengths and names are."""
    out = bytearray(data)
    end = head if draw.random() < 0.75 else len(data)
    at = draw.randrange(end)
    kind = draw.choice(["flip", "flip", "bytes", "cut", "count", "count", "near", "insert", "delete", "copy", "digit"])
    if kind == "flip":
        for _ in range(draw.choice([1, 1, 1, 2, 8])):
            out[draw.randrange(end)] ^= 1 << draw.randrange(8)
    elif kind == "bytes":
        for _ in range(draw.choice([1, 1, 4, 32])):
            out[draw.randrange(end)] = draw.randrange(256)
    elif kind == "cut":
        del out[at:]
    elif kind == "count":
        form = draw.choice(["<I", "<Q"])
        value = draw.choice(HUGE) & (1 << 8 * struct.calcsize(form)) - 1
        out[at : at + struct.calcsize(form)] = struct.pack(form, value)
    elif kind == "near":  # a small change to a whole number, which stays plausible
        at = min(at, len(out) - 8)
        value = int.from_bytes(out[at : at + 8], "little") + draw.choice([-32, -8, -1, 1, 8, 32])
        out[at : at + 8] = (value & (1 << 64) - 1).to_bytes(8, "little")
    elif kind == "insert":
        out[at:at] = draw.randbytes(draw.choice([1, 8, 32, 100, 4096]))
    elif kind == "delete":
        del out[at : at + draw.choice([1, 8, 32, 100, 4096])]
    elif kind == "copy":
        size, to = draw.choice([4, 8, 32, 256]), draw.randrange(end)
        out[to : to + size] = out[at : at + size]
    elif kind == "digit":  # in JSON, numbers are text
        digits = [i for i in range(max(at - 200, 0), min(at + 200, len(out))) if 48 <= out[i] < 58]
        if digits:
            place = draw.choice(digits)
            out[place : place + 1] = draw.choice(
                [b"0", b"9", b"-1", b"9" * 25, b"9" * 6000, b"1.5", b"NaN", b"1e999", b"[1]"]
            )
    return bytes(out)


def wrong(before: Checkpoint, after: Checkpoint) -> str | None:
    """What is not as it must be in a damaged file that was accepted."""
    same = {name: getattr(before.config, name) for name in ("rope_theta", "norm_eps", "max_length")}
    if replace(after.config, **same) != before.config:  # those three have no second witness in a file
        return f"sizes {after.config}"
    expected = {name: tensor.shape for name, tensor in before.weights()}
    found = {name: tensor.shape for name, tensor in after.weights()}
    if found != expected:
        return "names or shapes"
    if after.tokenizer.vocab_size != before.tokenizer.vocab_size:
        return "vocabulary"
    tokenizer = after.tokenizer
    tokenizer.decode(tokenizer.encode("the thing, 12 <|im_end|>"))
    tokenizer.decode(range(tokenizer.vocab_size))
    with contextlib.suppress(ValueError):  # a damaged template may fail, with a sentence
        tokenizer.chat([{"role": "user", "content": "hi"}])
    return None


def main(source: Path, target: Path, count: int, seed: int) -> dict[str, object]:
    data = target.read_bytes()
    before = load(source)
    if source == target:
        head = min(tensor.offset for tensor in read_gguf(target).tensors.values())
    else:
        head = 8 + int.from_bytes(data[:8], "little")
    copy = target.with_name("original")
    copy.write_bytes(data)
    original = load(copy) if source == target else before
    problems, refused, slowest = [], 0, 0.0
    draw = random.Random(seed)
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case in range(count):
        bad = damage(data, draw, head)
        target.unlink()  # a new file: the old one may still be mapped
        target.write_bytes(bad)
        began = time.process_time()
        problem = None
        try:
            problem = wrong(original, load(source))
        except CheckpointError as error:
            refused += 1
            if not error.field or error.offset is None or not error.file or f"at byte {error.offset}" not in str(error):
                problem = f"error without field or byte: {error}"
            elif len(str(error)) > 2000:
                problem = f"error of {len(str(error))} characters"
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        slowest = max(slowest, time.process_time() - began)
        if problem:
            problems.append(f"case {case} of seed {seed}: {problem[:300]}")
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) * 1024
    return {
        "cases": count, "refused": refused, "accepted": count - refused, "slowest": slowest, "peak": peak, "size": len(data),
        "problems": problems[:20],
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
