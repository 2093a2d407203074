"""A two-layer model of 46 kB in both formats: a GGUF file by the `gguf` package, and its safetensors twin.

The twin holds what the GGUF dequantises to (by `gguf.quants`), in Hugging Face's row order, and a tokenizer built with the
`tokenizers` library, so neither side of the comparison is our code.
"""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import tokenizers
import torch
from gguf import GGMLQuantizationType as Q
from gguf import quants
from safetensors.torch import save_file

from mezzotint.model.config import ModelConfig

SPECIALS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<empty_output>", "<issue_closed>", "<issue_start>", "<issue_comment>"
]  # fmt: skip
WORDS = ["th", "the", "Ġthe", "in", "ing", "nd", "and", "Ġa", "Ġand", "er", "Ġ1"]
MERGES = ["t h", "th e", "Ġ the", "i n", "in g", "n d", "a nd", "Ġ a", "Ġa nd", "e r", "Ġ 1"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def alphabet() -> list[str]:
    return sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())


TOKENS = [*SPECIALS, *alphabet(), *WORDS]
CONFIG = ModelConfig(len(TOKENS), 32, 2, 4, 2, 8, 64, 128, rope_theta=5000.0, norm_eps=1e-5, tied_head=True)

# Hugging Face name without layer -> (GGUF name, shape, type)
TENSORS: dict[str, tuple[str, tuple[int, ...], Q]] = {
    "input_layernorm": ("attn_norm", (32,), Q.F32),
    "self_attn.q_proj": ("attn_q", (32, 32), Q.Q4_1),
    "self_attn.k_proj": ("attn_k", (16, 32), Q.Q4_1),
    "self_attn.v_proj": ("attn_v", (16, 32), Q.F16),
    "self_attn.o_proj": ("attn_output", (32, 32), Q.BF16),
    "post_attention_layernorm": ("ffn_norm", (32,), Q.F32),
    "mlp.gate_proj": ("ffn_gate", (64, 32), Q.Q4_1),
    "mlp.up_proj": ("ffn_up", (64, 32), Q.Q8_0),
    "mlp.down_proj": ("ffn_down", (32, 64), Q.Q4_1),
}


def pair_up(rows: np.ndarray, heads: int) -> np.ndarray:
    """Half-split rows -> GGUF's interleaved ones, row by row: the slow and obvious form."""
    out = np.empty_like(rows)
    size = len(rows) // heads
    for head in range(heads):
        for j in range(size // 2):
            out[head * size + 2 * j] = rows[head * size + j]
            out[head * size + 2 * j + 1] = rows[head * size + size // 2 + j]
    return out


def unpair(rows: np.ndarray, heads: int) -> np.ndarray:
    order = pair_up(np.arange(len(rows))[:, None], heads)[:, 0]
    out = np.empty_like(rows)
    out[order] = rows
    return out


def write_gguf(path: Path, tied: bool = True, **changes: object) -> dict[str, torch.Tensor]:
    """Write the GGUF file; -> its weights under Hugging Face names. changes: metadata keys (dots as __) to set otherwise."""
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    metadata: dict[str, object] = {
        "block_count": 2, "context_length": 128, "embedding_length": 32, "feed_forward_length": 64, "head_count": 4,
        "head_count_kv": 2, "rope_freq_base": 5000.0, "layer_norm_rms_eps": 1e-5, "vocab_size": len(TOKENS),
        "rope_dimension_count": 8,
    } | changes  # fmt: skip
    for key, value in metadata.items():
        getattr(writer, f"add_{key}")(value)
    writer.add_name("tiny")
    writer.add_array("test.nested", [[1, 2], [3]])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(SPECIALS) + [1] * (len(TOKENS) - len(SPECIALS)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    weights: dict[str, torch.Tensor] = {}

    def add(name: str, ours: str, shape: tuple[int, ...], kind: Q) -> None:
        values = random.normal(size=shape).astype(np.float32)
        heads = {"attn_q": 4, "attn_k": 2}.get(name.split(".")[-2], 0)
        raw = values if kind == Q.F32 else quants.quantize(pair_up(values, heads) if heads else values, kind)
        writer.add_tensor(name, raw, raw_dtype=kind)
        back = quants.dequantize(raw, kind)
        weights[ours] = torch.from_numpy(np.array(unpair(back, heads) if heads else back))

    add("token_embd.weight", "model.embed_tokens.weight", (len(TOKENS), 32), Q.Q8_0)
    for layer in range(2):
        for ours, (theirs, shape, kind) in TENSORS.items():
            add(f"blk.{layer}.{theirs}.weight", f"model.layers.{layer}.{ours}.weight", shape, kind)
    add("output_norm.weight", "model.norm.weight", (32,), Q.F32)
    if not tied:
        add("output.weight", "lm_head.weight", (len(TOKENS), 32), Q.F16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def config_json() -> dict[str, object]:
    c = CONFIG
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": c.vocab_size, "hidden_size": c.width,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64,
        "max_position_embeddings": 128, "rope_theta": 5000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
        "hidden_act": "silu",
    }  # fmt: skip


def library_tokenizer() -> tokenizers.Tokenizer:
    vocab = {token: index for index, token in enumerate(TOKENS)}
    merges = [tuple(merge.split(" ")) for merge in MERGES]
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(SPECIALS)
    return made


def write_folder(folder: Path, weights: dict[str, torch.Tensor], shards: int = 1) -> None:
    """The safetensors twin, in one file or in shards with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_json()))
    library_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    if shards == 1:
        save_file(weights, folder / "model.safetensors")
        return
    where = {}
    for index in range(shards):
        file = f"model-{index + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensor for i, (name, tensor) in enumerate(weights.items()) if i % shards == index}
        save_file(part, folder / file)
        where |= dict.fromkeys(part, file)
    index_file = {"metadata": {"total_size": 0}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index_file))
