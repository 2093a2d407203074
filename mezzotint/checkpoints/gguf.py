"""GGUF files, version 2 and 3: a guarded reader over mmap, and the dequantisers we need.

    magic version | counts | metadata: key type value ... | tensors: name shape type offset ... | pad | data, aligned
    ------------------ read field by field, each count checked against the bytes left ---------- | -- mapped, lazy --

* Nothing is allocated from a number in the file before that many bytes (at their smallest) are known to be there, so
  work and memory are bounded by the file's size whatever its bytes say.
* Tensors must tile the data section: sorted by offset they follow each other with only alignment padding between and
  nothing after. That is what writers do, and it turns most damage to an offset or a shape into an error.
* Shapes here are in row-major order `[rows, columns]`; the file stores them reversed.
* Source: the GGUF description in ggml's docs/gguf.md; block layouts as in ggml-quants. Little-endian only.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mezzotint.checkpoints.errors import CheckpointError

MAX_DIMS = 4
MAX_DEPTH = 4  # arrays inside arrays
MAX_OBJECTS = 1 << 20  # strings and arrays in the metadata: each costs some 60 bytes of memory for 8 of file

# ggml type -> (name, elements a block, bytes a block)
TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1),
    25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip

# metadata value type -> (struct format, numpy dtype)
SCALARS: dict[int, tuple[str, str]] = {
    0: ("<B", "u1"), 1: ("<b", "i1"), 2: ("<H", "<u2"), 3: ("<h", "<i2"), 4: ("<I", "<u4"), 5: ("<i", "<i4"),
    6: ("<f", "<f4"), 7: ("<B", "u1"), 10: ("<Q", "<u8"), 11: ("<q", "<i8"), 12: ("<d", "<f8"),
}  # fmt: skip
BOOL, STRING, ARRAY = 7, 8, 9


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies. shape row-major, offset and size in bytes from the start of the file."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    size: int
    declared_at: int  # byte of its entry in the table, for errors


@dataclass(frozen=True)
class GGUFFile:
    """An open file: metadata read, tensors mapped. Scalar arrays in `metadata` are numpy views of the file."""

    path: Path
    version: int
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]
    offsets: dict[str, int]  # metadata key -> byte of its value, for errors
    data: mmap.mmap = field(repr=False)

    def tensor(self, name: str) -> Tensor:
        """One tensor, dequantised to float32, in row-major shape.

        Raises CheckpointError for a type without dequantiser.
        """
        info = self.tensors[name]
        if info.type not in DEQUANTISERS:
            known = ", ".join(DEQUANTISERS)
            raise CheckpointError(
                self.path,
                f"type of tensor {name!r}",
                f"{info.type} is not supported; supported: {known}",
                info.declared_at,
            )
        raw = np.frombuffer(self.data, np.uint8, info.size, info.offset)
        with np.errstate(all="ignore"):  # infinite or absent scales of a damaged file are values, not warnings
            return torch.from_numpy(DEQUANTISERS[info.type](raw).reshape(info.shape))

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """All tensors in file order, one in memory at a time."""
        for name in self.tensors:
            yield name, self.tensor(name)

    def scalar(self, key: str, default: Any = None) -> Any:
        """A metadata value that is one number, bool or string; `default` when absent. Raises CheckpointError for arrays."""
        value = self.metadata.get(key, default)
        if isinstance(value, list | np.ndarray):
            raise self.error(key, "an array; expected one value")
        return value

    def error(self, key: str, problem: str) -> CheckpointError:
        """An error about a metadata value, at its byte or, when it is absent, at that of the metadata."""
        return CheckpointError(self.path, f"metadata {key!r}", problem, self.offsets.get(key, 24))


def read_gguf(path: str | Path) -> GGUFFile:
    """Read the head of a GGUF file and map the rest.

    Raises CheckpointError naming the field and byte for a file that is damaged, truncated or of a kind we do not read;
    OSError when it cannot be opened.
    """
    path = Path(path)
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size < 24:
            raise CheckpointError(path, "header", f"the file has {size} bytes; a GGUF header has 24", 0)
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return _Reader(path, data).read()


class _Reader:
    """A cursor that refuses to pass the end of the file."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.size, self.at = path, data, len(data), 0
        self.objects = 0

    def fail(self, field: str, problem: str, offset: int) -> CheckpointError:
        return CheckpointError(self.path, field, problem, offset)

    def need(self, count: int, each: int, field: str, offset: int) -> None:
        """Check that `count` things of at least `each` bytes fit into what is left. Python ints: no overflow."""
        left = self.size - self.at
        if count * each > left:
            raise self.fail(field, f"{count} needs at least {count * each} bytes, {left} are left", offset)

    def scalar(self, kind: int, field: str) -> Any:
        form, at = SCALARS[kind][0], self.at
        width = struct.calcsize(form)
        self.need(1, width, field, at)
        (value,) = struct.unpack_from(form, self.data, at)
        self.at += width
        if kind == BOOL:
            if value > 1:
                raise self.fail(field, f"a bool is {value}; expected 0 or 1", at)
            return bool(value)
        return value

    def count(self, each: int, field: str) -> int:
        at = self.at
        value: int = self.scalar(10, field)
        self.need(value, each, field, at)
        return value

    def string(self, field: str) -> str:
        length = self.count(1, f"length of {field}")
        at, self.at = self.at, self.at + length
        try:
            return str(self.data[at : self.at], "utf-8")
        except UnicodeDecodeError as error:
            raise self.fail(field, "not UTF-8", at + error.start) from None

    def more_objects(self, count: int, field: str, offset: int) -> None:
        self.objects += count
        if self.objects > MAX_OBJECTS:
            raise self.fail(field, f"more than {MAX_OBJECTS} strings and arrays in the metadata", offset)

    def strings(self, count: int, field: str) -> list[str]:
        """The hot loop: 10^5 vocabulary entries in some tens of milliseconds."""
        data, at, size, values = self.data, self.at, self.size, []
        for index in range(count):
            start = at + 8
            end = start + int.from_bytes(data[at:start], "little")
            if end > size or start > size:
                raise self.fail(
                    f"length of {field}[{index}]", f"{end - start} bytes, {max(size - start, 0)} are left", at
                )
            try:
                values.append(str(data[start:end], "utf-8"))
            except UnicodeDecodeError as error:
                raise self.fail(f"{field}[{index}]", "not UTF-8", start + error.start) from None
            at = end
        self.at = at
        return values

    def array(self, field: str, depth: int) -> Any:
        at = self.at
        kind: int = self.scalar(4, f"type of {field}")
        if kind in SCALARS:
            dtype = np.dtype(SCALARS[kind][1])
            count = self.count(dtype.itemsize, f"count of {field}")
            values = np.frombuffer(self.data, dtype, count, self.at) if count else np.empty(0, dtype)
            if kind == BOOL and count and int(values.max()) > 1:
                raise self.fail(field, "a bool is neither 0 nor 1", self.at + int((values > 1).argmax()))
            self.at += count * dtype.itemsize
            return values
        if kind == STRING:
            count = self.count(8, f"count of {field}")
            self.more_objects(count, f"count of {field}", at + 4)
            return self.strings(count, field)
        if kind == ARRAY:
            if depth >= MAX_DEPTH:
                raise self.fail(field, f"arrays nested deeper than {MAX_DEPTH}", at)
            count = self.count(12, f"count of {field}")
            self.more_objects(count, f"count of {field}", at + 4)
            return [self.array(f"{field}[{index}]", depth + 1) for index in range(count)]
        raise self.fail(f"type of {field}", f"unknown value type {kind}; expected 0 to 12", at)

    def value(self, field: str) -> Any:
        at = self.at
        kind: int = self.scalar(4, f"type of {field}")
        if kind in SCALARS:
            return self.scalar(kind, field)
        if kind == STRING:
            return self.string(field)
        if kind == ARRAY:
            return self.array(field, 1)
        raise self.fail(f"type of {field}", f"unknown value type {kind}; expected 0 to 12", at)

    def read(self) -> GGUFFile:
        if (magic := self.data[:4]) != b"GGUF":
            raise self.fail("magic", f"{magic!r}; expected b'GGUF'", 0)
        self.at = 4
        version: int = self.scalar(4, "version")
        if version in (2 << 24, 3 << 24):
            raise self.fail("version", "a big-endian file; only little-endian files are read", 4)
        if version not in (2, 3):
            raise self.fail("version", f"{version}; supported: 2, 3", 4)
        num_tensors = self.count(8 + 4 + 8 + 4 + 8, "tensor count")
        num_keys = self.count(8 + 4 + 1, "metadata count")
        self.more_objects(num_keys + num_tensors, "metadata count", 16)
        metadata, offsets = {}, {}
        for index in range(num_keys):
            at = self.at
            key = self.string(f"metadata key {index}")
            if key in metadata:
                raise self.fail(f"metadata key {index}", f"{key!r} appears twice", at)
            offsets[key] = self.at + 4
            metadata[key] = self.value(f"metadata {key!r}")
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 8 <= alignment <= 65536 or alignment & (alignment - 1):
            at = offsets["general.alignment"]
            raise self.fail(
                "metadata 'general.alignment'", f"{alignment!r}; expected a power of two from 8 to 65536", at
            )
        entries = [self.entry(index) for index in range(num_tensors)]
        tensors = self.place(entries, -(-self.at // alignment) * alignment, alignment)
        return GGUFFile(self.path, version, metadata, tensors, offsets, self.data)

    def entry(self, index: int) -> TensorInfo:
        """One row of the tensor table; offset still relative to the data section."""
        declared_at = self.at
        name = self.string(f"name of tensor {index}")
        label = f"tensor {name!r}"
        at = self.at
        num_dims: int = self.scalar(4, f"dimension count of {label}")
        if not 1 <= num_dims <= MAX_DIMS:
            raise self.fail(f"dimension count of {label}", f"{num_dims}; expected 1 to {MAX_DIMS}", at)
        dims = []
        for axis in range(num_dims):
            at = self.at
            dims.append(self.scalar(10, f"dimension {axis} of {label}"))
            if dims[-1] < 1:
                raise self.fail(f"dimension {axis} of {label}", "0; expected at least 1", at)
        at = self.at
        kind: int = self.scalar(4, f"type of {label}")
        if kind not in TYPES:
            raise self.fail(f"type of {label}", f"unknown ggml type {kind}", at)
        type_name, block, block_bytes = TYPES[kind]
        if dims[0] % block:
            raise self.fail(
                f"dimension 0 of {label}", f"{dims[0]} is not a multiple of {type_name}'s block of {block}", at
            )
        size = block_bytes
        for dim in (dims[0] // block, *dims[1:]):
            size *= dim
            if size > self.size:
                raise self.fail(
                    f"shape of {label}", f"{dims} of {type_name} is larger than the file of {self.size} bytes", at
                )
        offset: int = self.scalar(10, f"offset of {label}")
        return TensorInfo(name, tuple(reversed(dims)), type_name, offset, size, declared_at)

    def place(self, entries: list[TensorInfo], start: int, alignment: int) -> dict[str, TensorInfo]:
        """Check that the tensors tile the data section `[start, end of file)`, and give them their absolute offsets."""
        tensors: dict[str, TensorInfo] = {}
        end = start
        for e in sorted(entries, key=lambda e: e.offset):
            expected = -(-end // alignment) * alignment
            if start + e.offset != expected:
                problem = f"byte {start + e.offset} of the file; expected {expected}, where the tensor before it ends"
                raise self.fail(f"offset of tensor {e.name!r}", problem, e.declared_at)
            end = expected + e.size
            if end > self.size:
                problem = f"its {e.size} bytes from {expected} reach past the end of the file, {self.size}"
                raise self.fail(f"data of tensor {e.name!r}", problem, e.declared_at)
        if self.size > -(-end // alignment) * alignment:
            raise self.fail("end of data", f"{self.size - end} bytes follow the last tensor", end)
        for e in entries:
            if e.name in tensors:
                raise self.fail("tensor name", f"{e.name!r} appears twice", e.declared_at)
            tensors[e.name] = TensorInfo(e.name, e.shape, e.type, start + e.offset, e.size, e.declared_at)
        return tensors


# -- dequantisers: raw bytes of whole blocks -> float32, flat ----------------------------------------------------------


def f32(raw: np.ndarray) -> np.ndarray:
    return raw.view("<f4").astype(np.float32)  # a copy: the map is read-only


def f16(raw: np.ndarray) -> np.ndarray:
    return raw.view("<f2").astype(np.float32)


def bf16(raw: np.ndarray) -> np.ndarray:
    return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)


def q8_0(raw: np.ndarray) -> np.ndarray:
    """Blocks of 32: scale f16, then 32 signed bytes. value = scale * byte."""
    blocks = raw.view(np.dtype([("scale", "<f2"), ("bytes", "i1", 32)]))
    out = blocks["bytes"].astype(np.float32)  # [blocks, 32]
    out *= blocks["scale"].astype(np.float32)[:, None]
    return out.reshape(-1)


def q4_1(raw: np.ndarray) -> np.ndarray:
    """Blocks of 32: scale f16, minimum f16, 16 bytes: low nibbles are values 0-15, high ones 16-31.

    value = scale * nibble + minimum.
    """
    blocks = raw.view(np.dtype([("scale", "<f2"), ("minimum", "<f2"), ("nibbles", "u1", 16)]))
    out = np.empty((len(blocks), 32), np.float32)
    out[:, :16] = blocks["nibbles"] & 15
    out[:, 16:] = blocks["nibbles"] >> 4
    out *= blocks["scale"].astype(np.float32)[:, None]
    out += blocks["minimum"].astype(np.float32)[:, None]
    return out.reshape(-1)


DEQUANTISERS = {"F32": f32, "F16": f16, "BF16": bf16, "Q4_1": q4_1, "Q8_0": q8_0}
