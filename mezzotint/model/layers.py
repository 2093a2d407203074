"""The parts of a Llama block: rotary positions, grouped attention, gated MLP. Plain functions of tensors where possible.

What is not obvious:
- q, k and v come from one product, gate and up from another: at batch 1 the number of kernels is the cost.
- Grouped queries are folded into the query axis ([B, Q, T, H] -> [B, K, Q/K * T, H]), so keys are never repeated.
- Rotary pairs are (i, i + H/2), the Hugging Face convention; a GGUF's interleaved pairs are permuted when it is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache as once
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mezzotint.model.cache import KVCache, Recorded
from mezzotint.model.config import ModelConfig
from mezzotint.model.lanes import Ragged

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


def rotary_tables(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """cos and sin, float32 `[max_length, H]` (RoFormer, arXiv 2104.09864)."""
    half = torch.arange(0, config.head_size, 2, dtype=torch.int64).float() / config.head_size
    angle = torch.outer(torch.arange(config.max_length, dtype=torch.float32), 1.0 / config.rope_theta**half)
    angle = torch.cat((angle, angle), -1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x `[B, T, heads, H]`; cos and sin `[B, T, 1, H]`."""
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat((-high, low), -1) * sin


def wide(x: Tensor) -> Tensor:
    """In float32 at least: half precision is not enough for what follows, and float64 stays what it is."""
    return x if x.dtype == torch.float64 else x.float()


@once
def flex(compiled: bool) -> Callable[..., Any]:
    """FlexAttention (arXiv 2412.05496): skips blocks of the table that nobody sees; without compiling it only checks."""
    from torch.nn.attention.flex_attention import flex_attention

    if compiled:
        return torch.compile(flex_attention)
    return flex_attention


Term = Callable[[Tensor, Tensor], Tensor]  # (W x, x) -> W x and what an adapter adds to it


def _nothing(y: Tensor, x: Tensor) -> Tensor:
    return y


class Terms(NamedTuple):
    """What is added to the products of one block in one pass (see `adapter.py`)."""

    qkv: Term = _nothing
    out: Term = _nothing
    gate_up: Term = _nothing
    down: Term = _nothing


PLAIN = Terms()


def embedding_table(count: int, width: int) -> nn.Embedding:
    """On the meta device no numbers are drawn: that would load torch's compiler, a second and more of every command."""
    if torch.get_default_device().type != "meta":
        return nn.Embedding(count, width)
    return nn.Embedding(count, width, _weight=torch.empty(count, width))


class Attention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_size = config.num_heads, config.num_kv_heads, config.head_size
        heads = config.num_heads + 2 * config.num_kv_heads
        self.qkv = nn.Linear(config.width, heads * config.head_size, bias=False)
        self.out = nn.Linear(config.num_heads * config.head_size, config.width, bias=False)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: BlockMask | Tensor | None, layer: int,
        cache: KVCache | Recorded | Ragged | None, terms: Terms = PLAIN,
    ) -> Tensor:  # fmt: skip
        """x `[B, T, D]`; mask bool `[B, 1, Q/K * T, S]`, None when everyone sees everyone, or a BlockMask. -> `[B, T, D]`"""
        rows, count, _ = x.shape
        kv_heads, group = self.num_kv_heads, self.num_heads // self.num_kv_heads
        qkv = terms.qkv(self.qkv(x), x).view(rows, count, -1, self.head_size)
        qk = rotate(qkv[:, :, : self.num_heads + kv_heads], cos, sin)
        q, k, v = qk[:, :, : self.num_heads], qk[:, :, self.num_heads :], qkv[:, :, self.num_heads + kv_heads :]
        if isinstance(cache, Ragged):
            mixed = cache.attend(layer, q[0], k[0], v[0]).view(rows, count, -1)
            return terms.out(self.out(mixed), mixed)
        k, v = k.transpose(1, 2), v.transpose(1, 2)  # [B, K, T, H]
        if cache is not None:
            k, v = cache.view(layer, k, v)  # [B, K, S, H]
        if mask is not None and not isinstance(mask, Tensor):
            mixed = flex(q.is_cuda)(q.transpose(1, 2), k, v, block_mask=mask, enable_gqa=group > 1)  # [B, Q, T, H]
            mixed = mixed.transpose(1, 2).reshape(rows, count, -1)
        else:
            q = q.view(rows, count, kv_heads, group, self.head_size).permute(0, 2, 3, 1, 4)
            q = q.reshape(rows, kv_heads, group * count, self.head_size)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            mixed = mixed.view(rows, kv_heads, group, count, self.head_size).permute(0, 3, 1, 2, 4)
            mixed = mixed.reshape(rows, count, -1)
        return terms.out(self.out(mixed), mixed)


class MLP(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.width, 2 * config.mlp_width, bias=False)
        self.down = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: Tensor, terms: Terms = PLAIN) -> Tensor:
        gate, up = terms.gate_up(self.gate_up(x), x).chunk(2, -1)
        inner = F.silu(gate) * up
        return terms.down(self.down(inner), inner)


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: BlockMask | Tensor | None, layer: int,
        cache: KVCache | Recorded | Ragged | None, terms: Terms = PLAIN, modulation: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """modulation `[6, B, 1 or T, D]`: shift, scale, gate of the attention, then of the MLP (AdaLN); None changes nothing."""
        if modulation is None:
            x = x + self.attention(self.attention_norm(x), cos, sin, mask, layer, cache, terms)
            return x + self.mlp(self.mlp_norm(x), terms)
        shift, scale, gate = modulation[:3]
        told = self.attention_norm(x) * (1 + scale) + shift
        x = x + (1 + gate) * self.attention(told, cos, sin, mask, layer, cache, terms)
        shift, scale, gate = modulation[3:]
        return x + (1 + gate) * self.mlp(self.mlp_norm(x) * (1 + scale) + shift, terms)
