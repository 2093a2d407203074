"""How late a translation comes, how much of it is taken back, and how good it is.

    source   x1 x2 x3 x4            delay d_i: source words read when target word i was committed
    target         y1 y2  y3        d = 2, 3, 4      AL = mean of d_i - (i - 1) |X| / |Y*|, up to the first i that has read all

AL    average lagging (Ma et al., arXiv 1810.08398); may be negative where a translation is long
LAAL  the same with max(|Y|, |Y*|): long translations gain nothing (Papi et al., arXiv 2206.05807)
DAL   a step is at least |X| / |Y|, so no word is on time for having been written at once (Cherry and Foster, arXiv 1906.00048)
NE    normalised erasure: what was shown and taken back over all updates, as a share of the final text (arXiv 1912.03393)

Computation-aware: delays in time. A word of the source comes every `pace` seconds, an update begins when its words are there and
the update before has ended, and what it commits comes when it ends; such delays are given in words, too, at that pace.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """An update as it was seen. read: source words it had; committed: all that was; shown: that and the draft; seconds: taken."""

    read: int
    committed: str
    shown: str
    seconds: float = 0.0


def delays(steps: Sequence[Step]) -> list[float]:
    """Source words read when each word of the final text was committed, all of it. Raises ValueError as `_check` says."""
    _check(steps)
    return _delays(steps, [float(x) for x in itertools.accumulate((s.read for s in steps), max)])


def aware(steps: Sequence[Step], pace: float) -> list[float]:
    """Computation-aware delays, in source words of `pace` seconds. Raises ValueError as `_check` says, and for a pace of 0."""
    _check(steps)
    if not pace > 0:
        raise ValueError(f"pace is {pace}; it must be more than 0 seconds a word")
    ends, now = list[float](), 0.0
    for read, step in zip(itertools.accumulate((s.read for s in steps), max), steps, strict=True):
        now = max(now, read * pace) + step.seconds
        ends.append(now / pace)
    return _delays(steps, ends)


def _delays(steps: Sequence[Step], at: Sequence[float]) -> list[float]:
    ends = [match.end() for match in re.finditer(r"\S+", steps[-1].committed)]
    return [next(when for step, when in zip(steps, at, strict=True) if len(step.committed) >= end) for end in ends]


def _check(steps: Sequence[Step]) -> None:
    """Raises ValueError for no steps, and for committed text that changed."""
    if not steps:
        raise ValueError("there are no updates to measure; give at least one")
    for number, (before, after) in enumerate(itertools.pairwise(steps), 1):
        if not after.committed.startswith(before.committed):
            raise ValueError(f"update {number} changed committed text: {before.committed!r} became {after.committed!r}")


def average_lagging(delays: Sequence[float], source: int, reference: int | None = None) -> float:
    """AL in source words. source, reference: their lengths in words; without a reference its length is the target's."""
    return _lagging(delays, source, len(delays) if reference is None else reference)


def length_adaptive(delays: Sequence[float], source: int, reference: int | None = None) -> float:
    """LAAL in source words."""
    return _lagging(delays, source, max(len(delays), reference or 0))


def _lagging(delays: Sequence[float], source: int, target: int) -> float:
    _lengths(delays, source, target)
    last = next((i for i, d in enumerate(delays, 1) if d >= source), len(delays))
    return sum(d - i * source / target for i, d in enumerate(delays[:last])) / last


def differentiable(delays: Sequence[float], source: int) -> float:
    """DAL in source words."""
    _lengths(delays, source, len(delays))
    step, late, total = source / len(delays), 0.0, 0.0
    for i, d in enumerate(delays):
        late = d if i == 0 else max(d, late + step)
        total += late - i * step
    return total / len(delays)


def average_proportion(delays: Sequence[float], source: int) -> float:
    """AP: the share of the source that had been read, averaged over target words."""
    _lengths(delays, source, len(delays))
    return sum(delays) / (source * len(delays))


def _lengths(delays: Sequence[float], source: int, target: int) -> None:
    if not delays or source < 1 or target < 1:
        raise ValueError(
            f"lengths are {source} source and {target} target words, {len(delays)} delays; each is at least 1"
        )


def erased(shown: Sequence[str], unit: str = "characters") -> int:
    """Characters or words taken back over all updates: behind what two texts shown one after the other both begin with.

    Raises ValueError for another unit.
    """
    if unit not in ("characters", "words"):
        raise ValueError(f"unit is {unit!r}; allowed: characters, words")
    units = [text if unit == "characters" else text.split() for text in ("", *shown)]
    return sum(len(a) - _same(a, b) for a, b in itertools.pairwise(units))


def normalised_erasure(shown: Sequence[str], unit: str = "characters") -> float:
    """NE of the texts shown, one an update; 0 where the last of them is empty and nothing was taken back, else infinite."""
    final = len(shown[-1] if unit == "characters" else shown[-1].split()) if shown else 0
    gone = erased(shown, unit)
    return gone / final if final else float("inf") if gone else 0.0


def _same(a: Sequence[object], b: Sequence[object]) -> int:
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def quality(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """chrF and BLEU of a corpus by sacrebleu, 0 to 100. Raises ValueError without it, and for lists of different lengths."""
    try:
        import sacrebleu
    except ImportError:
        raise ValueError("chrF and BLEU need sacrebleu; install it with pip install 'mezzotint[translate]'") from None
    if len(texts) != len(references) or not texts:
        raise ValueError(
            f"{len(texts)} translations and {len(references)} references; there must be as many, at least 1"
        )
    return {
        "chrF": sacrebleu.corpus_chrf(list(texts), [list(references)]).score,
        "BLEU": sacrebleu.corpus_bleu(list(texts), [list(references)]).score,
    }
