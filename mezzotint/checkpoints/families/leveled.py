"""SEDD, UDLM: MDLM's transformer of text (`bd3lm.py`), which is told the level of noise and uses it.

SEDD   absorbing or uniform noise, scores p(text with v at i) / p(text) scaled by exp(sigma) - 1      OmegaConf's config.json
UDLM   uniform noise, logits of the clean token as if its own place were not seen; classes in some    transformers' config.json

Every block has its AdaLN product and the level an MLP (`model/level.py`); nothing is folded, since nothing is constant.
"""

from __future__ import annotations

from typing import Any

from mezzotint.checkpoints.errors import CheckpointError
from mezzotint.checkpoints.family import Family
from mezzotint.checkpoints.keys import Keys
from mezzotint.model.config import Conditioning, ModelConfig
from mezzotint.model.variant import Kind, LevelInput, Variant

EPS = 1e-3  # alpha at level 1 of the log-linear schedule, in both repositories' code


def network(
    keys: Keys, vocab_size: int, width: int, length: int, level: LevelInput, condition: Conditioning | None = None
) -> ModelConfig:
    """Sizes that both have: of `n_blocks`, `n_heads` and 4 times the width in the MLP."""
    heads, layers = keys.size("n_heads", "num_heads"), keys.size("n_blocks", "num_layers")
    if width % heads or width // heads % 2:
        raise keys.fail("n_heads", f"{heads} heads of a width of {width}; expected heads of an even size")
    variant = Variant(
        (Kind(),), (0,) * layers, mlp_bias=True, head_bias=True, norm="layer", gated=False, activation="gelu_tanh",
        level=level,
    )  # fmt: skip
    try:
        return ModelConfig(
            vocab_size, width, layers, heads, heads, width // heads, 4 * width, length, tied_head=False,
            condition=condition, variant=variant,
        )  # fmt: skip
    except CheckpointError:
        raise
    except ValueError as error:
        raise keys.fail("n_heads", str(error)) from None


def names(prefix: str) -> dict[str, str]:
    block = {
        "input_layernorm": "norm1", "self_attn.q_proj": "attn_qkv", "self_attn.k_proj": "attn_qkv",
        "self_attn.v_proj": "attn_qkv", "self_attn.o_proj": "attn_out", "post_attention_layernorm": "norm2",
        "mlp.up_proj": "mlp.0", "mlp.down_proj": "mlp.2", "level": "adaLN_modulation",
    }  # fmt: skip
    return {
        "model.embed_tokens.weight": f"{prefix}vocab_embed.embedding",
        "model.level.first": f"{prefix}sigma_map.mlp.0",
        "model.level.second": f"{prefix}sigma_map.mlp.2",
        "mezzotint.condition.embedding": f"{prefix}cond_map.embedding_table",
        **{f"model.layers.{{}}.{ours}": f"{prefix}blocks.{{}}.{theirs}" for ours, theirs in block.items()},
        "model.norm": f"{prefix}output_layer.norm_final",
        "model.norm_level": f"{prefix}output_layer.adaLN_modulation",
        "lm_head": f"{prefix}output_layer.linear",
    }


# -- SEDD ----------------------------------------------------------------------------------------------------------------


def sedd(keys: Keys) -> ModelConfig:
    inner, masks = keys.within("model"), _graph(keys) == "absorb"
    inner.must("type", ("ddit",), "ddit")
    scaled = inner.flag("scale_by_sigma", True)
    if scaled and not masks:
        raise inner.fail("scale_by_sigma", "true with uniform noise, for which it is not defined; expected false")
    level = LevelInput(inner.size("cond_dim", "width"), "score", scaled)
    width, length = inner.size("hidden_size", "width"), inner.size("length", "max_length")
    return network(inner, keys.size("tokens", "vocab_size") + masks, width, length, level)


def _graph(keys: Keys) -> str:
    return str(keys.within("graph").must("type", ("absorb", "uniform"), None))


def sedd_facts(keys: Keys) -> dict[str, Any]:
    masks, noise = _graph(keys) == "absorb", keys.within("noise")
    if noise.must("type", ("loglinear", "geometric"), None) == "loglinear":
        schedule = f"loglinear {EPS:g}"
    else:
        low = float(noise.number("sigma_min", 1e-3, 1e-9, 100, float))
        high = float(noise.number("sigma_max", 1, 1, 1000, float))
        if not low < high:
            raise noise.fail("sigma_max", f"{high}; expected more than sigma_min, {low}")
        schedule = f"geometric {low!r} {high!r}"
    return {
        "noise": "absorbing" if masks else "uniform", "visibility": "full",
        "canvas_length": min(keys.within("model").size("length", "max_length"), 4096), "shift": 0, "trained_canvas": True,
        "mask_id": keys.size("tokens", "vocab_size") if masks else None, "policy": "sedd", "schedule": schedule,
    }  # fmt: skip


def sedd_json(config: ModelConfig) -> dict[str, Any]:
    """What its own loader reads of the sizes. What the noise was is a fact, and stands under `mezzotint`."""
    c, level = config, config.level
    assert level is not None
    masks = level.scaled
    graph, noise = ("absorb", "loglinear") if masks else ("uniform", "geometric")
    span = {"sigma_min": 1e-4, "sigma_max": 20}  # their configuration's; what this checkpoint's were is among its facts
    return {
        "model_type": "sedd", "tokens": c.vocab_size - masks, "graph": {"type": graph}, "noise": {"type": noise, **span},
        "model": {
            "type": "ddit", "hidden_size": c.width, "cond_dim": level.width, "length": c.max_length,
            "n_blocks": c.num_layers, "n_heads": c.num_heads, "scale_by_sigma": level.scaled, "dropout": 0.0,
        },
    }  # fmt: skip


def is_sedd(table: dict[str, Any]) -> bool:
    """Its config.json is OmegaConf's and names no model_type."""
    return "model_type" not in table and {"graph", "noise", "tokens", "model"} <= set(table)


# -- UDLM ----------------------------------------------------------------------------------------------------------------


def udlm(keys: Keys) -> ModelConfig:
    keys.must("time_conditioning", (True,), True)
    classes = int(keys.number("cfg_num_classes", None, 1, 1 << 16)) if keys.flag("cfg", False) else 0
    condition = Conditioning(classes, way="level") if classes else None
    level = LevelInput(keys.size("cond_dim", "width", 128), "leave_one_out")
    width, length = keys.size("hidden_dim", "width"), keys.size("model_length", "max_length")
    return network(keys, keys.size("vocab_size", "vocab_size"), width, length, level, condition)


def udlm_facts(keys: Keys) -> dict[str, Any]:
    return {
        "noise": "uniform", "visibility": "full", "canvas_length": min(keys.size("model_length", "max_length"), 4096),
        "shift": 0, "trained_canvas": True, "policy": "ancestral", "schedule": f"loglinear {EPS:g}",
    }  # fmt: skip


def udlm_json(config: ModelConfig) -> dict[str, Any]:
    c, level = config, config.level
    assert level is not None
    return {
        "architectures": ["UDLM"], "model_type": "udlm", "vocab_size": c.vocab_size, "model_length": c.max_length,
        "hidden_dim": c.width, "cond_dim": level.width, "n_blocks": c.num_layers, "n_heads": c.num_heads, "dropout": 0.0,
        "time_conditioning": True, "cfg": c.condition is not None,
        "cfg_num_classes": c.condition.classes if c.condition else -1,
    }  # fmt: skip


SEDD = Family(
    "sedd", ("sedd",), sedd, sedd_facts, sedd_json, names(""), ignored=r"rotary_emb\.inv_freq",
    reference="its own code",
)  # fmt: skip
UDLM = Family(
    "udlm", ("udlm",), udlm, udlm_facts, udlm_json, names("backbone."), ignored=r"backbone\.rotary_emb\.inv_freq",
    reference="its own code",
)  # fmt: skip
FAMILIES = (SEDD, UDLM)
