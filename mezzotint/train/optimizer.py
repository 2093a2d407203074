"""What moves the weights: AdamW, or Muon for the matrices and AdamW for the rest; in numbers that the device computes fast.

    matrix    gradient -> momentum -> nearest orthogonal matrix (Newton-Schulz, five products of matrices) -> step
    others    gradient -> AdamW

Most processors have no bfloat16 products: PyTorch then does them one by one, about a hundred times slower than in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mezzotint.train.recipe import Optimizer

BETAS = (0.9, 0.98)
ITERATION = (3.4445, -4.7750, 2.0315)  # coefficients of Jordan et al., 2024
ITERATIONS = 5


def bfloat16_is_fast(device: torch.device) -> bool:
    """Can this device multiply bfloat16 matrices in hardware? GPUs are taken at their word."""
    return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def orthogonal(matrix: Tensor) -> Tensor:
    """Roughly the orthogonal matrix nearest to one of `[M, N]`: singular values go to about 1 (0.7 to 1.2)."""
    a, b, c = ITERATION
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / wide.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide is matrix else x.T


class Muon(torch.optim.Muon):
    """PyTorch's Muon, its steps as long as AdamW's (match_rms_adamw); in float32 where bfloat16 is slow."""

    def __init__(self, matrices: list[Tensor], learning_rate: float, weight_decay: float) -> None:
        super().__init__(matrices, learning_rate, weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        if bfloat16_is_fast(self.param_groups[0]["params"][0].device):
            return super().step(closure)  # type: ignore[no-untyped-call]  # torch's own
        assert closure is None
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for p in (p for p in group["params"] if p.grad is not None):
                buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p.grad))
                buffer.lerp_(p.grad, 1 - momentum)
                update = orthogonal(p.grad.lerp(buffer, momentum))
                p.mul_(1 - rate * group["weight_decay"])
                p.add_(update, alpha=-0.2 * max(p.shape) ** 0.5 * rate)
        return None


def optimizers(weights: Mapping[str, Tensor], settings: Optimizer) -> list[torch.optim.Optimizer]:
    """One for embeddings and vectors, which do not decay, and one for matrices; either is left out if it has nothing."""
    matrices = [p for name, p in weights.items() if p.dim() == 2 and "embedding" not in name]
    others = [p for name, p in weights.items() if p.dim() != 2 or "embedding" in name]
    rate, decay = settings.learning_rate, settings.weight_decay
    found: list[torch.optim.Optimizer] = []
    if others:
        found.append(torch.optim.AdamW(others, rate, BETAS, weight_decay=0.0, fused=True))
    if matrices and settings.name == "muon":
        found.append(Muon(matrices, rate, decay))
    elif matrices:
        found.append(torch.optim.AdamW(matrices, rate, BETAS, weight_decay=decay, fused=True))
    return found
