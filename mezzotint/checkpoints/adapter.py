"""Adapters on disk: a folder that peft reads too, and beside it what peft has no word for.

    adapter_config.json        peft's LoRA settings: rank, alpha, which linears
    adapter_model.safetensors  the pairs, under peft's names
    canvas.safetensors         role vector, control rows, heads, self-conditioning  ours
    mezzotint.json             the gate, the base and its SHA-256, the facts it brings about   ours

A released one is stored in 8 bits: `adapter_model.q8.safetensors` in place of peft's file, which peft therefore does not
find. Every matrix is int8 there, and its rows are multiplied by the numbers of `NAME.scale`.

A folder without our two files is an ordinary LoRA that acts at every place. A folder with them that is read by peft loses
the gate, so its pairs would act on clean text as well: take it there only if that is what you want.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mezzotint.checkpoints.errors import CheckpointError
from mezzotint.checkpoints.files import whole_file, whole_folder
from mezzotint.checkpoints.weights import Slot, read_header, read_json, read_tensors, save_tensors
from mezzotint.model.adapter import GATES, TARGETS, Adapter, AdapterConfig
from mezzotint.model.config import ModelConfig

if TYPE_CHECKING:
    from mezzotint.model.denoiser import Denoiser

PEFT_CONFIG, PEFT_TENSORS, EIGHT_BITS, TENSORS, FACTS = (
    "adapter_config.json", "adapter_model.safetensors", "adapter_model.q8.safetensors", "canvas.safetensors", "mezzotint.json",
)  # fmt: skip
SCALE = ".scale"
_MOST = 1 << 20  # bytes of a JSON file

# peft settings that change what the tensors mean -> the values under which they mean what we read.
_PLAIN = {
    "bias": ("none", None), "use_dora": (False, None), "use_rslora": (False, None), "fan_in_fan_out": (False, None),
    "rank_pattern": ({}, None), "alpha_pattern": ({}, None), "modules_to_save": ([], None), "layers_to_transform": ([], None),
    "layer_replication": ([], None), "trainable_token_indices": ([], {}, None), "lora_bias": (False, None),
}  # fmt: skip


@dataclass(frozen=True)
class Base:
    """The checkpoint that an adapter was trained on. sha256: of its weights, None for a foreign adapter."""

    name: str
    sha256: str | None = None


@dataclass(frozen=True)
class AdapterFile:
    """An adapter on disk, its JSON checked. facts: the `mezzotint` table of the adapted model, None for a foreign one.

    made: how it was trained, for people. controls: whose rows it holds, by name, in order.
    """

    folder: Path
    base: Base
    rank: int
    alpha: float
    gate: str
    targets: tuple[str, ...]
    canvas: bool = False
    controls: tuple[str, ...] = ()
    confidence: bool = False
    self_conditioning: bool = False
    draft_head: int = 0
    facts: Mapping[str, Any] | None = None
    made: Mapping[str, Any] = field(default_factory=dict)
    slots: Mapping[str, Slot] = field(default_factory=dict, repr=False)

    def config(self, control_ids: Mapping[str, int]) -> AdapterConfig:
        """control_ids: name -> id under the base's tokenizer."""
        ids = tuple(control_ids[name] for name in self.controls)
        return AdapterConfig(
            self.rank,
            self.alpha,
            self.gate,
            self.targets,
            self.canvas,
            ids,
            self.confidence,
            self.self_conditioning,
            self.draft_head,
        )

    def check(self, sizes: ModelConfig, config: AdapterConfig) -> None:
        """Raises CheckpointError unless the tensors are exactly those that a network of these sizes needs."""
        with torch.device("meta"):
            wanted = {name: tuple(tensor.shape) for name, tensor in Adapter(sizes, config).tensors().items()}
        wanted |= {name + SCALE: shape[:1] for name, shape in wanted.items() if name + SCALE in self.slots}
        for name, slot in self.slots.items():
            if slot.shape != wanted.get(name):
                expected = f"expected {wanted[name]}" if name in wanted else "the base has no place for it"
                raise CheckpointError(
                    slot.file, f"tensor {name!r}", f"shape {slot.shape}; {expected}", slot.declared_at
                )
        for name, slot in self.slots.items():
            if slot.dtype == torch.int8 and name + SCALE not in self.slots:
                raise CheckpointError(slot.file, f"tensor {name!r}", f"int8 without {name + SCALE!r}", slot.declared_at)
        if missing := [name for name in wanted if name not in self.slots]:
            raise CheckpointError(self.folder, f"tensor {missing[0]!r}", f"missing, and {len(missing) - 1} more")

    def put_on(self, denoiser: Denoiser, config: AdapterConfig) -> Denoiser:
        """The network with this adapter on it."""
        denoiser.adapt(config)
        assert denoiser.adapter is not None
        self.fill(denoiser.adapter)
        return denoiser

    def fill(self, adapter: Adapter) -> Adapter:
        """A fresh adapter of these sizes, these tensors in it."""
        return adapter.load(_dequantised(read_tensors(dict(self.slots))))


def save_adapter(
    folder: str | Path,
    adapter: Adapter,
    base: Base,
    facts: Mapping[str, Any],
    controls: Mapping[str, int],
    made: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write the folder; it appears only when it is complete.

    facts: the `mezzotint` table of the adapted model. controls: name -> id of its control tokens. dtype: of the tensors;
    int8 stores matrices in 8 bits with a scale a row. Raises ValueError for a base without a SHA-256, FileExistsError, OSError.
    """
    if base.sha256 is None:
        raise ValueError(f"base {base.name!r} has no SHA-256; an adapter names the weights that it was trained on")
    names = {i: name for name, i in controls.items()}
    config, tensors = adapter.config, adapter.tensors()
    pairs = {name: tensor for name, tensor in tensors.items() if not name.startswith("canvas.")}
    rest = {name: tensor for name, tensor in tensors.items() if name.startswith("canvas.")}
    peft = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base.name, "r": config.rank,
        "lora_alpha": config.alpha, "lora_dropout": 0.0, "bias": "none", "inference_mode": True,
        "target_modules": [name.rsplit(".")[-1] for name in config.targets],
    }  # fmt: skip
    ours = {
        "gate": config.gate, "base": {"name": base.name, "sha256": base.sha256},
        "controls": [names[i] for i in config.control_ids], "canvas": config.canvas, "confidence": config.confidence,
        "self_conditioning": config.self_conditioning, "draft_head": config.draft_head,
        "facts": dict(facts), "made": dict(made or {}),
    }  # fmt: skip
    with whole_folder(folder) as part:
        for name, table in ((PEFT_CONFIG, peft), (FACTS, ours)):
            with whole_file(part / name) as file:
                file.write(json.dumps(table, indent=2, ensure_ascii=False).encode())
        for name, group in ((EIGHT_BITS if dtype == torch.int8 else PEFT_TENSORS, pairs), (TENSORS, rest)):
            if group:
                group = _quantised(group) if dtype == torch.int8 else {n: t.to(dtype) for n, t in group.items()}
                shapes, dtypes = {n: tuple(t.shape) for n, t in group.items()}, {n: t.dtype for n, t in group.items()}
                save_tensors(part / name, shapes, group.items(), dtypes)
    return Path(folder)


def _quantised(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices as int8 beside the scale of each row; vectors in float32."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.float()
        if tensor.dim() != 2:
            found[name] = tensor
            continue
        scale = tensor.abs().amax(-1) / 127
        found[name] = (tensor / scale.clamp(min=1e-12)[:, None]).round().to(torch.int8)
        found[name + SCALE] = scale
    return found


def _dequantised(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The reverse. A scale may come before or after what it scales."""
    waiting: dict[str, Tensor] = {}
    for name, tensor in tensors:
        whole = name.removesuffix(SCALE)
        other = name + SCALE if whole == name else whole
        if tensor.dtype != torch.int8 and whole == name:
            yield name, tensor
        elif other in waiting:
            matrix, scale = (tensor, waiting.pop(other)) if whole == name else (waiting.pop(other), tensor)
            yield whole, matrix.float() * scale[:, None]
        else:
            waiting[name] = tensor


def read_adapter(folder: str | Path) -> AdapterFile:
    """Everything but the tensors' bytes. Raises CheckpointError for what is missing, malformed or not supported."""
    folder = Path(folder)
    path, tensors = folder / PEFT_CONFIG, folder / PEFT_TENSORS
    if not tensors.exists() and (folder / EIGHT_BITS).is_file():
        tensors = folder / EIGHT_BITS
    for file in (path, tensors):
        if not file.is_file():
            raise CheckpointError(folder, file.name, "missing; expected the folder of an adapter, as peft saves it")
    peft = _table(path)
    if peft.get("peft_type") != "LORA":
        raise CheckpointError(path, "'peft_type'", f"{peft.get('peft_type')!r}; supported: 'LORA'", 0)
    for key, plain in _PLAIN.items():
        if key in peft and peft[key] not in plain:
            raise CheckpointError(path, repr(key), f"{str(peft[key])[:40]!r}; supported: {plain[0]!r}", 0)
    rank, alpha = peft.get("r"), peft.get("lora_alpha")
    if type(rank) is not int or not isinstance(alpha, int | float):
        raise CheckpointError(path, "'r' and 'lora_alpha'", f"{rank!r} and {alpha!r}; expected numbers", 0)
    slots = read_header(tensors)
    targets = tuple(name for name in TARGETS if any(f".{name}.lora_A." in key for key in slots))
    base = Base(str(peft.get("base_model_name_or_path") or "unknown"))
    if not (folder / FACTS).is_file():
        return AdapterFile(folder, base, rank, float(alpha), "all", targets, slots=slots)
    path = folder / FACTS
    ours = {"self_conditioning": False, "draft_head": 0} | _table(path)  # younger than the format
    kinds = {
        "gate": str,
        "base": dict,
        "controls": list,
        "canvas": bool,
        "confidence": bool,
        "self_conditioning": bool,
        "draft_head": int,
        "facts": dict,
        "made": dict,
    }
    for key in kinds.keys() | ours.keys():
        if key not in kinds or type(ours.get(key)) is not kinds[key]:
            expected = kinds[key].__name__ if key in kinds else f"one of {', '.join(kinds)}"
            raise CheckpointError(path, repr(key), f"{str(ours.get(key))[:40]!r}; expected {expected}", 0)
    if ours["gate"] not in GATES:
        raise CheckpointError(path, "'gate'", f"{ours['gate']!r}; allowed: {', '.join(GATES)}", 0)
    named = ours["base"]
    if not all(isinstance(named.get(key), str) for key in ("name", "sha256")):
        raise CheckpointError(path, "'base'", f"{named!r:.60}; expected name and sha256", 0)
    if (folder / TENSORS).is_file():
        slots |= read_header(folder / TENSORS)
    return AdapterFile(
        folder, Base(named["name"], named["sha256"]), rank, float(alpha), ours["gate"], targets, ours["canvas"],
        tuple(ours["controls"]), ours["confidence"], ours["self_conditioning"], ours["draft_head"], ours["facts"],
        ours["made"], slots,
    )  # fmt: skip


def adapter_sha256(folder: Path) -> str:
    """One hash for an adapter's folder: of the names and hashes of the files that decide what it does."""
    files = [folder / name for name in sorted((FACTS, PEFT_CONFIG, PEFT_TENSORS, EIGHT_BITS, TENSORS))]
    lines = [f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n" for file in files if file.is_file()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _table(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MOST:
        raise CheckpointError(path, "size", f"{path.stat().st_size} bytes; at most {_MOST} are read")
    table = read_json(path.read_bytes(), lambda problem: CheckpointError(path, "JSON", problem, 0))
    if not isinstance(table, dict):
        raise CheckpointError(path, "JSON", "expected an object", 0)
    return table
