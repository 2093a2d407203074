"""Small measures that every report shares. Plain numbers in, plain numbers out.

unigram entropy   nats, of the tokens of a text: low when a text says little; a model that loops falls
repetition        share of n-grams that stood before in the same text
interval          Wilson's for a share; bootstrap over items for a mean or a difference of paired items
AUROC             chance that a planted error is doubted more than a right token
F0.5              precision counts twice: a wrong change costs more than a missed one
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor


def unigram_entropy(tokens: Sequence[int]) -> float:
    """-sum p log p over the tokens' frequencies, nats; 0 for an empty text."""
    total = len(tokens)
    return sum(-n / total * math.log(n / total) for n in Counter(tokens).values())


def repetition(tokens: Sequence[int], n: int = 4) -> float:
    """1 - distinct n-grams / n-grams; 0 for a text shorter than n."""
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def wilson(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """95% interval of a share of `right` in `total` (Wilson, 1927)."""
    if total == 0:
        return 0.0, 1.0
    p, n = right / total, total
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def pass_at(k: int, samples: int, right: int) -> float:
    """Chance that one of k of `samples` answers is right, unbiased (Chen et al., 2021). k at most samples."""
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def bootstrap(values: Sequence[float], count: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95% percentile interval of the mean. For paired arms give the differences, item by item."""
    sample = torch.tensor(values, dtype=torch.float64)
    index = torch.randint(len(sample), (count, len(sample)), generator=torch.Generator().manual_seed(seed))
    means = sample[index].mean(-1).sort().values
    return float(means[int(0.025 * count)]), float(means[int(0.975 * count)])


def auroc(scores: Tensor, positive: Tensor) -> float:
    """Area under the ROC curve of float scores against bool labels, ties counted half (Mann-Whitney). nan without both."""
    high, low = scores[positive].double(), scores[~positive].double().sort().values
    if not len(high) or not len(low):
        return float("nan")
    below = torch.searchsorted(low, high, right=False).double()
    upto = torch.searchsorted(low, high, right=True).double()
    return float((below + upto).mean() / 2 / len(low))


def f_beta(right: int, changed: int, wanted: int, beta: float = 0.5) -> float:
    """F of `right` changes among `changed`, where `wanted` were needed; 0 when nothing was changed."""
    if right == 0:
        return 0.0
    precision, recall = right / changed, right / wanted
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall)
