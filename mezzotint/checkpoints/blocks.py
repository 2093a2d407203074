"""A checkpoint as small as its GGUF file, in a folder that needs no GGUF: quantised blocks inside safetensors.

    blocks.safetensors    a tensor's blocks, uint8 `[rows, bytes a row]`, under Hugging Face's name; its type in the metadata
    checkpoint.json       sizes and facts, and the name, licence and SHA-256 of the weights that these blocks are
    tokenizer.json ...    as in any of our folders

Rows of blocks are put into our order on the way (half-split q and k), which moves whole blocks and changes none, so the
weights are bit for bit the original's. The SHA-256 is the original file's: an adapter learnt here fits there.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mezzotint.checkpoints import llama
from mezzotint.checkpoints.errors import CheckpointError
from mezzotint.checkpoints.families.dense import dense_json, llama_config
from mezzotint.checkpoints.files import sha256, whole_file, whole_folder
from mezzotint.checkpoints.gguf import DEQUANTISERS, TYPES, GGUFFile
from mezzotint.checkpoints.keys import Keys
from mezzotint.checkpoints.load import Checkpoint, facts_from_json
from mezzotint.checkpoints.shapes import shapes
from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.checkpoints.weights import read_header, read_json, read_tensors, save_tensors

BLOCKS, ABOUT = "blocks.safetensors", "checkpoint.json"
PLAIN = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}  # torch dtype -> GGUF's name of it


def save_blocks(checkpoint: Checkpoint, folder: str | Path) -> Path:
    """Write a checkpoint's weights as they are stored, without its adapter. Raises ValueError for weights in memory, OSError."""
    found = {name: (kind, blocks) for name, kind, blocks in _blocks(checkpoint)}
    with whole_folder(folder) as part:
        save_tensors(
            part / BLOCKS, {name: tuple(blocks.shape) for name, (_, blocks) in found.items()},
            ((name, blocks) for name, (_, blocks) in found.items()), torch.uint8,
            {"types": json.dumps({name: kind for name, (kind, _) in found.items()})},
        )  # fmt: skip
        about = {
            "name": checkpoint.name, "license": checkpoint.license, "weights_sha256": checkpoint.weights_sha256(),
            "blocks_sha256": sha256(part / BLOCKS), "config": dense_json(checkpoint.config),
            "facts": checkpoint.declared(),
        }  # fmt: skip
        with whole_file(part / ABOUT) as file:
            file.write(json.dumps(about, indent=1).encode())
        checkpoint.tokenizer.to_file(part / "tokenizer.json")
    return Path(folder)


def _blocks(checkpoint: Checkpoint) -> list[tuple[str, str, Tensor]]:
    """(our name, GGUF type, blocks uint8 `[rows, bytes]`) of every tensor."""
    file = checkpoint.stored
    if not isinstance(file, GGUFFile):
        plain = ((name, t.contiguous().view(len(t) if t.dim() > 1 else 1, -1)) for name, t in checkpoint.weights())
        return [(name, PLAIN[t.dtype], t.view(torch.uint8)) for name, t in plain]
    config, names = checkpoint.config, llama.check_gguf(file, checkpoint.config)
    found = []
    for name, info in file.tensors.items():
        raw = np.frombuffer(file.data, np.uint8, info.size, info.offset)
        rows = 1 if len(info.shape) == 1 else info.shape[0]
        blocks = torch.from_numpy(raw.reshape(rows, -1).copy())
        found.append((names[name], info.type, llama.our_rows(names[name], blocks, config)))
    return found


def load_blocks(folder: str | Path) -> Checkpoint:
    """The checkpoint that `save_blocks` wrote, its weights dequantised in memory. Raises CheckpointError."""
    from mezzotint.model.denoiser import Denoiser

    folder = Path(folder)
    about = _about(folder / ABOUT)
    if (actual := sha256(folder / BLOCKS)) != about["blocks_sha256"]:
        raise CheckpointError(folder / BLOCKS, "SHA-256", f"{actual}; expected {about['blocks_sha256']}")
    config = llama_config(Keys(folder / ABOUT, {**about["config"], "mezzotint": about["facts"]}))
    tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
    facts = facts_from_json(folder / ABOUT, about["facts"], tokenizer)
    weights = _dequantised(folder / BLOCKS, shapes(config))
    network = Denoiser(config, facts.shift).load(weights)
    found = Checkpoint.of(network, about["name"], tokenizer, facts, about["license"])
    return replace(found, source=folder, sha256=about["weights_sha256"])


def _about(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(path.parent, path.name, "missing; expected a folder that save_blocks has written")
    table = read_json(path.read_bytes(), lambda problem: CheckpointError(path, "JSON", problem, 0))
    kinds = {"name": str, "weights_sha256": str, "blocks_sha256": str, "config": dict, "facts": dict}
    for key, kind in kinds.items():
        if not isinstance(table, dict) or type(table.get(key)) is not kind:
            raise CheckpointError(path, repr(key), f"expected {kind.__name__}", 0)
    return {"license": None, **table}


def _dequantised(path: Path, shapes: dict[str, tuple[int, ...]]) -> list[tuple[str, Tensor]]:
    """Every tensor of `shapes`, float32. Raises CheckpointError for what is missing, of another size or of an unknown type."""
    slots, types = read_header(path), _types(path)
    widths = {name: (elements, size) for name, elements, size in TYPES.values()}
    for name, shape in shapes.items():
        kind, slot = types.get(name), slots.get(name)
        if slot is None or kind not in DEQUANTISERS:
            raise CheckpointError(
                path, f"tensor {name!r}", f"missing, or of type {kind}; known: {', '.join(DEQUANTISERS)}"
            )
        elements, size = widths[kind]
        if slot.shape != (rows := 1 if len(shape) == 1 else shape[0], shape[-1] // elements * size):
            raise CheckpointError(
                path, f"tensor {name!r}", f"{slot.shape} bytes; {kind} {shape} has {rows} rows", slot.declared_at
            )
    blocks = read_tensors({name: slots[name] for name in shapes})
    return [(n, torch.from_numpy(DEQUANTISERS[types[n]](b.numpy().reshape(-1))).view(shapes[n])) for n, b in blocks]


def _types(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))  # `read_header` has checked it
    try:
        types = json.loads(header["__metadata__"]["types"])
    except (KeyError, ValueError):
        raise CheckpointError(path, "metadata 'types'", "missing; expected the type of every tensor", 8) from None
    return {str(name): str(kind) for name, kind in types.items()}
