"""Malformed and mislabelled checkpoints of every family: the error names the tensor or key, what was expected, what was found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_folder
from safetensors.numpy import save_file

from mezzotint.checkpoints.errors import CheckpointError
from mezzotint.checkpoints.load import load

# family -> [(tensor, what is done to it, what the message must say)]
TENSORS: dict[str, list[tuple[str, str, str]]] = {
    "llama": [
        ("model.layers.1.mlp.up_proj.weight", "missing", r"missing \(1 tensors are\)"),
        ("model.embed_tokens.weight", "cut", r"\(39, 16\); expected \(40, 16\)"),
        ("model.norm.weight", "int", "torch.int32; supported: float32, float16, bfloat16"),
        ("model.layers.7.mlp.up_proj.weight", "extra", "a llama checkpoint of these sizes has none"),
        ("lm_head.weight", "missing", "missing"),
        ("model.layers.0.self_attn.q_proj.weight", "flat", r"\(256,\); expected \(16, 16\)"),
    ],
    "qwen2": [
        ("model.layers.0.self_attn.k_proj.bias", "missing", "missing"),
        ("model.layers.0.self_attn.o_proj.bias", "extra", "a qwen2 checkpoint of these sizes has none"),
        ("model.layers.0.self_attn.v_proj.bias", "cut", r"\(7,\); expected \(8,\)"),
    ],
    "qwen3": [
        ("model.layers.1.self_attn.q_norm.weight", "missing", "missing"),
        ("model.layers.1.self_attn.k_norm.weight", "cut", r"\(7,\); expected \(8,\)"),
    ],
    "qwen3_moe": [
        ("model.layers.1.mlp.experts.5.up_proj.weight", "missing", "missing"),
        ("model.layers.1.mlp.experts.6.up_proj.weight", "extra", "a qwen3_moe checkpoint"),
        ("model.layers.0.mlp.gate.weight", "cut", r"\(5, 16\); expected \(6, 16\)"),
    ],
    "gemma3": [
        ("model.layers.2.pre_feedforward_layernorm.weight", "missing", "missing"),
        ("model.layers.2.post_feedforward_layernorm.weight", "cut", r"\(15,\); expected \(16,\)"),
    ],
    "gpt2": [
        ("transformer.wpe.weight", "missing", "missing"),
        ("transformer.h.0.attn.c_attn.weight", "turned", r"\(48, 16\); expected \(16, 48\)"),
        ("transformer.h.0.attn.c_attn.bias", "cut", r"\(47,\); expected \(48,\)"),
        ("transformer.h.1.mlp.c_fc.weight", "turned", r"\(64, 16\); expected \(16, 64\)"),
        ("transformer.h.0.crossattention.c_attn.weight", "extra", "a gpt2 checkpoint"),
    ],
    "diffusion_gemma": [
        ("model.decoder.layers.0.experts.gate_up_proj", "cut", r"\(3, 24, 16\); expected \(4, 24, 16\)"),
        ("model.decoder.layers.1.router.per_expert_scale", "missing", "missing"),
        ("model.encoder.language_model.layers.0.layer_scalar", "missing", "missing"),
        ("model.decoder.layers.2.self_attn.v_proj.weight", "extra", "a diffusion_gemma checkpoint"),
        ("model.decoder.self_conditioning.pre_norm.weight", "missing", "missing"),
    ],
    "dream": [("model.layers.0.self_attn.q_proj.bias", "missing", "missing")],
    "llada": [
        ("model.transformer.blocks.1.ff_proj.weight", "missing", "missing"),
        ("model.transformer.blocks.0.attn_out.weight", "cut", r"\(15, 16\); expected \(16, 16\)"),
        ("model.transformer.ff_out.weight", "missing", "missing"),
    ],
    "llada2": [
        ("model.layers.0.attention.query_key_value.weight", "cut", r"\(63, 16\); expected \(64, 16\)"),
        ("model.layers.1.mlp.gate.expert_bias", "missing", "missing"),
        ("model.layers.2.mlp.shared_experts.up_proj.weight", "missing", "missing"),
        ("model.layers.0.mlp.gate.weight", "extra", "a llada2 checkpoint"),
    ],
    "sdar": [("model.layers.0.self_attn.k_norm.weight", "missing", "missing")],
    "bd3lm": [
        ("backbone.sigma_map.mlp.2.weight", "cut", r"\(9, 10\); expected \(10, 10\)"),
        ("backbone.blocks.1.adaLN_modulation.bias", "missing", "missing"),
        ("backbone.output_layer.linear.bias", "cut", r"\(39,\); expected \(40,\)"),
    ],
    "sedd": [
        ("vocab_embed.embedding", "cut", r"\(39, 16\); expected \(40, 16\)"),
        ("sigma_map.mlp.2.bias", "missing", "missing"),
        ("blocks.1.adaLN_modulation.weight", "turned", r"\(10, 96\); expected \(96, 10\)"),
    ],
    "udlm": [
        ("backbone.output_layer.adaLN_modulation.bias", "cut", r"\(31,\); expected \(32,\)"),
        ("backbone.cond_map.embedding_table.weight", "extra", "a udlm checkpoint of these sizes has none"),
    ],
    "udlm_classes": [("backbone.cond_map.embedding_table.weight", "cut", r"\(3, 10\); expected \(4, 10\)")],
}

# (family, changes of config.json, what the message must say)
CONFIGS: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"num_hidden_layers": 3}, "model.layers.2.* missing"),
    (
        "llama",
        {"rope_parameters": {"rope_type": "longrope"}},
        "'longrope'; supported: 'default', 'linear', 'llama3', 'yarn'",
    ),
    ("llama", {"num_hidden_layers": 4000}, "4000; the files hold 21 tensors"),
    ("qwen2", {"num_attention_heads": 5}, "num_heads 5 is not a multiple of num_kv_heads 2"),
    ("qwen2", {"layer_types": ["full_attention"]}, "expected a list of 2 names"),
    ("qwen3_moe", {"num_experts_per_tok": 9}, "9; there are 6 experts"),
    ("gemma3", {"hidden_activation": "silu"}, "'silu'; supported: 'gelu_pytorch_tanh'"),
    ("gemma3", {"layer_types": ["chunked_attention"] * 3}, "'chunked_attention'; supported: full_attention"),
    ("gpt2", {"n_head": 3}, "3 does not divide n_embd, 16"),
    ("gpt2", {"activation_function": "relu"}, "'relu'; supported: 'gelu_new'"),
    ("llada", {"block_type": "sequential"}, "'sequential'; supported: 'llama'"),
    ("llada", {"mask_token_id": -4}, "-4; expected 0 to"),
    ("llada2", {"n_group": 3}, "8 experts in 3 groups"),
    ("llada2", {"score_function": "softmax"}, "'softmax'; supported: 'sigmoid'"),
    ("bd3lm", {"time_conditioning": True}, "True; supported: False"),
    ("sdar", {"block_size": 0}, "0; expected 1 to 4096"),
    ("sedd", {"graph": {"type": "grid"}}, "'graph.type'.*'grid'; supported: 'absorb', 'uniform'"),
    ("sedd", {"noise": {"type": "cosine"}}, "'noise.type'.*'cosine'; supported: 'loglinear', 'geometric'"),
    (
        "sedd_uniform",
        {"noise": {"type": "geometric", "sigma_min": 3, "sigma_max": 2}},
        "2.0; expected more than sigma_min, 3.0",
    ),
    ("sedd", {"graph": {"type": "uniform"}}, "'model.scale_by_sigma'.*true with uniform noise"),
    ("udlm", {"time_conditioning": False}, "False; supported: True"),
    ("udlm", {"n_heads": 3}, "3 heads of a width of 16"),
    ("udlm", {"cfg": True}, "'cfg_num_classes'.*-1; expected 1 to"),
    ("fast_dllm_v2", {"model_type": "Fast_dLLM"}, "'Fast_dLLM'; supported: 'llama'"),
]


def test_fifty_cases() -> None:
    assert sum(map(len, TENSORS.values())) + len(CONFIGS) >= 50


@pytest.mark.parametrize("name", TENSORS)
def test_tensors(name: str, tmp_path: Path) -> None:
    good = toy_folder.write(name, tmp_path)
    for tensor, how, message in TENSORS[name]:
        tensors = dict(good)
        if how == "extra":
            tensors[tensor] = np.zeros((2, 2), np.float32)
        elif how == "missing":
            del tensors[tensor]
        else:
            old = tensors[tensor]
            made = {"cut": old[:-1], "int": old.astype(np.int32), "flat": old.reshape(-1), "turned": old.T}[how]
            tensors[tensor] = np.ascontiguousarray(made)
        save_file(tensors, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match=message) as caught:
            load(tmp_path)
        assert tensor in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(("name", "change", "message"), CONFIGS)
def test_configurations(name: str, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    toy_folder.write(name, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)
