"""Llama in GGUF files: SmolLM2 and everything else whose architecture is `llama`. Folders are in `families/dense.py`.

A table of names and a reader of sizes. Our names are Hugging Face's; rotary positions are in
the half-split convention (the first half of a head rotates with the second). GGUF's llama files store the rows of q and
k so that neighbours rotate together; `half_split` puts them back, `interleaved` is its inverse.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from mezzotint.checkpoints.errors import CheckpointError
from mezzotint.checkpoints.gguf import GGUFFile
from mezzotint.checkpoints.keys import LIMITS, short
from mezzotint.checkpoints.shapes import shapes
from mezzotint.model.config import ModelConfig

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
            raise file.error(key, f"{short(value)}; expected one {kind.__name__}")
        return value

    if (family := file.scalar("general.architecture")) != "llama":
        raise file.error("general.architecture", f"{short(family)}; supported: 'llama'")
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


def _complete(path: Path, expected: dict[str, Any], found: dict[str, Any]) -> None:
    if missing := [name for name in expected if name not in found]:
        raise CheckpointError(path, f"tensor {missing[0]!r}", f"missing ({len(missing)} tensors are)", 0)
