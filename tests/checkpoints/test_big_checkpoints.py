"""Loading without a second copy in memory: shards of a 1B-shaped checkpoint (full counts), the ends of an 8B-shaped one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from mezzotint.checkpoints.families import FAMILIES
from mezzotint.checkpoints.family import FLOATS
from mezzotint.checkpoints.keys import Keys
from mezzotint.checkpoints.shapes import shapes
from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.checkpoints.weights import read_header, read_part

LLAMA_1B: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 8192, "max_position_embeddings": 4096, "tie_word_embeddings": True,
}  # fmt: skip
LLAMA_8B = LLAMA_1B | {
    "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336, "tie_word_embeddings": False,
}  # fmt: skip
SMALLER = LLAMA_1B | {"vocab_size": 32000, "hidden_size": 1024, "num_hidden_layers": 8, "intermediate_size": 4096}

LOAD = r"""
import json, re, sys, time, torch
from mezzotint.checkpoints.load import load
def memory(which):  # not ru_maxrss, which a process inherits from the one that started it
    return 1024 * int(re.search(which + r":\s+(\d+) kB", open("/proc/self/status").read())[1])
import mezzotint.model.denoiser
before = memory("VmRSS")
began = time.perf_counter()
network = load(sys.argv[1]).denoiser(torch.bfloat16, quantize=sys.argv[2] or None)
seconds = time.perf_counter() - began
peak = memory("VmHWM") - before
slots = network.every_slot()
ends = [float(slots[n].flatten()[i]) for n, i in (("model.embed_tokens.weight", 0), ("model.norm.weight", -1))]
print(json.dumps({"peak": peak, "seconds": seconds, "ends": ends}))
"""


def sparse(path: Path, tensors: dict[str, tuple[int, ...]], ends: dict[str, tuple[int, float]]) -> int:
    """A bfloat16 safetensors file of zeros that takes no disk, but for one number in some tensors; -> its bytes."""
    header, end = {}, 0
    for name, shape in tensors.items():
        size = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
        for name, (element, value) in ends.items():
            file.seek(8 + len(text) + header[name]["data_offsets"][0] + 2 * element)
            file.write(bytes(torch.tensor([value], dtype=torch.bfloat16).view(torch.uint8).tolist()))
    return end


def write_shards(folder: Path, config: dict[str, object], shards: int) -> int:
    sizes = shapes(FAMILIES["llama"].config(Keys(folder, config)))
    names, where, total = list(sizes), {}, 0
    each = -(-len(names) // shards)
    for index in range(shards):
        file = f"model-{index + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: sizes[name] for name in names[index * each : (index + 1) * each]}
        ends = {"model.embed_tokens.weight": (0, 0.5), "model.norm.weight": (sizes["model.norm.weight"][0] - 1, -2.0)}
        total += sparse(folder / file, part, {name: end for name, end in ends.items() if name in part})
        where |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (folder / "config.json").write_text(json.dumps(config))
    Tokenizer.of_tokens([chr(ord("A") + i) for i in range(30)]).to_file(folder / "tokenizer.json")
    return total


def loaded(folder: Path, quantize: str = "") -> dict[str, Any]:
    """What a process of its own says of loading it in bfloat16: peak bytes above what it had, seconds, two numbers."""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder), quantize], capture_output=True, text=True, timeout=900,
        env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["ends"] == [0.5, -2.0]
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="/proc, sparse files")
def test_peak_of_four_shards(tmp_path: Path, full: bool) -> None:
    size = write_shards(tmp_path, LLAMA_1B if full else SMALLER, 4)
    found = loaded(tmp_path)
    assert found["peak"] < 1.2 * size + (0 if full else 40 << 20), f"{found['peak'] / size:.3f} of {size} bytes"
    print(
        f"{size / 1e9:.2f} GB: peak {found['peak'] / size:.3f} of its size, {found['seconds'] / size * 1e9:.2f} s a GB"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="/proc, sparse files")
def test_peak_in_eight_bits(tmp_path: Path, full: bool) -> None:
    """Rounded as it is read: an 8B-shaped checkpoint of 16 GB (full counts) is never in memory, nor half of it twice."""
    config = LLAMA_8B if full else SMALLER
    size = write_shards(tmp_path, config, 4)
    embedding = 2 * config["vocab_size"] * config["hidden_size"]
    kept = embedding + (size - embedding) // 2
    found = loaded(tmp_path, "int8")
    assert found["peak"] < 1.05 * kept + (0 if full else 64 << 20), f"{found['peak'] / kept:.3f} of {kept} bytes"
    print(
        f"{size / 1e9:.2f} GB: peak {found['peak'] / 1e9:.2f} GB, {found['peak'] / kept:.3f} of what is kept, "
        f"{found['seconds'] / size * 1e9:.2f} s a GB"
    )


def test_the_ends_of_a_sparse_8b_file(tmp_path: Path) -> None:
    sizes = shapes(FAMILIES["llama"].config(Keys(tmp_path, LLAMA_8B)))
    path, first, last = tmp_path / "model.safetensors", next(iter(sizes)), list(sizes)[-1]
    numel = torch.Size(sizes[last]).numel()
    size = sparse(path, sizes, {first: (0, 0.25), last: (numel - 1, -8.0)})
    began = time.perf_counter()
    slots = read_header(path)
    assert size > 16e9 and set(slots) == set(sizes) and all(slot.dtype in FLOATS for slot in slots.values())
    out = torch.empty(16, dtype=torch.bfloat16)
    read_part(slots[first], 0, out)
    assert out.tolist() == [0.25] + [0] * 15
    read_part(slots[last], numel - 16, out)
    assert out.tolist() == [0] * 15 + [-8.0]
    with safe_open(path, "pt") as file:  # mapped: only the pages that are looked at are read
        assert float(file.get_tensor(first)[0, 0]) == 0.25 and float(file.get_tensor(last)[-1, -1]) == -8.0
    assert time.perf_counter() - began < 10
