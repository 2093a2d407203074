"""Errors planted in clean text, so that what finds and mends them can be measured."""

from __future__ import annotations

import random

from mezzotint.shapes import Tokens, Where
from mezzotint.train.corruption import pad_rows


def plant(rows: list[list[int]], rate: float, pool: list[int], seed: int) -> tuple[Tokens, Tokens, Where, Where]:
    """Clean and spoiled tokens, valid, and where errors stand: `rate` of each row (one at least), tokens of other documents."""
    r = random.Random(seed)
    clean, valid = pad_rows(rows, 0)
    spoiled = clean.clone()
    for i, row in enumerate(rows):
        for at in r.sample(range(1, len(row) - 1), max(1, round(rate * len(row)))):
            spoiled[i, at] = r.choice([t for t in r.choices(pool, k=4) if t != row[at]] or [pool[0]])
    return clean, spoiled, valid, spoiled != clean
