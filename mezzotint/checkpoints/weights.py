"""Safetensors: named tensors in, one at a time, and out, whole or not at all. Pickled weights are refused.

    8 bytes: length of header | header: {"name": {"dtype", "shape", "data_offsets"}, ...} | data, tiled without gaps

The header is checked by us before the library opens the file: sizes against the bytes that are there, every span
against its dtype and shape, all spans together against the data section. So an error names its tensor and byte.
Source: the safetensors format description.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mezzotint.checkpoints.errors import CheckpointError
from mezzotint.checkpoints.files import whole_file

MAX_HEADER = 2 << 20  # bytes: some 20 thousand tensors a file; JSON of this size takes at most some 50 MB in memory

DTYPES: dict[str, tuple[torch.dtype, int]] = {
    "F64": (torch.float64, 8), "F32": (torch.float32, 4), "F16": (torch.float16, 2), "BF16": (torch.bfloat16, 2),
    "I64": (torch.int64, 8), "I32": (torch.int32, 4), "I16": (torch.int16, 2), "I8": (torch.int8, 1),
    "U8": (torch.uint8, 1), "BOOL": (torch.bool, 1),
    "F8_E4M3": (torch.float8_e4m3fn, 1), "F8_E5M2": (torch.float8_e5m2, 1),
}  # fmt: skip
NAMES = {dtype: name for name, (dtype, _) in DTYPES.items()}
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True)
class Slot:
    """Where a tensor lies: the file, its torch dtype and shape, the byte of its entry in the header and of its data."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    declared_at: int
    begin: int = 0


def refuse_pickle(path: Path) -> None:
    """Raises CheckpointError for a file that would have to be unpickled."""
    if path.suffix.lower() in PICKLED:
        raise CheckpointError(
            path, "file type", f"{path.suffix} files can run code when read and are refused; use safetensors or gguf"
        )


def read_json(text: bytes, fail: Callable[[str], CheckpointError]) -> Any:
    """Strict JSON: UTF-8, no NaN, no name twice in an object, no bottomless nesting.

    Raises what `fail(problem)` makes.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise fail(f"{twice!r} appears twice")
        return found

    def constant(value: str) -> None:
        raise fail(f"{value} is not JSON")

    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=constant)
    except CheckpointError:
        raise
    except RecursionError:
        raise fail("nested too deeply") from None
    except UnicodeDecodeError as error:
        raise fail(f"not UTF-8 at its byte {error.start}") from None
    except ValueError as error:  # bad JSON, and integers of thousands of digits
        raise fail(f"not JSON: {error}") from None


def read_header(path: str | Path) -> dict[str, Slot]:
    """The tensors of one safetensors file, in the order of their data.

    Raises CheckpointError; OSError if it cannot be opened.
    """
    path = Path(path)
    refuse_pickle(path)
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        if size < 10:
            raise CheckpointError(path, "header", f"the file has {size} bytes; safetensors has at least 10", 0)
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            raise CheckpointError(path, "header length", f"{length} bytes, {size - 8} are left", 0)
        if length > MAX_HEADER:
            raise CheckpointError(path, "header length", f"{length} bytes; at most {MAX_HEADER} are read", 0)
        text = file.read(length)
    start, room = 8 + length, size - 8 - length

    places: dict[str, int] = {}

    def fail(problem: str, name: str | None = None, key: str = "") -> CheckpointError:
        label = "header" if name is None else f"{key} of tensor {name!r}"
        return CheckpointError(path, label, problem, places.get(name or "", 8))

    if not text.startswith(b"{"):
        raise fail(f"starts with {text[:1]!r}; expected '{{'")
    header = read_json(text, fail)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise fail("the values of __metadata__ must be strings")
    places.update(_places(text, header))
    spans: list[tuple[int, int, str]] = []
    slots: dict[str, Slot] = {}
    for name, entry in header.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise fail("expected exactly dtype, shape and data_offsets", name, "entry")
        kind, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(kind, str) or kind not in DTYPES:
            raise fail(f"{kind!r}; supported: {', '.join(DTYPES)}", name, "dtype")
        if not _sizes(shape):
            raise fail(f"{_short(shape)}; expected a list of whole numbers from 0", name, "shape")
        if not _sizes(span) or len(span) != 2 or not span[0] <= span[1] <= room:
            raise fail(f"{_short(span)}; expected [begin, end] with begin <= end <= {room}", name, "data_offsets")
        needed = DTYPES[kind][1]
        for dim in shape:
            needed *= dim
        if needed != span[1] - span[0]:
            raise fail(
                f"{span} is {span[1] - span[0]} bytes; {kind} {_short(shape)} has {_short(needed)}",
                name,
                "data_offsets",
            )
        spans.append((span[0], span[1], name))
        slots[name] = Slot(path, DTYPES[kind][0], tuple(shape), places[name], start + span[0])
    end = 0
    for begin, stop, name in sorted(spans):
        if begin != end:
            raise fail(
                f"begins at byte {begin} of the data; expected {end}, where the tensor before it ends",
                name,
                "data_offsets",
            )
        end = stop
    if end != room:
        raise CheckpointError(path, "end of data", f"{room - end} bytes follow the last tensor", start + end)
    return {name: slots[name] for _, _, name in sorted(spans)}


def _places(text: bytes, names: Iterable[str]) -> dict[str, int]:
    """Byte in the file of each name of the header: a linear search, each from the one before, the first from anywhere."""
    found: dict[str, int] = {}
    at = 0
    for name in names:
        near = text.find(
            json.dumps(name, ensure_ascii=False).encode("utf-8", "replace"), at, at + 4096 if found else len(text)
        )
        at = near if near >= 0 else at
        found[name] = 8 + at
    return found


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 16 and all(type(x) is int and 0 <= x < 1 << 63 for x in value)


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or value < 1 << 64 else "more than 2**64"
    return text if len(text) < 80 else text[:77] + "..."


def read_slots(folder: str | Path) -> dict[str, Slot]:
    """All tensors of a folder, from `model.safetensors` or the shards that `model.safetensors.index.json` lists.

    Raises CheckpointError for a missing, extra or doubly stored tensor, for a shard outside the folder, for pickles.
    """
    folder = Path(folder)
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return read_header(single)
    if not index.exists():
        for path in sorted(folder.iterdir()):
            refuse_pickle(path)
        raise CheckpointError(folder, "weights", "neither model.safetensors nor model.safetensors.index.json is there")
    table = read_json(index.read_bytes(), lambda problem: CheckpointError(index, "index", problem, 0))
    where = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(where, dict) or not where:
        raise CheckpointError(index, "weight_map", "expected an object of tensor names and shard files", 0)
    shards: dict[str, dict[str, Slot]] = {}
    for name, shard in where.items():
        if not isinstance(shard, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*\.safetensors", shard):
            raise CheckpointError(
                index, f"shard of {name!r}", f"{shard!r} is not a plain name ending in .safetensors", 0
            )
        if shard not in shards:
            path = folder / shard
            if not path.is_file():
                raise CheckpointError(index, f"shard of {name!r}", f"{shard} is not in the folder", 0)
            shards[shard] = read_header(path)
    found: dict[str, Slot] = {}
    for shard, slots in shards.items():
        for name, slot in slots.items():
            if where.get(name) != shard:
                raise CheckpointError(
                    slot.file, f"tensor {name!r}", f"the index puts it into {where.get(name)!r}", slot.declared_at
                )
            found[name] = slot
    if missing := [name for name in where if name not in found]:
        raise CheckpointError(
            index, f"tensor {missing[0]!r}", f"not in its shard ({len(missing)} tensors are missing)", 0
        )
    return found


def read_tensors(slots: dict[str, Slot]) -> Iterator[tuple[str, Tensor]]:
    """The tensors, one at a time, in their stored dtype. Each file is opened once. Raises CheckpointError."""
    files: dict[Path, list[str]] = {}
    for name, slot in slots.items():
        files.setdefault(slot.file, []).append(name)
    for path, names in files.items():
        try:
            with safe_open(path, "pt") as file:
                for name in names:
                    yield name, file.get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError(path, "safetensors", str(error), 0) from None


CHUNK = 4 << 20  # elements converted at a time


def read_part(slot: Slot, first: int, out: Tensor) -> None:
    """Fill `out` with the elements of a stored tensor from number `first` on, in its own dtype and place.

    Plain reads, no map: pages of a mapped file would count as memory until it is closed. Raises CheckpointError for a file
    that has become shorter.
    """
    width = DTYPES[NAMES[slot.dtype]][1]
    with slot.file.open("rb", buffering=0) as file:
        file.seek(slot.begin + first * width)

        def read(into: Tensor) -> None:
            view = memoryview(into.view(-1).view(torch.uint8).numpy().data)
            while len(view):
                if not (count := file.readinto(view)):
                    raise CheckpointError(slot.file, "data", "the file ended while it was read", file.tell())
                view = view[count:]

        if out.dtype == slot.dtype and out.is_contiguous() and out.device.type == "cpu":
            return read(out.detach())
        assert out.is_contiguous(), "slots are rows of contiguous tensors"
        flat = out.detach().view(-1)
        for start in range(0, flat.numel(), CHUNK):
            part = flat[start : start + CHUNK]
            piece = torch.empty(part.numel(), dtype=slot.dtype)
            read(piece)
            part.copy_(piece)


def save_tensors(
    path: str | Path,
    shapes: dict[str, tuple[int, ...]],
    tensors: Iterable[tuple[str, Tensor]],
    dtype: torch.dtype | Mapping[str, torch.dtype] = torch.float32,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write one safetensors file while the tensors stream past, in any order; one is in memory at a time.

    dtype: of all, or by name. The file appears only when it is complete. Raises ValueError when the tensors are not those
    of `shapes`, OSError (on a full disk one that says so).
    """
    dtypes = dtype if isinstance(dtype, Mapping) else dict.fromkeys(shapes, dtype)
    if unknown := set(dtypes.values()) - set(NAMES):
        raise ValueError(f"dtype is {unknown.pop()}; supported: {', '.join(str(d) for d in NAMES)}")
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    begins, end = {}, 0
    for name, shape in shapes.items():
        kind = NAMES[dtypes[name]]
        begins[name], size = end, DTYPES[kind][1]
        for dim in shape:
            size *= dim
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    left = set(shapes)
    with whole_file(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
        for name, tensor in tensors:
            if name not in left or tuple(tensor.shape) != tuple(shapes[name]):
                raise ValueError(
                    f"tensor {name!r} {tuple(tensor.shape)} is unknown, repeated or not of shape {shapes.get(name)}"
                )
            left.remove(name)
            file.seek(8 + len(text) + begins[name])
            file.write(tensor.detach().to("cpu", dtypes[name]).contiguous().view(-1).view(torch.uint8).numpy().data)
        if left:
            raise ValueError(f"{len(left)} tensors are missing, the first is {min(left)!r}")
