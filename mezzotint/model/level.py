"""Level: a network that is told how noisy its text is, as SEDD and UDLM are.

    sigma = -log alpha  ->  cos and sin of sigma at 128 frequencies  ->  two products  ->  silu  ->  c `[B, C]`
    in every block      x + gate * f(norm(x) * (1 + scale) + shift),   (shift, scale, gate) = A c     (DiT, arXiv 2212.09748)
    before the head     norm(x) * (1 + scale) + shift

What a network has learnt to say of a noisy text is one of three things (`LevelInput.prediction`), all of them read by the
sampler through `sampler/level.py`, so that every policy sees the distribution of the clean token.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FREQUENCIES = 256  # numbers of the sinusoidal embedding: half cosines, half sines
LONGEST = 10000.0  # the longest period is 2 pi times this


def sinusoids(sigma: Tensor) -> Tensor:
    """sigma `[B]` -> float32 `[B, FREQUENCIES]` (GLIDE's, arXiv 2112.10741)."""
    half = FREQUENCIES // 2
    frequency = torch.exp(-math.log(LONGEST) * torch.arange(half, dtype=torch.float32, device=sigma.device) / half)
    angle = sigma.float()[:, None] * frequency
    return torch.cat((angle.cos(), angle.sin()), -1)


class LevelEmbedding(nn.Module):
    """Total noise to the vector that modulates: `[B]` -> `[B, C]`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(FREQUENCIES, width), nn.Linear(width, width)

    def forward(self, sigma: Tensor) -> Tensor:
        return F.silu(self.second(F.silu(self.first(sinusoids(sigma).to(self.first.weight.dtype)))))


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift
