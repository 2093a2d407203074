"""What became of a text, counted by words: which of it stayed, which changes were right; and how hard it is to read.

before   The cat sat an the mat .       words, spaces and marks are the tokens
wanted   The cat sat on the mat .       one change: (an -> on)
after    A cat sat on the mat .         two changes, one of them right: F0.5; "The" should have stayed: locality
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import regex

from mezzotint.edit.checks import SENTENCE
from mezzotint.eval.metrics import f_beta

TOKEN = regex.compile(r"\w+|\s+|[^\w\s]")
_WORD = regex.compile(r"[A-Za-z]+(?:'[A-Za-z]+)?")


class Change(NamedTuple):
    """Tokens `start:end` of a text became these."""

    start: int
    end: int
    new: tuple[str, ...]


def changes(before: str, after: str) -> list[Change]:
    """The least changes of tokens, in order; runs of equal length are taken apart, token by token."""
    old, new = TOKEN.findall(before), TOKEN.findall(after)
    found = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "replace" and b - a == d - c:
            found += [Change(a + i, a + i + 1, (new[c + i],)) for i in range(b - a) if old[a + i] != new[c + i]]
        elif kind != "equal":
            found.append(Change(a, b, tuple(new[c:d])))
    return found


def right_changes(before: str, wanted: str, after: str) -> tuple[int, int, int]:
    """How many changes were right, how many there were, how many were wanted."""
    made, gold = set(changes(before, after)), set(changes(before, wanted))
    return len(made & gold), len(made), len(gold)


def kept(before: str, wanted: str, after: str) -> tuple[int, int]:
    """How many of the tokens that were to stay have stayed, and how many were to stay."""
    size = len(TOKEN.findall(before))
    gone, ours = ({i for c in changes(before, text) for i in range(c.start, c.end)} for text in (wanted, after))
    return size - len(gone | ours), size - len(gone)


def pooled_f(rows: Sequence[tuple[int, int, int]], seed: int = 0, rounds: int = 500) -> tuple[float, float]:
    """F0.5 of summed (right, made, wanted), and its standard error over rows, by bootstrap; nan for one row."""
    table, draw = np.array(rows), np.random.default_rng(seed)
    total = f_beta(*table.sum(0).tolist())
    again = [f_beta(*table[draw.integers(len(table), size=len(table))].sum(0).tolist()) for _ in range(rounds)]
    return total, float(np.std(again, ddof=1)) if len(rows) > 1 else float("nan")


def syllables(word: str) -> int:
    """Groups of vowels, a silent e at the end left out; one at least. An estimate, the usual one."""
    word = word.lower()
    count = len(regex.findall(r"[aeiouy]+", word))
    if word.endswith("e") and not regex.search(r"[^aeiouy]le$|[aeiouy]e$", word):
        count -= 1
    return max(1, count)


def sentences(text: str) -> list[str]:
    """Those that hold a word, without the white space around them."""
    return [found.strip() for found in SENTENCE.findall(text) if _WORD.search(found)]


def grade(text: str) -> float | None:
    """School years that a text takes: 0.39 words/sentences + 11.8 syllables/words - 15.59 (Kincaid et al., 1975).

    None for a text without words.
    """
    found = _WORD.findall(text)
    if not found:
        return None
    return 0.39 * len(found) / len(sentences(text)) + 11.8 * sum(map(syllables, found)) / len(found) - 15.59
