"""Which texts share a run of 13 words with an evaluation (GPT-3, arXiv 2005.14165, appendix C), found as numbers.

    the quick brown fox ...  ->  w0 w1 w2 w3 ...              a word is 64 bits of its BLAKE2, kept for the next time
                             ->  w0 a + w1 b + ... + w12 m    mod 2^64, odd a ... m: one number a run, all runs at once
    runs of evaluations      ->  sorted once, searched for

Hashes are the same in every process. That two different runs of a build meet by chance has a probability of about 10^-5.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mezzotint.train.data import unpacked

RUN = 13  # words that a document and an evaluation may not share
WORD = re.compile(r"\w+")
MOST = 1 << 20  # words whose hashes are kept
BITS = 24  # of a hash, by which the table is looked up
SHIFT = np.uint64(64 - BITS)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


FACTORS = np.array([_hash(f"factor {k}") | 1 for k in range(RUN)], np.uint64)
_known: dict[str, int] = {}


def runs_of_words(text: str) -> NDArray[np.uint64]:
    """A hash for every run of `RUN` words, `[words - RUN + 1]`; none where there are fewer words."""
    words = WORD.findall(text.lower())
    if len(words) < RUN:
        return np.zeros(0, np.uint64)
    if len(_known) > MOST:
        _known.clear()
    for word in set(words):
        if word not in _known:
            _known[word] = _hash(word)
    hashes = np.fromiter(map(_known.__getitem__, words), np.uint64, len(words))
    count = len(words) - RUN + 1
    total = np.zeros(count, np.uint64)
    for k in range(RUN):
        total += hashes[k : k + count] * FACTORS[k]  # wraps, as it should
    return total


class Runs:
    """The runs of evaluations, sorted, and a table that rules most others out at a look. Falsy when there are none."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        found = [runs_of_words(text) for text in texts]
        self.hashes = np.unique(np.concatenate(found)) if found else np.zeros(0, np.uint64)
        self.table = np.zeros(1 << BITS, np.bool_)
        self.table[self.hashes >> SHIFT] = True

    def __len__(self) -> int:
        return len(self.hashes)

    def overlaps(self, text: str) -> bool:
        """Does the text share a run with any of them?"""
        if not len(self):
            return False
        runs = runs_of_words(text)
        runs = runs[self.table[runs >> SHIFT]]
        at = np.searchsorted(self.hashes, runs)
        return bool((self.hashes[np.minimum(at, len(self) - 1)] == runs).any())


def evaluation_runs(paths: Iterable[Path]) -> Runs:
    """Runs of words of all texts in evaluation files (JSON lines), whatever their fields are. Raises ValueError, OSError."""

    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            for inner in value.values() if isinstance(value, dict) else value:
                yield from texts(inner)

    def all_texts() -> Iterator[str]:
        for path in paths:
            with unpacked(path) as file:
                for line in file:
                    if line.strip():
                        yield from texts(json.loads(line))

    return Runs(all_texts())
