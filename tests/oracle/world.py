"""A world small enough to know: V tokens, L positions, a random joint law over all V^L texts, everything enumerated."""

from __future__ import annotations

import itertools

import torch


class World:
    """joint float64 `[V^L]` over `texts` int64 `[V^L, L]`. `vocab` counts the mask, whose id is V, when there is one."""

    def __init__(self, tokens: int = 3, length: int = 3, seed: int = 0, sharpness: float = 1.5, mask: bool = True):
        generator = torch.Generator().manual_seed(seed)
        self.tokens, self.length = tokens, length
        self.vocab = tokens + mask
        self.texts = torch.tensor(list(itertools.product(range(tokens), repeat=length)))
        noise = torch.randn(len(self.texts), generator=generator, dtype=torch.float64)
        self.joint = (sharpness * noise).softmax(0)
        self.entropy = float(-torch.xlogy(self.joint, self.joint).sum())

    def index(self, texts: torch.Tensor) -> torch.Tensor:
        """`[B, L]` -> row of `texts`."""
        weight = self.tokens ** torch.arange(self.length - 1, -1, -1)
        return (texts * weight).sum(-1)

    def likelihoods(self, process, noisy, t) -> torch.Tensor:
        """q_t(z_i | x_i) for every text x: float64 `[B, X, L]`."""
        table = process._likelihood(noisy, t)  # [B, L, V]
        return table[:, torch.arange(self.length), self.texts]  # [B, X, L]

    def predict(self, process, noisy, t, leave_one_out: bool = False) -> torch.Tensor:
        """The exact denoiser: p(x_i = v | z), or without z_i, float64 `[B, L, vocab]`."""
        likelihoods = self.likelihoods(process, noisy, t)
        out = torch.zeros(len(noisy), self.length, self.vocab, dtype=torch.float64)
        for i in range(self.length):
            others = [j for j in range(self.length) if j != i or not leave_one_out]
            weight = self.joint * likelihoods[:, :, others].prod(-1)  # [B, X]
            for v in range(self.tokens):
                out[:, i, v] = weight[:, self.texts[:, i] == v].sum(-1)
        return out / out.sum(-1, keepdim=True).clamp(min=1e-300)

    def conditional(self, known: dict[int, int], position: int) -> torch.Tensor:
        """p(x_position | known), float64 `[V]`."""
        match = torch.ones(len(self.texts), dtype=torch.bool)
        for j, v in known.items():
            match &= self.texts[:, j] == v
        weight = self.joint * match
        law = torch.stack([weight[self.texts[:, position] == v].sum() for v in range(self.tokens)])
        return law / law.sum()

    def noisy_texts(self) -> torch.Tensor:
        """Every canvas, mask included where the world has one: `[vocab^L, L]`."""
        return torch.tensor(list(itertools.product(range(self.vocab), repeat=self.length)))


def chi_square(counts: torch.Tensor, law: torch.Tensor) -> float:
    """p-value that `counts` were drawn from `law`; cells expected under 5 are pooled."""
    from scipy.stats import chisquare

    expected = law * counts.sum() / law.sum()
    rare = expected < 5
    observed = torch.cat((counts[~rare], counts[rare].sum()[None])).double()
    wanted = torch.cat((expected[~rare], expected[rare].sum()[None]))
    keep = wanted > 0
    assert not observed[~keep].any()
    if keep.sum() < 2:
        return 1.0  # one possible outcome, and nothing else was seen
    return float(chisquare(observed[keep], wanted[keep] * (observed[keep].sum() / wanted[keep].sum())).pvalue)
