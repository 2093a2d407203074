"""LLaDA2.0 and 2.1 (mini, flash): blocks of 32, rotary on half of a head, experts chosen within groups, fused q, k, v."""

from __future__ import annotations

from typing import Any

from mezzotint.checkpoints.errors import CheckpointError
from mezzotint.checkpoints.families.dense import block, masked
from mezzotint.checkpoints.family import Family
from mezzotint.checkpoints.keys import LIMITS, Keys
from mezzotint.model.config import ModelConfig
from mezzotint.model.variant import Experts, Kind, Variant


def read(keys: Keys) -> ModelConfig:
    keys.must("hidden_act", ("silu",), "silu")
    keys.must("score_function", ("sigmoid",), "sigmoid")
    keys.must("norm_topk_prob", (True,), True)
    keys.must("norm_head", (False,), False)
    keys.must("use_sliding_window", (False,), False)
    width, heads, layers = (
        keys.size("hidden_size", "width"), keys.size("num_attention_heads", "num_heads"),
        keys.size("num_hidden_layers", "num_layers"),
    )  # fmt: skip
    theta = float(keys.number("rope_theta", 10000.0, 1, 1e12, float))
    if keys.table.get("rope_scaling"):
        raise keys.fail("rope_scaling", "scaled rotary positions are not supported in this family")
    share = float(keys.number("partial_rotary_factor", 0.5, 1e-3, 1, float))
    expert = keys.size("moe_intermediate_size", "mlp_width")
    shared = int(keys.number("num_shared_experts", 0, 0, 64))
    try:
        experts = Experts(
            keys.size("num_experts", "experts"), keys.size("num_experts_per_tok", "experts"), expert,
            first=int(keys.number("first_k_dense_replace", 0, 0, LIMITS["num_layers"])), score="sigmoid",
            groups=keys.size("n_group", "experts", 8), groups_kept=keys.size("topk_group", "experts", 4),
            scale=float(keys.number("routed_scaling_factor", 2.5, 1e-6, 1e6, float)), shared_width=shared * expert,
        )  # fmt: skip
        variant = Variant(
            (Kind(theta, share),), (0,) * layers, qkv_bias=keys.flag("use_qkv_bias", False),
            out_bias=keys.flag("use_bias", False), qk_norm=keys.flag("use_qk_norm", True), experts=experts,
        )  # fmt: skip
        return ModelConfig(
            keys.size("vocab_size", "vocab_size"), width, layers, heads, keys.size("num_key_value_heads", "num_kv_heads"),
            keys.size("head_dim", "head_size", width // heads or 1), keys.size("intermediate_size", "mlp_width"),
            keys.size("max_position_embeddings", "max_length", 16384), rope_theta=theta,
            norm_eps=float(keys.number("rms_norm_eps", 1e-5, 1e-12, 0.1, float)),
            tied_head=keys.flag("tie_word_embeddings", False), variant=variant,
        )  # fmt: skip
    except CheckpointError:
        raise
    except ValueError as error:
        raise keys.fail("n_group" if "expert" in str(error) else "num_key_value_heads", str(error)) from None


def write(config: ModelConfig) -> dict[str, Any]:
    c, v = config, config.variant
    assert v is not None and v.experts is not None
    e = v.experts
    return {
        "architectures": ["LLaDA2MoeModelLM"], "model_type": "llada2_moe", "vocab_size": c.vocab_size,
        "hidden_size": c.width, "num_hidden_layers": c.num_layers, "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_kv_heads, "head_dim": c.head_size, "intermediate_size": c.mlp_width,
        "max_position_embeddings": c.max_length, "rope_theta": c.rope_theta, "rms_norm_eps": c.norm_eps,
        "partial_rotary_factor": v.kinds[0].share, "tie_word_embeddings": c.tied_head, "hidden_act": "silu",
        "use_qkv_bias": v.qkv_bias, "use_bias": v.out_bias, "use_qk_norm": v.qk_norm, "num_experts": e.count,
        "num_experts_per_tok": e.per_token, "moe_intermediate_size": e.width, "first_k_dense_replace": e.first,
        "n_group": e.groups, "topk_group": e.groups_kept, "routed_scaling_factor": e.scale,
        "num_shared_experts": e.shared_width // e.width, "score_function": "sigmoid", "norm_topk_prob": True,
    }  # fmt: skip


LLADA2 = Family(
    "llada2", ("llada2_moe", "llada2_moe_veomni"), read,
    lambda keys: masked(keys, "blocks", block(keys, "block_size", 32), keys.id("mask_token_id", 156895))
    | {"policy": "llada2"},
    write,
    names={
        "model.embed_tokens": "model.word_embeddings",
        "model.layers.{}.self_attn.q_proj": "model.layers.{}.attention.query_key_value",
        "model.layers.{}.self_attn.k_proj": "model.layers.{}.attention.query_key_value",
        "model.layers.{}.self_attn.v_proj": "model.layers.{}.attention.query_key_value",
        "model.layers.{}.self_attn.o_proj": "model.layers.{}.attention.dense",
        "model.layers.{}.self_attn.q_norm": "model.layers.{}.attention.query_layernorm",
        "model.layers.{}.self_attn.k_norm": "model.layers.{}.attention.key_layernorm",
        "model.layers.{}.mlp.gate.choice_bias": "model.layers.{}.mlp.gate.expert_bias",
    },
    reference="its own code",
)  # fmt: skip
