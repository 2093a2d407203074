"""Gemma 3 and DiffusionGemma: windows in most layers, norms on both sides of every part, scaled embeddings.

DiffusionGemma is one set of weights used twice: an encoder reads clean text causally into the cache, a decoder denoises
a canvas that reads it; here the role of a place decides. Only the layers' scalars differ between the two. It has no MASK:
its noise is uniform.
"""

from __future__ import annotations

from typing import Any

from mezzotint.checkpoints.errors import CheckpointError
from mezzotint.checkpoints.families.dense import rope_json
from mezzotint.checkpoints.family import Family
from mezzotint.checkpoints.keys import LIMITS, Keys
from mezzotint.model.config import ModelConfig
from mezzotint.model.variant import Experts, Kind, Variant


def gemma3(keys: Keys) -> ModelConfig:
    keys.must("hidden_activation", ("gelu_pytorch_tanh",), "gelu_pytorch_tanh")
    keys.must("attn_logit_softcapping", (None,), None)
    keys.must("use_bidirectional_attention", (False, None), False)
    layers = keys.size("num_hidden_layers", "num_layers")
    window = keys.size("sliding_window", "max_length", 4096)
    rope = keys.within("rope_parameters")
    if "full_attention" in rope.table:
        wide, narrow = rope.within("full_attention"), rope.within("sliding_attention")
        kinds = (
            wide.kind(wide.number("rope_theta", 1e6, 1, 1e12, float)),
            narrow.kind(narrow.number("rope_theta", 1e4, 1, 1e12, float)),
        )
    else:
        local = float(keys.number("rope_local_base_freq", 10000.0, 1, 1e12, float))
        kinds = keys.rotary(1e6), Kind(local)
    variant = _sandwich(
        (kinds[0], Kind(kinds[1].theta, kinds[1].share, scaling=kinds[1].scaling, window=window)), _kind_of(keys, layers),
        width=keys.size("hidden_size", "width"), bias=keys.flag("attention_bias", False),
        attention_scale=float(keys.number("query_pre_attn_scalar", 256, 1e-3, 1e6, float)) ** -0.5,
        logit_cap=_cap(keys, None),
    )  # fmt: skip
    return _sizes(keys, layers, variant, 256)


def gemma3_json(config: ModelConfig) -> dict[str, Any]:
    v = config.variant
    assert v is not None and v.attention_scale is not None
    scalar = round(v.attention_scale**-2, 9)
    return {
        "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", **_sizes_json(config),
        "query_pre_attn_scalar": int(scalar) if scalar == int(scalar) else scalar, "final_logit_softcapping": v.logit_cap,
        "use_bidirectional_attention": False,
    }  # fmt: skip


def _sizes_json(config: ModelConfig) -> dict[str, Any]:
    """What both write alike."""
    c, v = config, config.variant
    assert v is not None
    names = ("full_attention", "sliding_attention")
    rope = {name: {"rope_theta": kind.theta, **rope_json(kind)} for name, kind in zip(names, v.kinds, strict=True)}
    return {
        "vocab_size": c.vocab_size, "hidden_size": c.width, "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_heads, "num_key_value_heads": c.num_kv_heads, "head_dim": c.head_size,
        "intermediate_size": c.mlp_width, "max_position_embeddings": c.max_length, "rms_norm_eps": c.norm_eps,
        "tie_word_embeddings": c.tied_head, "attention_bias": v.qkv_bias, "hidden_activation": "gelu_pytorch_tanh",
        "layer_types": [names[kind] for kind in v.kind_of], "sliding_window": v.kinds[1].window, "rope_parameters": rope,
    }  # fmt: skip


def _sandwich(kinds: tuple[Kind, Kind], kind_of: tuple[int, ...], width: int, bias: bool, **more: Any) -> Variant:
    return Variant(
        kinds, kind_of, qkv_bias=bias, out_bias=bias, qk_norm=True, activation="gelu_tanh", sandwich=True,
        embed_scale=width**0.5, **more,
    )  # fmt: skip


def _kind_of(keys: Keys, layers: int) -> tuple[int, ...]:
    """0: sees everything, 1: a window."""
    if keys.table.get("layer_types") is None:
        pattern = int(keys.number("sliding_window_pattern", 6, 1, LIMITS["num_layers"]))
        return tuple(int((layer + 1) % pattern != 0) for layer in range(layers))
    names = keys.names("layer_types", layers)
    if unknown := set(names) - {"sliding_attention", "full_attention"}:
        raise keys.fail("layer_types", f"{min(unknown)!r}; supported: full_attention, sliding_attention")
    return tuple(int(name == "sliding_attention") for name in names)


def _cap(keys: Keys, default: float | None) -> float | None:
    if keys.table.get("final_logit_softcapping", default) is None:
        return None
    return float(keys.number("final_logit_softcapping", default, 1e-3, 1e6, float))


def _sizes(keys: Keys, layers: int, variant: Variant, head_size: int) -> ModelConfig:
    heads = keys.size("num_attention_heads", "num_heads")
    try:
        return ModelConfig(
            keys.size("vocab_size", "vocab_size"), keys.size("hidden_size", "width"), layers, heads,
            keys.size("num_key_value_heads", "num_kv_heads", heads), keys.size("head_dim", "head_size", head_size),
            keys.size("intermediate_size", "mlp_width"), keys.size("max_position_embeddings", "max_length", 131072),
            rope_theta=variant.kinds[0].theta, norm_eps=float(keys.number("rms_norm_eps", 1e-6, 1e-12, 0.1, float)),
            tied_head=keys.flag("tie_word_embeddings", True), variant=variant,
        )  # fmt: skip
    except CheckpointError:
        raise
    except ValueError as error:
        raise keys.fail("num_key_value_heads", str(error)) from None


def diffusion_gemma(keys: Keys) -> ModelConfig:
    keys.must("tie_word_embeddings", (True,), True)
    text = keys.within("text_config")
    text.must("hidden_activation", ("gelu_pytorch_tanh",), "gelu_pytorch_tanh")
    text.must("use_bidirectional_attention", ("vision", None), None)
    layers = text.size("num_hidden_layers", "num_layers")
    kind_of = (*_kind_of(text, layers)[:-1], 0)  # the last layer always sees everything
    rope = text.within("rope_parameters")
    wide, narrow = rope.within("full_attention"), rope.within("sliding_attention")
    if not rope.table:
        wide.table |= {"rope_type": "proportional", "partial_rotary_factor": 0.25}
    full = wide.kind(wide.number("rope_theta", 1e6, 1, 1e12, float))
    near = narrow.kind(narrow.number("rope_theta", 1e4, 1, 1e12, float))
    size, kv_heads = _global_heads(text, kind_of)
    kinds = (
        Kind(full.theta, full.share, full.proportional, full.scaling, None, size, kv_heads, value_is_key=True),
        Kind(near.theta, near.share, near.proportional, near.scaling, text.size("sliding_window", "max_length", 512)),
    )
    try:
        experts = Experts(
            text.size("num_experts", "experts"), text.size("top_k_experts", "experts"),
            text.size("moe_intermediate_size", "mlp_width"), beside=True,
        )  # fmt: skip
    except CheckpointError:
        raise
    except ValueError as error:
        raise text.fail("top_k_experts", str(error)) from None
    variant = _sandwich(
        kinds, kind_of, width=text.size("hidden_size", "width"), bias=text.flag("attention_bias", False), v_norm=True,
        attention_scale=1.0, logit_cap=_cap(text, 30.0), experts=experts, layer_scalars=True, self_conditioning=True,
    )  # fmt: skip
    return _sizes(text, layers, variant, 256)


def diffusion_gemma_json(config: ModelConfig) -> dict[str, Any]:
    """Of the text alone: the vision tower is not read, and so not written. The canvas's length is among the facts."""
    v = config.variant
    assert v is not None and v.experts is not None
    wide, e, text = v.kinds[0], v.experts, _sizes_json(config)
    text["rope_parameters"]["full_attention"] |= (
        {"rope_type": "proportional", "partial_rotary_factor": wide.share} if wide.proportional else {}
    )
    text |= {
        "model_type": "diffusion_gemma_text", "num_experts": e.count, "top_k_experts": e.per_token,
        "moe_intermediate_size": e.width, "global_head_dim": wide.head_size,
        "num_global_key_value_heads": wide.num_kv_heads, "final_logit_softcapping": v.logit_cap,
    }  # fmt: skip
    return {
        "architectures": ["DiffusionGemmaForBlockDiffusion"], "model_type": "diffusion_gemma", "tie_word_embeddings": True,
        "text_config": text,
    }  # fmt: skip


def _global_heads(text: Keys, kind_of: tuple[int, ...]) -> tuple[int, int | None]:
    """(head size, key and value heads) of the layers that see everything, in either of the layouts of config.json."""
    each = text.table.get("per_layer_config")
    if isinstance(each, dict):
        layer = next((i for i, kind in enumerate(kind_of) if kind == 0), 0)
        text = Keys(text.path, each, text.inside + "per_layer_config.").within(str(layer))
        size = text.size("head_dim", "head_size", 512)
        return size, text.size("num_key_value_heads", "num_kv_heads") if "num_key_value_heads" in text.table else None
    size = text.size("global_head_dim", "head_size", 512)
    if text.table.get("num_global_key_value_heads") is None:
        return size, None
    return size, text.size("num_global_key_value_heads", "num_kv_heads")


def _in_decoder() -> dict[str, str]:
    same = [
        "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "self_attn.q_norm", "self_attn.k_norm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
    ]  # fmt: skip
    names = {name: name for name in same} | SANDWICH | {
        "experts.gate.weight": "router.proj.weight", "experts.gate.router_scale": "router.scale",
        "experts.gate.expert_scale": "router.per_expert_scale", "scalar.canvas": "layer_scalar",
        "norms.after_own_mlp": "post_feedforward_layernorm_1", "norms.before_experts": "pre_feedforward_layernorm_2",
        "norms.after_experts": "post_feedforward_layernorm_2",
    }  # fmt: skip
    found = {f"model.layers.{{}}.{ours}": f"model.decoder.layers.{{}}.{theirs}" for ours, theirs in names.items()}
    experts = "model.layers.{}.experts.experts.{}."
    found |= {
        experts + "gate_proj.weight": "model.decoder.layers.{}.experts.gate_up_proj",
        experts + "up_proj.weight": "model.decoder.layers.{}.experts.gate_up_proj",
        experts + "down_proj.weight": "model.decoder.layers.{}.experts.down_proj",
        "model.layers.{}.scalar.clean": "model.encoder.language_model.layers.{}.layer_scalar",
        "model.embed_tokens": "model.decoder.embed_tokens", "model.norm": "model.decoder.norm",
    }  # fmt: skip
    parts = ("pre_norm", "gate_proj", "up_proj", "down_proj")
    return found | {f"model.self_conditioning.{n}": f"model.decoder.self_conditioning.{n}" for n in parts}


SANDWICH = {
    "norms.after_attention": "post_attention_layernorm", "post_attention_layernorm": "pre_feedforward_layernorm",
    "norms.after_mlp": "post_feedforward_layernorm",
}  # fmt: skip

FAMILIES = (
    Family(
        "gemma3", ("gemma3_text",), gemma3, to_json=gemma3_json,
        names={f"model.layers.{{}}.{ours}": f"model.layers.{{}}.{theirs}" for ours, theirs in SANDWICH.items()},
        plus_one=(r".*norm\.weight",), reference="transformers",
    ),
    Family(
        "diffusion_gemma", ("diffusion_gemma",), diffusion_gemma,
        lambda keys: {
            "noise": "uniform", "visibility": "context-causal", "shift": 0, "trained_canvas": True,
            "canvas_length": int(keys.number("canvas_length", 256, 1, 4096)), "policy": "diffusion-gemma",
        },
        diffusion_gemma_json,
        names=_in_decoder(),
        packed=("model.decoder.layers.{}.experts.gate_up_proj", "model.decoder.layers.{}.experts.down_proj"),
        ignored=r"model\.encoder\.(vision_tower|embed_vision)\..*", reference="transformers",
    ),
)  # fmt: skip
