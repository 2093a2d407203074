"""GLEU of grammatical error correction: BLEU that also takes off what should have been changed and was not.

    source       They was here .
    reference    They were here .
    hypothesis   They was here .      "was", "They was", "was here" ... stand in the source and not in the reference: penalty

    p_n = max(0, |H & R| - |H & (S \\ R)|) / |H|     n-grams, n = 1 to 4; S \\ R: those of the source that R lacks
    GLEU = exp(min(0, 1 - r/c) + mean log p_n)      r, c: tokens of references and hypotheses, summed over the corpus as p_n is

Napoles et al., "Ground Truth for Grammatical Error Correction Metrics" (2015), in the form of their 2016 update "GLEU Without
Tuning" (arXiv 1605.02592): with several references one is drawn for each sentence, many times, and the mean is reported. This is
not Google's GLEU of machine translation, which nltk calls `sentence_gleu`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import regex
from numpy.typing import NDArray

ORDER = 4
ROUNDS = 500  # draws of references, as the authors have it
Stats = NDArray[np.int64]  # [2 + 2 * ORDER]: c, r, then numerator and denominator of each order
_WORD = regex.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")


def words(text: str) -> list[str]:
    """Words, contractions whole, and punctuation marks, each a token. Published scores have the tokens of nltk."""
    found: list[str] = _WORD.findall(text)
    return found


def _grams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def stats(source: Sequence[str], reference: Sequence[str], hypothesis: Sequence[str]) -> Stats:
    """What one sentence adds to a corpus's sums."""
    found = [len(hypothesis), len(reference)]
    for n in range(1, ORDER + 1):
        ours, theirs = _grams(hypothesis, n), _grams(reference, n)
        left = Counter({gram: k for gram, k in _grams(source, n).items() if gram not in theirs})
        found += [max(0, (ours & theirs).total() - (ours & left).total()), max(0, len(hypothesis) - n + 1)]
    return np.array(found, dtype=np.int64)


def score(sums: Stats, smooth: bool = False) -> float:
    """GLEU of summed stats, 0 to 1; 0 where an order has no match. smooth: zeros count as one, as for single sentences."""
    values = np.where(sums == 0, 1, sums) if smooth else sums
    if (values == 0).any():
        return 0.0
    c, r, *parts = values.tolist()
    logs = sum(float(np.log(a / b)) for a, b in zip(parts[::2], parts[1::2], strict=True))
    return float(np.exp(min(0.0, 1 - r / c) + logs / ORDER))


def sentence(source: str, references: Sequence[str], hypothesis: str) -> float:
    """Mean over references of the smoothed score of one sentence; texts as they are."""
    rows = [stats(words(source), words(reference), words(hypothesis)) for reference in references]
    return sum(score(row, True) for row in rows) / len(rows)


def corpus(rows: Sequence[tuple[str, Sequence[str], str]], seed: int = 0, rounds: int = ROUNDS) -> tuple[float, float]:
    """GLEU of (source, references, hypothesis) and its standard error over sentences, by bootstrap.

    Raises ValueError for no rows and for one without a reference.
    """
    if not rows or not all(references for _, references, _ in rows):
        raise ValueError("GLEU needs at least one sentence, and a reference for each")
    table = [[stats(words(s), words(r), words(h)) for r in references] for s, references, h in rows]
    draw = np.random.default_rng(seed)

    def drawn(index: NDArray[np.int64]) -> float:
        return score(np.sum([table[i][draw.integers(len(table[i]))] for i in index], axis=0))

    everything = np.arange(len(rows))
    mean = float(np.mean([drawn(everything) for _ in range(rounds)]))
    resampled = [drawn(draw.integers(len(rows), size=len(rows))) for _ in range(rounds)]
    return mean, float(np.std(resampled, ddof=1)) if len(rows) > 1 else float("nan")
