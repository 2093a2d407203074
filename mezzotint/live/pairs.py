"""Rows that teach live translation, English to French: what `mezzotint finetune` learns from.

    whole    Close the file.  ->  Ferme le fichier.
    prefix   Close the        ->  Ferme le           the words of a source that is still being spoken, and as large a part of
                                                     the translation (Niehues et al. 2018, arXiv 1808.00491)

The parallel text is that of Python's documentation (CC0-1.0; the English PSF-2.0), the only one whose licence lets weights be
given on. Rows are held out by source file: those that `benchmarks/live_translate.py` measures on are never among these.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mezzotint.checkpoints.files import whole_file
from mezzotint.live.translate import Live
from mezzotint.recipes.mixture import HOLD_OUT
from mezzotint.train.data import data_folder, held_out, read_rows

NAME = "python-docs-fr"
MARKUP = frozenset("`*|\\<>_{}\n")
LONGEST = 40  # words of a source


def pairs(held: bool) -> Iterator[tuple[str, str]]:
    """English and French of the rows whose source file is held out, or of all the others. Raises ValueError without the file.

    Only rows that could be spoken: of at most `LONGEST` words, without markup.
    """
    folder = data_folder()
    path = None if folder is None else folder / f"{NAME}.jsonl.zst"
    if path is None or not path.is_file():
        raise ValueError(f"{NAME}.jsonl.zst is not there; set MEZZOTINT_DATA to the folder that holds it")
    for row in read_rows(path):
        if held_out(str(row["source"]), HOLD_OUT) is held and _plain(row["input"]) and _plain(row["output"]):
            yield row["input"], row["output"]


def _plain(text: str) -> bool:
    return 0 < len(text.split()) <= LONGEST and not MARKUP & set(text)


def rows(prefixes: float = 0.5, seed: int = 0) -> Iterator[Mapping[str, Any]]:
    """Chat rows, each pair once and at the chance `prefixes` a prefix of it, asked as live translation asks.

    Raises ValueError for a chance outside 0 to 1, and as `pairs`.
    """
    if not 0 <= prefixes <= 1:
        raise ValueError(f"prefixes is {prefixes}; it must lie between 0 and 1")
    asked, draw = Live(), random.Random(seed)
    for source, target in dict(pairs(held=False)).items():
        texts = [(source, target)]
        if len(source.split()) > 1 and draw.random() < prefixes:
            texts.append(prefix(source, target, draw))
        for said, meant in texts:
            turns = [{"role": "user", "content": asked.prompt(said, True)}, {"role": "assistant", "content": meant}]
            yield {"messages": turns, "source": NAME}


def prefix(source: str, target: str, draw: random.Random) -> tuple[str, str]:
    """The first words of a source, at least one and not all, and as large a part of its translation, at least a word."""
    words, meant = source.split(), target.split()
    count = draw.randint(1, len(words) - 1)
    return " ".join(words[:count]), " ".join(meant[: max(1, round(count * len(meant) / len(words)))])


def write_rows(out: str | Path, prefixes: float = 0.5, seed: int = 0) -> int:
    """Write `rows` to a JSON-lines file -> how many. Raises ValueError where `out` exists and as `rows`, OSError."""
    if Path(out).exists():
        raise ValueError(f"{out} exists; give another file")
    found = list(rows(prefixes, seed))
    random.Random(seed).shuffle(found)
    with whole_file(out) as file:
        for row in found:
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return len(found)
