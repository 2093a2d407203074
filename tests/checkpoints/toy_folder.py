"""A family's golden as a folder: config.json as the reference wrote it, tensors under its names, a tokenizer of toy words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import toy
from safetensors.numpy import save_file

from mezzotint.checkpoints.tokenizer import Tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "families"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.json"))


def golden(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    return found


def write(name: str, folder: Path, shards: int = 1, **config: Any) -> dict[str, np.ndarray]:
    """Write the folder; -> its tensors. config: keys to set otherwise, None takes one out."""
    told = golden(name)
    folder.mkdir(parents=True, exist_ok=True)
    table = {key: value for key, value in (told["config"] | config).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(table))
    tensors = toy.weights(told["tensors"])
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
    else:
        where = {}
        for index in range(shards):
            file = f"model-{index + 1:05d}-of-{shards:05d}.safetensors"
            part = {key: value for i, (key, value) in enumerate(tensors.items()) if i % shards == index}
            save_file(part, folder / file)
            where |= dict.fromkeys(part, file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    Tokenizer.of_tokens([chr(ord("A") + i) for i in range(30)]).to_file(folder / "tokenizer.json")
    return tensors
