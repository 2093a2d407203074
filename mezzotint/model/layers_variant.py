"""Blocks of networks that differ from Llama (`variant.py`): the same block with more switches.

The names of the linears are those of `layers.py`, so adapters and whatever replaces linears work on both. A kind with
partial rotary positions turns the first pairs of a head and passes the rest; angles are computed from positions, since a
table for 131 thousand positions and heads of 512 would hold half a gigabyte.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mezzotint.model.cache import KVCache, Recorded
from mezzotint.model.config import ModelConfig
from mezzotint.model.lanes import Ragged
from mezzotint.model.layers import PLAIN, Block, Terms, flex, rotate, wide
from mezzotint.model.level import modulated
from mezzotint.model.low_bit import Rounded, Weight, held, linear
from mezzotint.model.parallel import part_here
from mezzotint.model.variant import Experts, Kind, Variant

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

Named = Iterator[tuple[str, Tensor | Rounded]]


def activation(name: str) -> Callable[[Tensor], Tensor]:
    return F.silu if name == "silu" else lambda x: F.gelu(x, approximate="tanh")


def make_norm(config: ModelConfig, width: int | None = None) -> nn.Module:
    variant = config.variant
    assert variant is not None
    if variant.norm == "layer":
        return nn.LayerNorm(width or config.width, config.norm_eps, bias=variant.norm_bias)
    return nn.RMSNorm(width or config.width, config.norm_eps)


def rotary_frequencies(kind: Kind, head_size: int) -> Tensor:
    """Radians a position, float32 `[pairs]`, one for each pair that rotates.

    Scaling: linear (arXiv 2306.15595), llama3 (transformers' `llama3`), yarn (arXiv 2309.00071), proportional (Gemma 4).
    """
    if kind.theta == 0:
        return torch.empty(0)
    turned = int(kind.share * head_size // 2)
    span = head_size if kind.proportional else 2 * turned
    frequency = 1.0 / kind.theta ** (torch.arange(0, 2 * turned, 2, dtype=torch.int64).float() / span)
    if kind.proportional:
        frequency = F.pad(frequency, (0, head_size // 2 - turned))  # pairs are (i, i + H/2) of the whole head
    scaling = kind.scaling
    if scaling is None:
        return frequency
    if scaling.way == "linear":
        return frequency / scaling.factor
    if scaling.way == "llama3":
        turns = frequency * scaling.original / (2 * math.pi)  # in the original context
        blend = ((turns - scaling.slow) / (scaling.fast - scaling.slow)).clamp(0, 1)
    else:

        def pair(turns: float) -> float:  # which pair makes so many turns in the original context
            return span * math.log(scaling.original / (turns * 2 * math.pi)) / (2 * math.log(kind.theta))

        low, high = max(math.floor(pair(scaling.fast)), 0), min(math.ceil(pair(scaling.slow)), span - 1)
        blend = 1 - ((torch.arange(turned).float() - low) / max(high - low, 0.001)).clamp(0, 1)
    return frequency * blend + frequency / scaling.factor * (1 - blend)


class VariantAttention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        variant = config.variant
        assert variant is not None
        self.kind = config.kind(layer)
        self.num_heads, self.num_kv_heads, self.head_size = config.heads(layer)
        parts = self.num_heads + self.num_kv_heads * (1 if self.kind.value_is_key else 2)
        self.qkv = nn.Linear(config.width, parts * self.head_size, bias=variant.qkv_bias)
        self.out = nn.Linear(self.num_heads * self.head_size, config.width, bias=variant.out_bias)
        self.q_norm = make_norm(config, self.head_size) if variant.qk_norm else None
        self.k_norm = make_norm(config, self.head_size) if variant.qk_norm else None
        self.v_eps = config.norm_eps if variant.v_norm else None
        self.scale = variant.attention_scale

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: BlockMask | Tensor | None, layer: int,
        cache: KVCache | Recorded | None, terms: Terms = PLAIN,
    ) -> Tensor:  # fmt: skip
        """As `layers.Attention`. cos and sin `[B, T, 1, R]`, R of the H numbers of a head; R = 0: positions are learnt."""
        rows, count, _ = x.shape
        kv_heads, group, size = self.num_kv_heads, self.num_heads // self.num_kv_heads, self.head_size
        qkv = terms.qkv(self.qkv(x), x).view(rows, count, -1, size)
        q, k = qkv[:, :, : self.num_heads], qkv[:, :, self.num_heads : self.num_heads + kv_heads]
        v = k if self.kind.value_is_key else qkv[:, :, self.num_heads + kv_heads :]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.v_eps is not None:
            v = F.rms_norm(v, (size,), None, self.v_eps)
        if turned := cos.shape[-1]:
            q, k = _turn(q, cos, sin, turned), _turn(k, cos, sin, turned)
        k, v = k.transpose(1, 2), v.transpose(1, 2)  # [B, K, T, H]
        if cache is not None:
            k, v = cache.view(layer, k, v)
        if mask is not None and not isinstance(mask, Tensor):
            compute = flex(q.is_cuda)
            mixed = compute(q.transpose(1, 2), k, v, block_mask=mask, enable_gqa=group > 1, scale=self.scale)
            mixed = mixed.transpose(1, 2).reshape(rows, count, -1)
        else:
            q = q.view(rows, count, kv_heads, group, size).permute(0, 2, 3, 1, 4)
            q = q.reshape(rows, kv_heads, group * count, size)
            if mask is not None and mask.shape[-1] < k.shape[2]:  # a window: keys that nobody sees are left out
                k, v = k[:, :, -mask.shape[-1] :], v[:, :, -mask.shape[-1] :]
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
            mixed = mixed.view(rows, kv_heads, group, count, size).permute(0, 3, 1, 2, 4).reshape(rows, count, -1)
        return terms.out(self.out(mixed), mixed)

    def named(self) -> Named:
        """Slots under our names: a tensor, or the rows of a fused one."""
        kv, q = self.num_kv_heads * self.head_size, self.num_heads * self.head_size
        for kind, tensor in held(self.qkv):
            yield f"q_proj.{kind}", tensor[:q]
            yield f"k_proj.{kind}", tensor[q : q + kv]
            if not self.kind.value_is_key:
                yield f"v_proj.{kind}", tensor[q + kv :]
        yield from _under("o_proj", self.out)
        yield from _under("q_norm", self.q_norm)
        yield from _under("k_norm", self.k_norm)


class VariantMLP(nn.Module):
    def __init__(self, config: ModelConfig, width: int) -> None:
        super().__init__()
        variant = config.variant
        assert variant is not None
        self.gated, self.act, self.width = variant.gated, activation(variant.activation), width
        self.gate_up = nn.Linear(config.width, (2 if self.gated else 1) * width, bias=variant.mlp_bias)
        self.down = nn.Linear(width, config.width, bias=variant.mlp_bias)

    def forward(self, x: Tensor, terms: Terms = PLAIN) -> Tensor:
        inner = terms.gate_up(self.gate_up(x), x)
        if self.gated:
            gate, up = inner.chunk(2, -1)
            inner = self.act(gate) * up
        else:
            inner = self.act(inner)
        return terms.down(self.down(inner), inner)

    def named(self) -> Named:
        for kind, tensor in held(self.gate_up):
            if self.gated:
                yield f"gate_proj.{kind}", tensor[: self.width]
            yield f"up_proj.{kind}", tensor[-self.width :]
        yield from _under("down_proj", self.down)


class PackedExperts(nn.Module):
    """All experts of a layer in two tensors. here: the numbers of those that are in them, fewer under expert parallel."""

    def __init__(self, config: ModelConfig, experts: Experts, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.count, self.width, self.act = experts.count, experts.width, act
        self.here = range(experts.count)
        self.gate_up: nn.Parameter | Weight = nn.Parameter(
            torch.empty(experts.count, 2 * experts.width, config.width).normal_(std=0.02)
        )
        self.down: nn.Parameter | Weight = nn.Parameter(
            torch.empty(experts.count, config.width, experts.width).normal_(std=0.02)
        )

    def only(self, here: range) -> None:
        """Leave out all others, before there are numbers in them."""
        assert isinstance(self.gate_up, nn.Parameter) and isinstance(self.down, nn.Parameter)
        self.here = here
        self.gate_up = nn.Parameter(self.gate_up.detach()[: len(here)].clone())
        self.down = nn.Parameter(self.down.detach()[: len(here)].clone())

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """The chosen experts' answers to x `[n, D]`, each run once over its tokens; chosen and weights `[n, per_token]`."""
        out, gates_and_ups, downs = torch.zeros_like(x), part_here(self.gate_up), part_here(self.down)
        for expert in torch.unique(chosen).tolist():
            if expert not in self.here:
                continue
            token, place = (chosen == expert).nonzero(as_tuple=True)
            at = expert - self.here.start
            gate, up = linear(x[token], gates_and_ups[at]).chunk(2, -1)
            answer = linear(self.act(gate) * up, downs[at])
            out.index_add_(0, token, (answer * weights[token, place, None]).to(out.dtype))
        return out

    def named(self) -> Named:
        for at, e in enumerate(self.here):
            yield f"experts.{e}.gate_proj.weight", self.gate_up[at, : self.width]
            yield f"experts.{e}.up_proj.weight", self.gate_up[at, self.width :]
            yield f"experts.{e}.down_proj.weight", self.down[at]


class ExpertMLP(nn.Module):
    """The routed experts, and with them the MLP that every token takes, where there is one."""

    def __init__(self, config: ModelConfig, experts: Experts) -> None:
        super().__init__()
        variant = config.variant
        assert variant is not None
        self.config, self.eps = experts, config.norm_eps
        self.router = nn.Linear(config.width, experts.count, bias=False)
        self.packed = PackedExperts(config, experts, activation(variant.activation))
        self.choice_bias = nn.Parameter(torch.zeros(experts.count)) if experts.score == "sigmoid" else None
        self.shared = VariantMLP(config, experts.shared_width) if experts.shared_width else None
        self.router_scale = nn.Parameter(torch.ones(config.width)) if experts.beside else None
        self.expert_scale = nn.Parameter(torch.ones(experts.count)) if experts.beside else None

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x `[n, D]` -> which experts and their weights, `[n, per_token]`, in float32 at least."""
        c = self.config
        if self.router_scale is not None:
            x = F.rms_norm(x, x.shape[-1:], None, self.eps) * self.router_scale * x.shape[-1] ** -0.5
            scores = wide(self.router(x)).softmax(-1)
        elif c.score == "softmax":
            scores = wide(self.router(x)).softmax(-1)
        else:
            scores = F.linear(wide(x), wide(self.router.weight)).sigmoid()
        ranked = scores if self.choice_bias is None else scores + wide(self.choice_bias)
        if c.groups > 1:  # DeepSeek-V3, arXiv 2412.19437: a group is as good as its best two
            grouped = ranked.view(len(x), c.groups, -1)
            best = grouped.topk(2, -1).values.sum(-1).topk(c.groups_kept, -1).indices
            kept = torch.zeros_like(grouped[..., 0], dtype=torch.bool).scatter_(1, best, True)
            ranked = grouped.masked_fill(~kept[..., None], -torch.inf).view_as(ranked)
        chosen = ranked.topk(c.per_token, -1).indices
        weights = scores.gather(1, chosen)
        if c.normalised and c.per_token > 1:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        weights = weights * c.scale
        return chosen, weights if self.expert_scale is None else weights * wide(self.expert_scale)[chosen]

    def forward(self, x: Tensor, terms: Terms = PLAIN) -> Tensor:
        flat = x.flatten(0, 1)
        y = self.packed(flat, *self.choose(flat)).view_as(x)
        return y if self.shared is None else y + self.shared(x)

    def named(self) -> Named:
        yield "gate.weight", self.router.weight
        for name in ("choice_bias", "router_scale", "expert_scale"):
            if (tensor := getattr(self, name)) is not None:
                yield f"gate.{name}", tensor
        yield from self.packed.named()
        if self.shared is not None:
            yield from ((f"shared_experts.{name}", tensor) for name, tensor in self.shared.named())


class VariantBlock(Block):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        nn.Module.__init__(self)
        variant = config.variant
        assert variant is not None
        experts = variant.experts if variant.experts is not None and layer >= variant.experts.first else None
        beside = experts is not None and experts.beside
        # In place of the Llama's: the same calls, other classes.
        self.attention_norm = make_norm(config)  # type: ignore[assignment]  # see above
        self.attention = VariantAttention(config, layer)  # type: ignore[assignment]  # see above
        self.mlp_norm = make_norm(config)  # type: ignore[assignment]  # see above
        mlp = VariantMLP(config, config.mlp_width) if experts is None or beside else ExpertMLP(config, experts)
        self.mlp = mlp  # type: ignore[assignment]  # see above
        self.experts = ExpertMLP(config, experts) if experts is not None and beside else None
        names = ["after_attention", "after_mlp"] if variant.sandwich else []
        names += ["after_own_mlp", "before_experts", "after_experts"] if beside else []
        self.norms = nn.ModuleDict({name: make_norm(config) for name in names})
        told = variant.level
        self.level = None if told is None else nn.Linear(told.width, 6 * config.width)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: BlockMask | Tensor | None, layer: int,
        cache: KVCache | Recorded | Ragged | None, terms: Terms = PLAIN, modulation: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """modulation `[B, T, 1]`: the layer's scalar at each place, None for 1; told the level, its embedding `[B, 1, C]`."""
        assert not isinstance(cache, Ragged), "a network of this kind has no lanes"
        if self.level is not None:
            assert modulation is not None, "a level is told in every pass"
            shift, scale, gate, shift2, scale2, gate2 = self.level(modulation).chunk(6, -1)
            told = modulated(self.attention_norm(x), shift, scale)
            x = x + gate * self.attention(told, cos, sin, mask, layer, cache, terms)
            return x + gate2 * self.mlp(modulated(self.mlp_norm(x), shift2, scale2), terms)
        mixed = self.attention(self.attention_norm(x), cos, sin, mask, layer, cache, terms)
        x = x + self._after("after_attention", mixed)
        y = self.mlp(self.mlp_norm(x), terms)
        if self.experts is not None:
            flat = x.flatten(0, 1)
            routed = self.experts.packed(self.norms["before_experts"](flat), *self.experts.choose(flat)).view_as(x)
            y = self.norms["after_own_mlp"](y) + self.norms["after_experts"](routed)
        x = x + self._after("after_mlp", y)
        return x if modulation is None else x * modulation

    def _after(self, name: str, x: Tensor) -> Tensor:
        return self.norms[name](x) if name in self.norms else x

    def named(self) -> Named:
        """Slots under our names, which are Hugging Face's Llama's where it has one."""
        yield from _under("input_layernorm", self.attention_norm)
        yield from ((f"self_attn.{name}", tensor) for name, tensor in self.attention.named())  # type: ignore[operator]  # a VariantAttention
        yield from _under("post_attention_layernorm", self.mlp_norm)
        yield from ((f"mlp.{name}", tensor) for name, tensor in self.mlp.named())  # type: ignore[operator]  # a VariantMLP or ExpertMLP
        if self.experts is not None:
            yield from ((f"experts.{name}", tensor) for name, tensor in self.experts.named())
        for name, norm in self.norms.items():
            yield from _under(f"norms.{name}", norm)
        yield from _under("level", self.level)


class SelfConditioning(nn.Module):
    """norm(x + down(gelu(gate h) * up h)), h = norm(what was said last, as an embedding): DiffusionGemma's form.

    Zeros, where nothing was said, leave norm(x).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pre_norm = make_norm(config)
        self.mlp = VariantMLP(config, config.mlp_width)
        self.eps = config.norm_eps

    def forward(self, x: Tensor, feedback: Tensor | None) -> Tensor:
        if feedback is not None:
            x = x + self.mlp(self.pre_norm(feedback.to(x.dtype)))
        return F.rms_norm(x, x.shape[-1:], None, self.eps)

    def named(self) -> Named:
        yield from _under("pre_norm", self.pre_norm)
        yield from self.mlp.named()


def cap(logits: Tensor, variant: Variant) -> Tensor:
    """c tanh(logits / c), in float32 at least (Gemma 2, arXiv 2408.00118)."""
    if variant.logit_cap is None:
        return logits
    return (wide(logits) / variant.logit_cap).tanh() * variant.logit_cap


def _turn(x: Tensor, cos: Tensor, sin: Tensor, turned: int) -> Tensor:
    if turned == x.shape[-1]:
        return rotate(x, cos, sin)
    return torch.cat((rotate(x[..., :turned], cos, sin), x[..., turned:]), -1)


def _under(name: str, module: nn.Module | None) -> Named:
    if module is not None:
        yield from ((f"{name}.{kind}", tensor) for kind, tensor in held(module))
