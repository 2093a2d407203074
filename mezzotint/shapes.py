"""Letters and aliases for tensor shapes, used by every signature in the package.

    B rows   L sequence   C canvas   T positions in one forward   S cached positions   W positions whose logits are wanted
    V vocabulary   D width   N layers   Q query heads   K key/value heads   H head size

A level `t` runs from 0 (clean) to 1 (pure noise). Wherever a signature says `[B]` for a level, `[B, L]` is accepted too.
The aliases are all `torch.Tensor`: they tell the reader the shape and dtype, the checker only that it is a tensor.
"""

from __future__ import annotations

from torch import Tensor

Tokens = Tensor  # int64 [B, L]: token ids
Logits = Tensor  # float [B, L, V]: unnormalised log-probabilities
Probs = Tensor  # float [B, L, V]: rows sum to one
Where = Tensor  # bool [B, L]: a choice of positions
Level = Tensor  # float64 [B] or [B, L]: share of noise, 0 clean to 1 noise


def per_position(level: Level, length: int) -> Level:
    """`[B]` or `[B, L]` -> `[B, L]` (a view). Raises ValueError for another rank or length."""
    if level.dim() == 1:
        return level[:, None].expand(-1, length)
    if level.dim() == 2 and level.shape[1] in (1, length):
        return level.expand(-1, length)
    raise ValueError(f"level has shape {tuple(level.shape)}; expected [B] or [B, {length}]")
