"""GPT-2: LayerNorm, learned positions, one fused product for q, k and v, weights stored transposed."""

from __future__ import annotations

from typing import Any

from mezzotint.checkpoints.family import Family
from mezzotint.checkpoints.keys import Keys
from mezzotint.model.config import ModelConfig
from mezzotint.model.variant import Kind, Variant


def read(keys: Keys) -> ModelConfig:
    keys.must("activation_function", ("gelu_new", "gelu_pytorch_tanh"), "gelu_new")
    keys.must("scale_attn_weights", (True,), True)
    keys.must("scale_attn_by_inverse_layer_idx", (False,), False)
    keys.must("reorder_and_upcast_attn", (False, True), False)  # the same number, computed otherwise
    keys.must("add_cross_attention", (False,), False)
    width, heads = keys.size("n_embd", "width"), keys.size("n_head", "num_heads")
    if width % heads:
        raise keys.fail("n_head", f"{heads} does not divide n_embd, {width}")
    layers = keys.size("n_layer", "num_layers")
    variant = Variant(
        (Kind(theta=0),), (0,) * layers, qkv_bias=True, out_bias=True, mlp_bias=True, norm="layer", norm_bias=True,
        gated=False, activation="gelu_tanh", learned_positions=True,
    )  # fmt: skip
    return ModelConfig(
        keys.size("vocab_size", "vocab_size"), width, layers, heads, heads, width // heads,
        keys.size("n_inner", "mlp_width", 4 * width), keys.size("n_positions", "max_length", 1024),
        norm_eps=float(keys.number("layer_norm_epsilon", 1e-5, 1e-12, 0.1, float)),
        tied_head=keys.flag("tie_word_embeddings", True), variant=variant,
    )  # fmt: skip


def write(config: ModelConfig) -> dict[str, Any]:
    c = config
    return {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": c.vocab_size, "n_embd": c.width,
        "n_layer": c.num_layers, "n_head": c.num_heads, "n_inner": c.mlp_width, "n_positions": c.max_length,
        "layer_norm_epsilon": c.norm_eps, "activation_function": "gelu_new", "tie_word_embeddings": c.tied_head,
    }  # fmt: skip


GPT2 = Family(
    "gpt2", ("gpt2",), read, to_json=write, reference="transformers", prefix="transformer.",
    names={
        "model.embed_tokens": "transformer.wte",
        "model.embed_positions": "transformer.wpe",
        "model.layers.{}.input_layernorm": "transformer.h.{}.ln_1",
        "model.layers.{}.self_attn.q_proj": "transformer.h.{}.attn.c_attn",
        "model.layers.{}.self_attn.k_proj": "transformer.h.{}.attn.c_attn",
        "model.layers.{}.self_attn.v_proj": "transformer.h.{}.attn.c_attn",
        "model.layers.{}.self_attn.o_proj": "transformer.h.{}.attn.c_proj",
        "model.layers.{}.post_attention_layernorm": "transformer.h.{}.ln_2",
        "model.layers.{}.mlp.up_proj": "transformer.h.{}.mlp.c_fc",
        "model.layers.{}.mlp.down_proj": "transformer.h.{}.mlp.c_proj",
        "model.norm": "transformer.ln_f",
    },
    transposed=tuple(
        f"transformer.h.{{}}.{name}.weight" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ),
    ignored=r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias",
)  # fmt: skip
