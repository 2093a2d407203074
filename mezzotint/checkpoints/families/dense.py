"""Families with Hugging Face's Llama names: Llama, Qwen, and the diffusion models made of them.

llama     the base of all                                      AR
qwen2     + biases of q, k, v                                  AR
qwen3     + norms of q and k                                   AR
qwen3_moe + experts                                            AR
dream     Qwen2, bidirectional, canvas row i about i + 1       absorbing, MASK in config.json
sdar      Qwen3, bidirectional inside blocks of block_size     absorbing, MASK in config.json
fast_dllm Qwen2, blocks of bd_size, row i about i + 1          absorbing, MASK 151665
a2d       Llama, Qwen2 or Qwen3, blocks of 32 after a prompt   absorbing, MASK from the tokenizer
nemotron  Llama, context-causal, weights under `encoder.`      absorbing, MASK 100
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from mezzotint.checkpoints.errors import CheckpointError
from mezzotint.checkpoints.family import Family
from mezzotint.checkpoints.keys import LIMITS, Keys, short
from mezzotint.model.config import Conditioning, ModelConfig
from mezzotint.model.variant import Experts, Kind, Variant


def dense(
    keys: Keys, *, qkv_bias: bool = False, qk_norm: bool = False, experts: Experts | None = None, theta: float = 10000.0
) -> ModelConfig:
    """Sizes from the keys of a Hugging Face Llama; a network that is one exactly has no variant."""
    keys.must("hidden_act", ("silu", "swish"), "silu")
    if keys.table.get("rope_interleaved"):
        raise keys.fail("rope_interleaved", "true is not supported")
    width, heads = keys.size("hidden_size", "width"), keys.size("num_attention_heads", "num_heads")
    layers = keys.size("num_hidden_layers", "num_layers")
    rotary, bias = keys.rotary(theta), keys.flag("attention_bias", False)
    kinds, kind_of = _windows(keys, rotary, layers)
    variant = Variant(
        kinds, kind_of, qkv_bias=qkv_bias or bias, out_bias=bias, mlp_bias=keys.flag("mlp_bias", False),
        qk_norm=qk_norm, experts=experts,
    )  # fmt: skip
    plain = Variant((Kind(rotary.theta),), (0,) * layers)
    try:
        return ModelConfig(
            vocab_size=keys.size("vocab_size", "vocab_size"),
            width=width,
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=keys.size("num_key_value_heads", "num_kv_heads", heads),
            head_size=keys.size("head_dim", "head_size", width // heads or None),
            mlp_width=keys.size("intermediate_size", "mlp_width"),
            max_length=keys.size("max_position_embeddings", "max_length", 2048),
            rope_theta=rotary.theta,
            norm_eps=float(keys.number("rms_norm_eps", 1e-6, 1e-12, 0.1, float)),
            tied_head=keys.flag("tie_word_embeddings", False),
            variant=None if variant == plain else variant,
        )
    except CheckpointError:
        raise
    except ValueError as error:
        raise keys.fail("num_key_value_heads", str(error)) from None


def _windows(keys: Keys, rotary: Kind, layers: int) -> tuple[tuple[Kind, ...], tuple[int, ...]]:
    """Kinds of layers by `layer_types`, or by Qwen2's older use_sliding_window and max_window_layers."""
    window = keys.table.get("sliding_window")
    if isinstance(keys.table.get("layer_types"), list):
        names = keys.names("layer_types", layers)
        sliding = [name == "sliding_attention" for name in names]
        if unknown := set(names) - {"sliding_attention", "full_attention"}:
            raise keys.fail("layer_types", f"{min(unknown)!r}; supported: full_attention, sliding_attention")
    else:
        used = keys.flag("use_sliding_window", False) and window is not None
        first = keys.number("max_window_layers", layers, 0, LIMITS["num_layers"]) if used else layers
        sliding = [layer >= first for layer in range(layers)]
    if not any(sliding):
        return (rotary,), (0,) * layers
    narrow = replace(rotary, window=keys.size("sliding_window", "max_length"))
    return (rotary, narrow), tuple(int(is_narrow) for is_narrow in sliding)


def llama_config(keys: Keys) -> ModelConfig:
    """`dense`, and what our own checkpoints declare beside: a role vector and conditions."""
    ours = keys.table.get("mezzotint")
    ours = ours if isinstance(ours, dict) else {}
    role, told = ours.get("canvas_role", False), ours.get("condition")
    if type(role) is not bool:
        raise keys.fail("mezzotint", f"canvas_role {short(role)}; expected true or false")
    try:
        return replace(dense(keys), canvas_role=role, condition=None if told is None else _conditioning(told))
    except CheckpointError:
        raise
    except ValueError as error:
        raise keys.fail("mezzotint", str(error)) from None


def _conditioning(table: Any) -> Conditioning:
    """The `condition` of our table in config.json. Raises ValueError."""
    kinds = {"classes": int, "embedding": int, "way": str, "length": int}
    if not isinstance(table, dict) or any(type(value) is not kinds.get(key) for key, value in table.items()):
        raise ValueError(f"condition is {short(table)}; expected an object of {', '.join(kinds)}")
    return Conditioning(**table)


def rope_json(kind: Kind) -> dict[str, Any]:
    """What `Keys.kind` reads, but for theta."""
    if (scaling := kind.scaling) is None:
        return {"rope_type": "default"}
    names = {"slow": "low_freq_factor", "fast": "high_freq_factor"}
    if scaling.way == "yarn":
        names = {"slow": "beta_slow", "fast": "beta_fast", "attention": "attention_factor"}
    names = {"factor": "factor", "original": "original_max_position_embeddings"} | names
    rope = {names[key]: value for key, value in asdict(scaling).items() if key in names}
    return {"rope_type": scaling.way, **(rope if scaling.way != "linear" else {"factor": scaling.factor})}


def dense_json(
    config: ModelConfig, model_type: str = "llama", architecture: str = "LlamaForCausalLM"
) -> dict[str, Any]:
    """The config.json that `dense` and transformers read."""
    c, v = config, config.variant
    found: dict[str, Any] = {
        "architectures": [architecture], "model_type": model_type, "vocab_size": c.vocab_size, "hidden_size": c.width,
        "num_hidden_layers": c.num_layers, "num_attention_heads": c.num_heads, "num_key_value_heads": c.num_kv_heads,
        "head_dim": c.head_size, "intermediate_size": c.mlp_width, "max_position_embeddings": c.max_length,
        "rope_theta": c.rope_theta, "rms_norm_eps": c.norm_eps, "tie_word_embeddings": c.tied_head, "hidden_act": "silu",
        "attention_bias": v is not None and v.out_bias, "mlp_bias": v is not None and v.mlp_bias,
    }  # fmt: skip
    if v is None:
        return found
    if v.kinds[0].scaling is not None:
        found["rope_scaling"] = rope_json(v.kinds[0])
    if len(v.kinds) > 1:
        found["layer_types"] = [("full_attention", "sliding_attention")[i] for i in v.kind_of]
        found |= {"sliding_window": v.kinds[1].window, "use_sliding_window": True}
    if (e := v.experts) is not None:
        found |= {
            "num_experts": e.count, "num_experts_per_tok": e.per_token, "moe_intermediate_size": e.width,
            "norm_topk_prob": e.normalised, "decoder_sparse_step": 1, "mlp_only_layers": [],
        }  # fmt: skip
    return found


def softmax_experts(keys: Keys) -> Experts:
    keys.must("decoder_sparse_step", (1,), 1)
    if keys.table.get("mlp_only_layers"):
        raise keys.fail("mlp_only_layers", "only networks whose every layer has experts are supported")
    count = "num_local_experts" if "num_local_experts" in keys.table else "num_experts"
    each = keys.size("num_experts_per_tok", "experts")
    if each > keys.size(count, "experts"):
        raise keys.fail("num_experts_per_tok", f"{each}; there are {keys.size(count, 'experts')} experts")
    width, normalised = keys.size("moe_intermediate_size", "mlp_width"), keys.flag("norm_topk_prob", False)
    return Experts(keys.size(count, "experts"), each, width, normalised=normalised)


def a2d_config(keys: Keys) -> ModelConfig:
    base = str(keys.table.get("model_type")).removeprefix("a2d-")
    return dense(keys, qkv_bias=base == "qwen2", qk_norm=base == "qwen3")


def nemotron_config(keys: Keys) -> ModelConfig:
    """Positions end where llama-4's scaling of q would begin: this network does not have it.

    dlm_paradigm says how it was trained; in decoding all three are one network, causal in its context.
    """
    if keys.table.get("model_type") == "nemotron_labs_diffusion":  # what ministral_dlm allows is not known
        keys.must("dlm_paradigm", ("bidirectional", "block_diff", "autoregressive"), "bidirectional")
    config = dense(keys, theta=1e6)
    scaling = None if config.variant is None else config.variant.kinds[0].scaling
    return config if scaling is None else replace(config, max_length=min(config.max_length, scaling.original))


def masked(keys: Keys, visibility: str, canvas: int, mask: int | None, shift: int = 0) -> dict[str, Any]:
    """Facts of a trained absorbing family."""
    return {"visibility": visibility, "canvas_length": canvas, "mask_id": mask, "shift": shift, "trained_canvas": True}


def block(keys: Keys, key: str, default: int | None) -> int:
    return int(keys.number(key, default, 1, 4096))


def _json(model_type: str, architecture: str) -> Any:
    return lambda config: dense_json(config, model_type, architecture)


def a2d_json(config: ModelConfig) -> dict[str, Any]:
    v = config.variant
    base, named = "qwen3" if v and v.qk_norm else "qwen2" if v and v.qkv_bias else "llama", "A2D{}LMHeadModel"
    return dense_json(config, f"a2d-{base}", named.format(base.capitalize()))


def ministral3_json(config: ModelConfig) -> dict[str, Any]:
    """Positions end where llama-4's scaling of q would begin, up to which it is 1 whatever its beta."""
    found = dense_json(config, "ministral3", "Ministral3ForCausalLM")
    scaled = {"rope_theta": found.pop("rope_theta"), "llama_4_scaling_beta": 0.0} | found.pop(
        "rope_scaling", {"rope_type": "default"}
    )
    return found | {"rope_parameters": {"original_max_position_embeddings": config.max_length} | scaled}


FAMILIES = (
    Family("llama", ("llama",), llama_config, to_json=dense_json, reference="transformers"),
    Family(
        "qwen2", ("qwen2",), lambda keys: dense(keys, qkv_bias=True), to_json=_json("qwen2", "Qwen2ForCausalLM"),
        reference="transformers",
    ),
    Family(
        "qwen3", ("qwen3",), lambda keys: dense(keys, qk_norm=True), to_json=_json("qwen3", "Qwen3ForCausalLM"),
        reference="transformers",
    ),
    Family(
        "qwen3_moe", ("qwen3_moe",), lambda keys: dense(keys, qk_norm=True, experts=softmax_experts(keys)),
        to_json=_json("qwen3_moe", "Qwen3MoeForCausalLM"), reference="transformers",
    ),
    Family(
        "dream", ("Dream",), lambda keys: dense(keys, qkv_bias=True),
        lambda keys: masked(keys, "full", 128, keys.id("mask_token_id", 151666), 1) | {"policy": "dream"},
        _json("Dream", "DreamModel"), reference="its own code",
    ),
    Family(
        "sdar", ("sdar",), lambda keys: dense(keys, qk_norm=True),
        lambda keys: masked(keys, "blocks", block(keys, "block_size", 4), keys.id("mask_token_id", 151669)) | {"policy": "sdar"},
        _json("sdar", "SDARForCausalLM"), reference="its own code",
    ),
    Family(
        "sdar_moe", ("sdar_moe",), lambda keys: dense(keys, qk_norm=True, experts=softmax_experts(keys)),
        lambda keys: masked(keys, "blocks", block(keys, "block_size", 4), keys.id("mask_token_id", 151669)) | {"policy": "sdar"},
        _json("sdar_moe", "SDARMoeForCausalLM"), reference="its own code",
    ),
    Family(
        "fast_dllm_v2", ("Fast_dLLM_Qwen",), lambda keys: dense(keys, qkv_bias=True),
        lambda keys: masked(keys, "blocks", block(keys, "bd_size", 32), keys.id("mask_token_id", 151665), 1)
        | {"policy": "fast-dllm-v2"},
        _json("Fast_dLLM_Qwen", "Fast_dLLM_QwenForCausalLM"), reference="its own code",
    ),
    Family(
        "a2d", ("a2d-llama", "a2d-qwen2", "a2d-qwen3"), a2d_config,
        lambda keys: masked(keys, "blocks-after-prompt", block(keys, "block_size", 32), None) | {"policy": "a2d"},
        a2d_json, reference="its own code",
    ),
    Family(
        "nemotron", ("nemotron_labs_diffusion", "ministral_dlm"), nemotron_config,
        lambda keys: masked(keys, "context-causal", block(keys, "block_size", 32), keys.id("mask_token_id", 100))
        | {"policy": "nemotron"},
        _json("nemotron_labs_diffusion", "NemotronLabsDiffusionModel"),
        names={
            "model.embed_tokens": "encoder.embed_tokens", "model.norm": "encoder.norm", "lm_head": "diffusion_head",
        } | {
            f"model.layers.{{}}.{name}": f"encoder.layers.{{}}.{name}"
            for name in (
                "input_layernorm", "post_attention_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
            )
        },
    ),
    Family("ministral3", ("ministral3",), nemotron_config, to_json=ministral3_json, reference="transformers"),
)  # fmt: skip
