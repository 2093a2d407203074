"""Text from files: JSON lines, plain or packed with zstd or xz; what is held out is held out by source, never by row.

read_rows("gsm8k-train.jsonl.zst") -> {"text": ..., "source": ...} one at a time
held_out("data/pages/ast.md", 0.05) -> True for the same twentieth of sources, on every machine
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import torch


def data_folder() -> Path | None:
    """The folder of training text that MEZZOTINT_DATA names, if it is there. Raises ValueError when it names no folder."""
    name = os.environ.get("MEZZOTINT_DATA")
    if not name:
        return None
    if not Path(name).is_dir():
        raise ValueError(f"MEZZOTINT_DATA is {name!r}, which is not a folder")
    return Path(name)


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".xz":
        return lzma.open(path)
    if path.suffix == ".zst":
        try:
            import zstandard
        except ImportError:
            raise ValueError(f"{path.name} is packed with zstd: pip install 'mezzotint[train]'") from None
        return zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(path.open("rb"), closefd=True)
    return path.open("rb")


def read_rows(path: str | Path) -> Iterator[dict[str, Any]]:
    """Objects of a JSON-lines file. Raises ValueError naming file and line for anything else, OSError."""
    path = Path(path)
    if "-EVAL" in path.name:
        raise ValueError(f"{path.name} is for evaluation and never enters training")
    with _open(path) as raw, io.BufferedReader(raw) as file:  # type: ignore[type-var]  # any raw stream will do
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number} is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number} is not an object")
            yield row


def held_out(source: str, share: float) -> bool:
    """Is this source among the held-out `share`? A hash of its name decides, so that splits never move."""
    digest = hashlib.sha256(source.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


class Rows:
    """Tokenised documents, drawn in batches of similar length so that little is padding.

    What a step draws depends on the seed and the step alone.
    """

    def __init__(self, rows: Sequence[Sequence[int]], seed: int) -> None:
        if not rows:
            raise ValueError("there is no document to train on")
        self.rows = sorted(rows, key=len)
        self.seed = seed

    def generator(self, step: int) -> torch.Generator:
        """Random numbers of one step."""
        return torch.Generator().manual_seed((self.seed << 32) + step)

    def draw(self, count: int, generator: torch.Generator) -> list[Sequence[int]]:
        """`count` rows from a window of 8 `count` neighbours in length, placed at random."""
        window = min(8 * count, len(self.rows))
        start = int(torch.randint(len(self.rows) - window + 1, (), generator=generator))
        chosen = torch.randint(window, (count,), generator=generator) + start
        return [self.rows[i] for i in chosen.tolist()]
