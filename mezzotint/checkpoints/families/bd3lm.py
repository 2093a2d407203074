"""MDLM and BD3-LM research checkpoints: a DiT of text, told the noise level through AdaLN, which it does not use.

    x -> x + gate * f(norm(x) * (1 + scale) + shift),   (shift, scale, gate) = A silu(c),  c = silu(time embedding of 0)

They are trained with `time_conditioning: false`: the level is always 0, so c is a constant and every modulation with it.
It is folded in when they are read: scale and shift make a LayerNorm's weight and bias, the gate goes into the product
behind it. What is left is a plain pre-norm network with rotary positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mezzotint.checkpoints.family import Family
from mezzotint.checkpoints.keys import Keys
from mezzotint.checkpoints.shapes import Shape
from mezzotint.model.config import ModelConfig
from mezzotint.model.variant import Kind, Variant

FREQUENCIES = 256  # of the time embedding


def read(keys: Keys) -> ModelConfig:
    keys.must("time_conditioning", (False,), False)
    keys.must("adaln", (True,), True)
    keys.must("causal", (False,), False)
    width, heads = keys.size("hidden_dim", "width"), keys.size("n_heads", "num_heads")
    if width % heads or width // heads % 2:
        raise keys.fail("n_heads", f"{heads} heads of hidden_dim {width}; expected heads of an even size")
    layers = keys.size("n_blocks", "num_layers")
    variant = Variant(
        (Kind(),), (0,) * layers, mlp_bias=True, head_bias=True, norm="layer", norm_bias=True, gated=False,
        activation="gelu_tanh",
    )  # fmt: skip
    return ModelConfig(
        keys.size("vocab_size", "vocab_size"), width, layers, heads, heads, width // heads, 4 * width,
        keys.size("model_length", "max_length"), tied_head=False, variant=variant,
    )  # fmt: skip


def facts(keys: Keys) -> dict[str, Any]:
    blocks = keys.table.get("model_type") == "bd3lm" and keys.flag("cross_attn", True)
    length = (
        int(keys.number("block_size", 1, 1, 4096)) if blocks else min(keys.size("model_length", "max_length"), 4096)
    )
    mask = keys.size("vocab_size", "vocab_size") - 1  # appended to the tokenizer's
    return {
        "visibility": "blocks" if blocks else "full", "canvas_length": length, "mask_id": mask, "shift": 0,
        "trained_canvas": True, "policy": "first-hitting",
    }  # fmt: skip


def shapes(config: ModelConfig) -> dict[str, Shape]:
    """-1: the size of the condition, the same everywhere, which the network does not have any more."""
    c, d = config, config.width
    found: dict[str, Shape] = {
        "backbone.vocab_embed.embedding": (c.vocab_size, d),
        "backbone.sigma_map.mlp.0.weight": (-1, FREQUENCIES), "backbone.sigma_map.mlp.0.bias": (-1,),
        "backbone.sigma_map.mlp.2.weight": (-1, -1), "backbone.sigma_map.mlp.2.bias": (-1,),
    }  # fmt: skip
    for i in range(c.num_layers):
        p = f"backbone.blocks.{i}."
        found |= {
            p + "norm1.weight": (d,), p + "attn_qkv.weight": (3 * d, d), p + "attn_out.weight": (d, d),
            p + "norm2.weight": (d,), p + "mlp.0.weight": (4 * d, d), p + "mlp.0.bias": (4 * d,),
            p + "mlp.2.weight": (d, 4 * d), p + "mlp.2.bias": (d,),
            p + "adaLN_modulation.weight": (6 * d, -1), p + "adaLN_modulation.bias": (6 * d,),
        }  # fmt: skip
    p = "backbone.output_layer."
    return found | {
        p + "norm_final.weight": (d,), p + "linear.weight": (c.vocab_size, d), p + "linear.bias": (c.vocab_size,),
        p + "adaLN_modulation.weight": (2 * d, -1), p + "adaLN_modulation.bias": (2 * d,),
    }  # fmt: skip


def fold(config: ModelConfig, tensors: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Theirs -> ours, in float32."""
    t = {name.removeprefix("backbone."): tensor.float() for name, tensor in tensors}
    level = torch.cat((torch.ones(FREQUENCIES // 2), torch.zeros(FREQUENCIES // 2)))  # cos and sin of 0
    c = F.linear(F.silu(F.linear(level, *_pair(t, "sigma_map.mlp.0"))), *_pair(t, "sigma_map.mlp.2"))
    c = F.silu(c)
    yield "model.embed_tokens.weight", t["vocab_embed.embedding"]
    for i in range(config.num_layers):
        p, q = f"blocks.{i}.", f"model.layers.{i}."
        shift1, scale1, gate1, shift2, scale2, gate2 = F.linear(c, *_pair(t, p + "adaLN_modulation")).chunk(6)
        yield q + "input_layernorm.weight", t[p + "norm1.weight"] * (1 + scale1)
        yield q + "input_layernorm.bias", shift1
        for name, rows in zip("qkv", t[p + "attn_qkv.weight"].chunk(3), strict=True):
            yield f"{q}self_attn.{name}_proj.weight", rows
        yield q + "self_attn.o_proj.weight", gate1[:, None] * t[p + "attn_out.weight"]
        yield q + "post_attention_layernorm.weight", t[p + "norm2.weight"] * (1 + scale2)
        yield q + "post_attention_layernorm.bias", shift2
        for kind in ("weight", "bias"):
            yield f"{q}mlp.up_proj.{kind}", t[f"{p}mlp.0.{kind}"]
        yield q + "mlp.down_proj.weight", gate2[:, None] * t[p + "mlp.2.weight"]
        yield q + "mlp.down_proj.bias", gate2 * t[p + "mlp.2.bias"]
    p = "output_layer."
    shift, scale = F.linear(c, *_pair(t, p + "adaLN_modulation")).chunk(2)
    yield "model.norm.weight", t[p + "norm_final.weight"] * (1 + scale)
    yield "model.norm.bias", shift
    yield "lm_head.weight", t[p + "linear.weight"]
    yield "lm_head.bias", t[p + "linear.bias"]


def _pair(tensors: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    return tensors[name + ".weight"], tensors[name + ".bias"]


BD3LM = Family(
    "bd3lm", ("bd3lm", "mdlm"), read, facts, shapes_of=shapes, fold=fold,
    ignored=r"(backbone\.rotary_emb\.inv_freq|sampling_eps_(min|max))", reference="its own code",
)  # fmt: skip
