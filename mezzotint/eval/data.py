"""Reading benchmark items from a folder that the user names: JSON lines (plain, xz, gzip, zstd), parquet, CSV, JSON.

Nothing is downloaded and nothing is redistributed. A file's SHA-256 is stored with every score. Fields that their authors
encoded as base64 of zlib of a pickled text are read opcode by opcode: a stream that holds anything but one text is refused,
and nothing is ever unpickled.
"""

from __future__ import annotations

import base64
import binascii
import csv
import gzip
import hashlib
import io
import json
import lzma
import os
import pickletools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parent / "fixtures"
SUFFIXES = (".jsonl.xz", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".csv", ".json", "")
MOST_BYTES = 1 << 30  # of one decoded field
TEXT_OPCODES = {"PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT", "STOP"}
TEXT_VALUES = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"}


@dataclass(frozen=True)
class Data:
    """Rows of a benchmark with what identifies them. fixture: hand-made stand-ins, not the benchmark."""

    rows: tuple[Mapping[str, Any], ...]
    sha256: str
    files: tuple[str, ...]
    fixture: bool = False


def folder(name: str | None) -> Path | None:
    """The data folder: as named, or the one MEZZOTINT_EVALDATA names. Raises ValueError for one that is none."""
    named = name or os.environ.get("MEZZOTINT_EVALDATA")
    if not named:
        return None
    if not Path(named).is_dir():
        what = "--data" if name else "MEZZOTINT_EVALDATA"
        raise ValueError(f"{what} is {named!r}, which is not a folder; name the one that holds the benchmarks' files")
    return Path(named)


def find(where: Path | None, names: Sequence[str]) -> list[Path] | None:
    """The files of these names or patterns (with any known ending), or None unless there is one for each."""
    if where is None:
        return None
    found: list[Path] = []
    for name in names:
        matches = (sorted(p for p in where.glob(name + suffix) if p.is_file()) for suffix in SUFFIXES)
        some = next((paths for paths in matches if paths), None)
        if some is None:
            return None
        found += some
    return found


def read(paths: Sequence[Path], fixture: bool = False) -> Data:
    """All rows of some files, in order, each with its file's name (or folder's, for a `test` file) as `_file`.

    Raises ValueError naming the file and line that cannot be read, and for files without a row.
    """
    digest, rows = hashlib.sha256(), list[Mapping[str, Any]]()
    for path in paths:
        data = path.read_bytes()
        digest.update(data)
        name = path.parent.name if path.name.startswith("test-") else path.name.split(".")[0]
        rows += [{**row, "_file": name} for row in _rows(path, data)]
    if not rows:
        raise ValueError(f"{', '.join(map(str, paths))}: no rows in it")
    return Data(tuple(rows), digest.hexdigest(), tuple(path.name for path in paths), fixture)


def fixture(name: str) -> Data:
    """Hand-made rows in a benchmark's shape, so that what reads it can be tried without it."""
    return read([FIXTURES / f"{name}.jsonl"], fixture=True)


def _rows(path: Path, data: bytes) -> Iterator[Mapping[str, Any]]:
    kind = "".join(path.suffixes[-2:])
    try:
        if path.suffix == ".parquet":
            try:
                import pyarrow.parquet as parquet
            except ImportError:
                raise ValueError(f"{path} needs pyarrow to be read: pip install 'mezzotint[parquet]'") from None
            yield from parquet.read_table(io.BytesIO(data)).to_pylist()
            return
        if kind.endswith(".xz"):
            data = lzma.decompress(data)
        elif kind.endswith(".gz"):
            data = gzip.decompress(data)
        elif kind.endswith(".zst"):
            from mezzotint.train.data import unpacked  # beside torch, which the command line starts without

            with unpacked(path) as file:
                data = file.read()
        text = data.decode("utf-8")
    except (lzma.LZMAError, EOFError, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if ".csv" in kind:
        yield from csv.DictReader(io.StringIO(text, newline=""))
        return
    for number, line in enumerate(text.split("\n") if ".json" in kind else [], 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number} is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number} is a {type(row).__name__}; a row is an object")
            yield row


def encoded_text(value: str) -> str:
    """A text out of base64 of zlib of its pickle; a field that holds its text plainly is given back as it is.

    Raises ValueError for a stream that holds anything else, or more than 1 GiB.
    """
    try:
        packed = base64.b64decode(value, validate=True)
        unpacker = zlib.decompressobj()
        stream = unpacker.decompress(packed, MOST_BYTES)
    except (binascii.Error, zlib.error, ValueError):
        return value
    if unpacker.unconsumed_tail:
        raise ValueError(f"an encoded field holds more than {MOST_BYTES >> 20} MiB")
    texts = []
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name in TEXT_VALUES:
                texts.append(str(argument))
            elif opcode.name not in TEXT_OPCODES:
                raise ValueError(f"an encoded field is not one text: it holds the opcode {opcode.name}")
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"an encoded field cannot be read: {error}") from None
    if len(texts) != 1:
        raise ValueError(f"an encoded field holds {len(texts)} texts; it must be one")
    return texts[0]


def encoded(value: str) -> Any:
    """What an encoded field's text says as JSON; the text itself where it is none."""
    text = encoded_text(value)
    try:
        return json.loads(text)
    except ValueError:
        return text


def listed(value: Any) -> list[Any]:
    """A list that some files hold as JSON or as Python's own writing of it."""
    import ast

    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            try:
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                raise ValueError(f"not a list: {value[:80]!r}") from None
    if not isinstance(value, list):
        raise ValueError(f"a {type(value).__name__} where a list is needed")
    return value


def required(row: Mapping[str, Any], *keys: str) -> None:
    """Raises ValueError when a row lacks a field."""
    if missing := [key for key in keys if row.get(key) is None]:
        raise ValueError(f"a row lacks {', '.join(missing)}; it has {', '.join(sorted(map(str, row)))}")
