"""Llama-like checkpoints: SmolLM2 and everything else whose config.json says `model_type: llama`.

The whole family is one table of names and two readers of sizes. Our names are Hugging Face's; rotary positions are in
the half-split convention (the first half of a head rotates with the second). GGUF's llama files store the rows of q and
k so that neighbours rotate together; `half_split` puts them back, `interleaved` is its inverse.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mezzotint.checkpoints.errors import CheckpointError
from mezzotint.checkpoints.gguf import GGUFFile
from mezzotint.checkpoints.weights import Slot
from mezzotint.model import condition
from mezzotint.model.config import Conditioning, ModelConfig

# GGUF name                  our name; {} is the layer
NAMES = {
    "token_embd.weight":        "model.embed_tokens.weight",
    "blk.{}.attn_norm.weight":  "model.layers.{}.input_layernorm.weight",
    "blk.{}.attn_q.weight":     "model.layers.{}.self_attn.q_proj.weight",
    "blk.{}.attn_k.weight":     "model.layers.{}.self_attn.k_proj.weight",
    "blk.{}.attn_v.weight":     "model.layers.{}.self_attn.v_proj.weight",
    "blk.{}.attn_output.weight": "model.layers.{}.self_attn.o_proj.weight",
    "blk.{}.ffn_norm.weight":   "model.layers.{}.post_attention_layernorm.weight",
    "blk.{}.ffn_gate.weight":   "model.layers.{}.mlp.gate_proj.weight",
    "blk.{}.ffn_up.weight":     "model.layers.{}.mlp.up_proj.weight",
    "blk.{}.ffn_down.weight":   "model.layers.{}.mlp.down_proj.weight",
    "output_norm.weight":       "model.norm.weight",
    "output.weight":            "lm_head.weight",
}  # fmt: skip

FLOATS = (torch.float32, torch.float16, torch.bfloat16)

# No size may be larger: sizes of layers set loops and tables before any tensor has confirmed them.
LIMITS = {
    "vocab_size": 1 << 24, "width": 1 << 20, "num_layers": 4096, "num_heads": 4096, "num_kv_heads": 4096,
    "head_size": 1 << 16, "mlp_width": 1 << 22, "max_length": 1 << 24,
}  # fmt: skip


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Our name -> shape of every tensor that a checkpoint of these sizes must hold, no more and no fewer."""
    c = config
    q, kv = c.num_heads * c.head_size, c.num_kv_heads * c.head_size
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (c.vocab_size, c.width)}
    for i in range(c.num_layers):
        p = f"model.layers.{i}."
        found |= {
            p + "input_layernorm.weight": (c.width,),
            p + "self_attn.q_proj.weight": (q, c.width),
            p + "self_attn.k_proj.weight": (kv, c.width),
            p + "self_attn.v_proj.weight": (kv, c.width),
            p + "self_attn.o_proj.weight": (c.width, q),
            p + "post_attention_layernorm.weight": (c.width,),
            p + "mlp.gate_proj.weight": (c.mlp_width, c.width),
            p + "mlp.up_proj.weight": (c.mlp_width, c.width),
            p + "mlp.down_proj.weight": (c.width, c.mlp_width),
        }
    found["model.norm.weight"] = (c.width,)
    if not c.tied_head:
        found["lm_head.weight"] = (c.vocab_size, c.width)
    if c.canvas_role:
        found["mezzotint.canvas_role"] = (c.width,)
    if c.condition is not None:
        found |= condition.shapes(c.condition, c.width, c.num_layers)
    return found


def half_split(weight: Tensor, heads: int) -> Tensor:
    """Rows of q or k `[heads * H, D]` from interleaved rotary pairs (GGUF) to half-split ones (ours)."""
    return weight.view(heads, -1, 2, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)


def interleaved(weight: Tensor, heads: int) -> Tensor:
    """The inverse of `half_split`, for writing GGUF."""
    return weight.view(heads, 2, -1, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)


# -- sizes -------------------------------------------------------------------------------------------------------------


def config_from_gguf(file: GGUFFile) -> ModelConfig:
    """Sizes from `llama.*` metadata. Raises CheckpointError for another architecture and for what the network lacks."""

    def number(key: str, default: float | None = None, kind: type = int) -> Any:
        value = file.scalar(key, default)
        if value is None:
            raise CheckpointError(file.path, f"metadata {key!r}", "missing", 0)
        if type(value) not in ((kind,) if kind is int else (int, float)):
            raise file.error(key, f"{_short(value)}; expected one {kind.__name__}")
        return value

    if (family := file.scalar("general.architecture")) != "llama":
        raise file.error("general.architecture", f"{_short(family)}; supported: 'llama'")
    for key in ("llama.rope.scaling.type", "llama.rope.scaling.factor"):
        if file.scalar(key, "none") not in ("none", 1.0):
            raise file.error(key, "scaled rotary positions are not supported")
    if file.scalar("llama.expert_count", 0) != 0:
        raise file.error("llama.expert_count", "experts are not supported")
    width, heads = number("llama.embedding_length"), number("llama.attention.head_count")
    if heads < 1 or width % heads:
        raise file.error("llama.attention.head_count", f"{heads} does not divide the width {width}")
    head_size = number("llama.attention.key_length", width // heads)
    if (rotated := number("llama.rope.dimension_count", head_size)) != head_size:
        raise file.error("llama.rope.dimension_count", f"{rotated}; only whole heads of {head_size} are supported")
    if (value_size := number("llama.attention.value_length", head_size)) != head_size:
        raise file.error("llama.attention.value_length", f"{value_size}; expected {head_size}, as for keys")
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    keys = {
        "vocab_size": "llama.vocab_size", "width": "llama.embedding_length", "num_layers": "llama.block_count",
        "num_heads": "llama.attention.head_count", "num_kv_heads": "llama.attention.head_count_kv",
        "mlp_width": "llama.feed_forward_length", "max_length": "llama.context_length",
    }  # fmt: skip
    sizes = {name: number(key) for name, key in keys.items() if name not in ("vocab_size", "num_kv_heads")}
    sizes["vocab_size"] = number("llama.vocab_size", len(tokens) if isinstance(tokens, list) else None)
    sizes["num_kv_heads"] = number("llama.attention.head_count_kv", heads)
    for name, size in sizes.items():
        if not 1 <= size <= LIMITS[name]:
            raise file.error(keys[name], f"{size}; expected 1 to {LIMITS[name]}")
    theta = number("llama.rope.freq_base", 10000.0, float)
    eps = number("llama.attention.layer_norm_rms_epsilon", None, float)
    if not 1 <= theta <= 1e12:
        raise file.error("llama.rope.freq_base", f"{theta}; expected 1 to 1e12")
    if not 1e-12 <= eps <= 0.1:
        raise file.error("llama.attention.layer_norm_rms_epsilon", f"{eps}; expected 1e-12 to 0.1")
    tied = "output.weight" not in file.tensors
    eps = float(f"{eps:.6g}")  # 9.999999747378752e-06 is 1e-5 that went through float32
    try:
        return ModelConfig(**sizes, head_size=head_size, rope_theta=float(theta), norm_eps=eps, tied_head=tied)
    except ValueError as error:
        raise file.error("llama.attention.head_count_kv", str(error)) from None


def config_from_json(path: Path, table: dict[str, Any]) -> ModelConfig:
    """Sizes from the parsed config.json at `path`. Raises CheckpointError as `config_from_gguf` does."""

    def fail(key: str, problem: str) -> CheckpointError:
        return CheckpointError(path, f"{key!r}", problem, 0)

    def number(key: str, default: float | None, low: float, high: float, kind: type = int) -> Any:
        value: Any = table.get(key)
        value = default if value is None else value
        if value is None:
            raise fail(key, "missing")
        if type(value) not in ((kind,) if kind is int else (int, float)):
            raise fail(key, f"{_short(value)}; expected one {kind.__name__}")
        if not low <= value <= high:
            raise fail(key, f"{_short(value)}; expected {low} to {high}")
        return value

    if table.get("model_type") != "llama":
        raise fail("model_type", f"{_short(table.get('model_type'))}; supported: 'llama'")
    for key in ("attention_bias", "mlp_bias", "rope_interleaved"):
        if table.get(key):
            raise fail(key, "true is not supported")
    if (activation := table.get("hidden_act", "silu")) not in ("silu", "swish"):
        raise fail("hidden_act", f"{_short(activation)}; supported: 'silu'")
    rope = table.get("rope_parameters") or table.get("rope_scaling") or {}
    if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type", "default")) != "default":
        raise fail("rope_scaling", "scaled rotary positions are not supported")
    if "rope_theta" in rope:
        table = {**table, "rope_theta": rope["rope_theta"]}
    width = number("hidden_size", None, 1, LIMITS["width"])
    heads = number("num_attention_heads", None, 1, LIMITS["num_heads"])
    tied = table.get("tie_word_embeddings", False)
    if type(tied) is not bool:
        raise fail("tie_word_embeddings", f"{_short(tied)}; expected true or false")
    ours = table.get("mezzotint")
    role = ours.get("canvas_role", False) if isinstance(ours, dict) else False
    if type(role) is not bool:
        raise fail("mezzotint", f"canvas_role {_short(role)}; expected true or false")
    told = ours.get("condition") if isinstance(ours, dict) else None
    try:
        return ModelConfig(
            vocab_size=number("vocab_size", None, 1, LIMITS["vocab_size"]),
            width=width,
            num_layers=number("num_hidden_layers", None, 1, LIMITS["num_layers"]),
            num_heads=heads,
            num_kv_heads=number("num_key_value_heads", heads, 1, LIMITS["num_kv_heads"]),
            head_size=number("head_dim", width // heads, 1, LIMITS["head_size"]),
            mlp_width=number("intermediate_size", None, 1, LIMITS["mlp_width"]),
            max_length=number("max_position_embeddings", 2048, 1, LIMITS["max_length"]),
            rope_theta=float(number("rope_theta", 10000.0, 1, 1e12, float)),
            norm_eps=float(number("rms_norm_eps", 1e-6, 1e-12, 0.1, float)),
            tied_head=tied,
            canvas_role=role,
            condition=None if told is None else _conditioning(told),
        )
    except CheckpointError:
        raise
    except ValueError as error:
        raise fail("num_key_value_heads" if "heads" in str(error) else "mezzotint", str(error)) from None


def _conditioning(table: Any) -> Conditioning:
    """The `condition` of our table in config.json. Raises ValueError."""
    kinds = {"classes": int, "embedding": int, "way": str, "length": int}
    if not isinstance(table, dict) or any(type(value) is not kinds.get(key) for key, value in table.items()):
        raise ValueError(f"condition is {_short(table)}; expected an object of {', '.join(kinds)}")
    return Conditioning(**table)


def config_to_json(config: ModelConfig) -> dict[str, Any]:
    """The config.json that `config_from_json` and transformers read."""
    c = config
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": c.vocab_size,
        "hidden_size": c.width, "num_hidden_layers": c.num_layers, "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_kv_heads, "head_dim": c.head_size, "intermediate_size": c.mlp_width,
        "max_position_embeddings": c.max_length, "rope_theta": c.rope_theta, "rms_norm_eps": c.norm_eps,
        "tie_word_embeddings": c.tied_head, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
    }  # fmt: skip


# -- weights -----------------------------------------------------------------------------------------------------------


def check_gguf(file: GGUFFile, config: ModelConfig) -> dict[str, str]:
    """GGUF name -> our name, after checking that the file holds exactly the tensors of `config`.

    Raises CheckpointError.
    """
    expected = shapes(config)
    names = {}
    for theirs, ours in NAMES.items():
        for layer in range(config.num_layers if "{}" in theirs else 1):
            if ours.format(layer) in expected:
                names[theirs.format(layer)] = ours.format(layer)
    for name, info in file.tensors.items():
        if name not in names:
            raise CheckpointError(
                file.path, f"tensor {name!r}", "a llama checkpoint of these sizes has none", info.declared_at
            )
        if info.shape != (shape := expected[names[name]]):
            raise CheckpointError(
                file.path, f"shape of tensor {name!r}", f"{info.shape}; expected {shape}", info.declared_at
            )
    _complete(file.path, names, file.tensors)
    return names


def weights_from_gguf(file: GGUFFile, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """(our name, float32 tensor) one at a time, q and k un-permuted. Raises CheckpointError."""
    names = check_gguf(file, config)
    for name, tensor in file.weights():
        yield names[name], our_rows(names[name], tensor, config)


def our_rows(name: str, tensor: Tensor, config: ModelConfig) -> Tensor:
    """A tensor of a GGUF file, or its rows of blocks, with the rows of q and k in our order."""
    heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}.get(name.split(".")[-2])
    return tensor if heads is None else half_split(tensor, heads)


def check_slots(slots: dict[str, Slot], config: ModelConfig, folder: Path) -> dict[str, Slot]:
    """The slots of `config`'s tensors, after checking names, shapes and dtypes. Raises CheckpointError.

    A tied head that is stored all the same is left out; `rotary_emb.inv_freq` of old files too.
    """
    expected = shapes(config)
    kept = {}
    for name, slot in slots.items():
        if name.endswith("rotary_emb.inv_freq") or (config.tied_head and name == "lm_head.weight"):
            continue
        if name not in expected:
            raise CheckpointError(
                slot.file, f"tensor {name!r}", "a llama checkpoint of these sizes has none", slot.declared_at
            )
        if slot.shape != expected[name]:
            raise CheckpointError(
                slot.file, f"shape of tensor {name!r}", f"{slot.shape}; expected {expected[name]}", slot.declared_at
            )
        if slot.dtype not in FLOATS:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOATS)
            raise CheckpointError(
                slot.file, f"dtype of tensor {name!r}", f"{slot.dtype}; supported: {known}", slot.declared_at
            )
        kept[name] = slot
    _complete(folder, expected, kept)
    return kept


def _complete(path: Path, expected: dict[str, Any], found: dict[str, Any]) -> None:
    if missing := [name for name in expected if name not in found]:
        raise CheckpointError(path, f"tensor {missing[0]!r}", f"missing ({len(missing)} tensors are)", 0)


def _short(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "not finite"
    text = repr(value) if not isinstance(value, int) or abs(value) < 1 << 64 else "a number beyond 2**64"
    return text if len(text) < 80 else text[:77] + "..."
