"""LLaDA (Base, Instruct, 1.5): a Llama without a causal mask, under OLMo's keys and names."""

from __future__ import annotations

from typing import Any

from mezzotint.checkpoints.errors import CheckpointError
from mezzotint.checkpoints.families.dense import masked
from mezzotint.checkpoints.family import Family
from mezzotint.checkpoints.keys import Keys
from mezzotint.model.config import ModelConfig
from mezzotint.model.variant import Kind, Variant


def read(keys: Keys) -> ModelConfig:
    for key, wanted in (
        ("block_type", "llama"), ("layer_norm_type", "rms"), ("activation_type", "silu"), ("rope", True), ("alibi", False),
        ("include_bias", False), ("attention_layer_norm", False), ("input_emb_norm", False), ("scale_logits", False),
        ("block_group_size", 1),
    ):  # fmt: skip
        keys.must(key, (wanted,), wanted)
    width, heads, layers = (
        keys.size("d_model", "width"),
        keys.size("n_heads", "num_heads"),
        keys.size("n_layers", "num_layers"),
    )
    bias = keys.flag("include_qkv_bias", False)
    try:
        return ModelConfig(
            keys.size("embedding_size", "vocab_size", keys.size("vocab_size", "vocab_size")), width, layers, heads,
            keys.size("n_kv_heads", "num_kv_heads", heads), width // heads or 1, keys.size("mlp_hidden_size", "mlp_width"),
            keys.size("max_sequence_length", "max_length"),
            rope_theta=float(keys.number("rope_theta", 10000.0, 1, 1e12, float)),
            norm_eps=float(keys.number("rms_norm_eps", 1e-5, 1e-12, 0.1, float)),
            tied_head=keys.flag("weight_tying", True),
            variant=Variant((Kind(float(keys.table["rope_theta"])),), (0,) * layers, qkv_bias=True) if bias else None,
        )  # fmt: skip
    except CheckpointError:
        raise
    except ValueError as error:
        raise keys.fail("n_kv_heads", str(error)) from None


def write(config: ModelConfig) -> dict[str, Any]:
    c = config
    return {
        "architectures": ["LLaDAModelLM"], "model_type": "llada", "vocab_size": c.vocab_size, "embedding_size": c.vocab_size,
        "d_model": c.width, "n_layers": c.num_layers, "n_heads": c.num_heads, "n_kv_heads": c.num_kv_heads,
        "mlp_hidden_size": c.mlp_width, "max_sequence_length": c.max_length, "rope_theta": c.rope_theta,
        "rms_norm_eps": c.norm_eps, "weight_tying": c.tied_head, "block_type": "llama", "layer_norm_type": "rms",
        "activation_type": "silu", "rope": True, "alibi": False, "include_bias": False,
        "include_qkv_bias": c.variant is not None and c.variant.qkv_bias,
    }  # fmt: skip


BLOCK = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "q_proj", "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj", "self_attn.o_proj": "attn_out", "post_attention_layernorm": "ff_norm",
    "mlp.gate_proj": "ff_proj", "mlp.up_proj": "up_proj", "mlp.down_proj": "ff_out",
}  # fmt: skip

LLADA = Family(
    "llada", ("llada",), read,
    lambda keys: masked(keys, "full", 128, keys.id("mask_token_id", 126336)) | {"policy": "llada"}, write,
    names={
        "model.embed_tokens": "model.transformer.wte",
        **{f"model.layers.{{}}.{ours}": f"model.transformer.blocks.{{}}.{theirs}" for ours, theirs in BLOCK.items()},
        "model.norm": "model.transformer.ln_f",
        "lm_head": "model.transformer.ff_out",
    },
    reference="its own code",
)  # fmt: skip
