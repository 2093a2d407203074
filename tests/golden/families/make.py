"""Record what a family's reference implementation says of a tiny checkpoint in its layout.

    python make.py FAMILY... [--ref FOLDER]     FOLDER: scratch folder with the family's own modelling files, unmodified

The reference writes config.json and the tensors' names and shapes (its own save_pretrained); the numbers are replaced by
those of `toy.py`, read back by its own loader, and its logits recorded. The golden names file, repository, commit and
SHA-256 of what was run. Families that transformers has run on the installed one, whose release and file are named; the
others need the version that their files were written for (4.57), which the golden names too.
"""

# ruff: noqa: C408  # configurations are written as calls, as their own files write them

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.machinery
import inspect
import json
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.numpy import save_file
from toy import checksum, weights

HERE = Path(__file__).parent
V = 40  # vocabulary of most; the last id is MASK
MASK = V - 1
TEXT = [3, 17, 8, 30, 5, 22, 11, 36, 2, 27, 14, 9]

Mode = dict[str, Any]


def tiny(
    cls: Any, config: Any, folder: Path, fix: Callable[[Any], None] | None = None
) -> tuple[Any, dict[str, list[int]]]:
    """(the model with toy weights, as its own loader read them; name -> shape, as its own writer wrote them)."""
    torch.manual_seed(0)
    model = cls(config).eval()
    model.save_pretrained(folder)
    shapes: dict[str, list[int]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "np") as stored:
            kept = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  # a file is no dict
        named = {name: list(tensor.shape) for name, tensor in kept.items()}
        toys = weights(named)
        for name in named:
            if "inv_freq" in name or "sampling_eps" in name:
                toys[name] = kept[name]
        save_file(toys, file, {"format": "pt"})
        shapes |= named
    model = cls.from_pretrained(folder, config=config) if fix is None else cls(config)
    if fix is not None:
        tensors = {n: torch.from_numpy(a) for f in folder.glob("*.safetensors") for n, a in load(f).items()}
        unexpected = model.load_state_dict(tensors, strict=False).unexpected_keys
        assert not unexpected, unexpected
        fix(model)
    return model.eval().float(), shapes


def load(file: Path) -> dict[str, np.ndarray]:
    with safe_open(file, "np") as stored:
        return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  # a file is no dict


def table(logits: torch.Tensor) -> list[list[float]]:
    """`[T, V]` to five decimals."""
    return [[round(x, 5) for x in row] for row in logits.double().tolist()]


def ids(tokens: list[int]) -> torch.Tensor:
    return torch.tensor([tokens])


def bias(seen: torch.Tensor) -> torch.Tensor:
    """bool `[T, S]` -> what is added to the scores."""
    return torch.where(seen, 0.0, torch.finfo(torch.float32).min)[None, None]


def canvas_seen(context: int, canvas: int, window: int | None = None) -> torch.Tensor:
    """Causal context, a canvas that sees all of itself and the context (of a window, its last so many but one)."""
    q, k = torch.arange(context + canvas)[:, None], torch.arange(context + canvas)
    start = torch.where(q < context, q, context)
    seen = torch.where(q < context, k <= q, True)
    return seen if window is None else seen & (start - k < window)


def causal_modes(model: Any, masks: Callable[[int, int], Any] | None = None) -> list[Mode]:
    """The AR pass, the same through the reference's own cache, and a canvas behind a context."""
    whole = model(ids(TEXT)).logits[0]
    first = model(ids(TEXT[:5]), use_cache=True)
    past = getattr(first, "cache", None) or first.past_key_values
    key = "cache" if getattr(first, "cache", None) is not None else "past_key_values"
    rest = [model(ids([token]), use_cache=True, **{key: past}).logits[0, -1] for token in TEXT[5:]]
    assert float((torch.stack(rest) - whole[5:]).abs().max()) < 1e-4, "the reference disagrees with itself"
    found = [{"mode": "causal", "tokens": TEXT, "logits": table(whole)}]
    if masks is not None:
        logits = model(ids(TEXT), attention_mask=masks(7, 5)).logits[0, 7:]
        found.append({"mode": "canvas", "context": TEXT[:7], "canvas": TEXT[7:], "logits": table(logits)})
    return found


SIZES: dict[str, Any] = {
    "vocab_size": V, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "pad_token_id": None,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip


def plain(context: int, canvas: int) -> torch.Tensor:
    return bias(canvas_seen(context, canvas))


def windowed(context: int, canvas: int) -> dict[str, torch.Tensor]:
    """By the name of a layer's kind, as transformers takes masks of networks that have two."""
    return {"full_attention": plain(context, canvas), "sliding_attention": bias(canvas_seen(context, canvas, 4))}


def llama(folder: Path, ref: Path | None) -> tuple[Any, dict[str, list[int]], list[Mode]]:
    rope = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16}  # fmt: skip
    config = transformers.LlamaConfig(**SIZES, tie_word_embeddings=False, rope_parameters=rope)
    model, shapes = tiny(transformers.LlamaForCausalLM, config, folder)
    return model, shapes, causal_modes(model, plain)


def qwen2(folder: Path, ref: Path | None) -> tuple[Any, dict[str, list[int]], list[Mode]]:
    config = transformers.Qwen2Config(
        **SIZES, tie_word_embeddings=True, rope_parameters={"rope_theta": 1e6, "rope_type": "default"}
    )
    model, shapes = tiny(transformers.Qwen2ForCausalLM, config, folder)
    return model, shapes, causal_modes(model, plain)


def qwen2_window(folder: Path, ref: Path | None) -> tuple[Any, dict[str, list[int]], list[Mode]]:
    config = transformers.Qwen2Config(
        **SIZES, tie_word_embeddings=False, use_sliding_window=True, sliding_window=4, max_window_layers=1
    )
    model, shapes = tiny(transformers.Qwen2ForCausalLM, config, folder)
    return model, shapes, causal_modes(model, windowed)


def qwen3(folder: Path, ref: Path | None) -> tuple[Any, dict[str, list[int]], list[Mode]]:
    config = transformers.Qwen3Config(**SIZES, head_dim=8, tie_word_embeddings=True)
    model, shapes = tiny(transformers.Qwen3ForCausalLM, config, folder)
    return model, shapes, causal_modes(model, plain)


def qwen3_moe(folder: Path, ref: Path | None) -> tuple[Any, dict[str, list[int]], list[Mode]]:
    config = transformers.Qwen3MoeConfig(
        **SIZES, head_dim=8, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=12, norm_topk_prob=True,
        decoder_sparse_step=1, mlp_only_layers=[], tie_word_embeddings=False,
    )  # fmt: skip
    model, shapes = tiny(transformers.Qwen3MoeForCausalLM, config, folder)
    return model, shapes, causal_modes(model, plain)


def ministral3(folder: Path, ref: Path | None) -> tuple[Any, dict[str, list[int]], list[Mode]]:
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 32.0,
            "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1}  # fmt: skip
    config = transformers.Ministral3Config(**SIZES | {"max_position_embeddings": 128}, head_dim=8, rope_parameters=rope)
    model, shapes = tiny(transformers.Ministral3ForCausalLM, config, folder)
    return model, shapes, causal_modes(model, plain)


def gemma3(folder: Path, ref: Path | None) -> tuple[Any, dict[str, list[int]], list[Mode]]:
    rope = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    config = transformers.Gemma3TextConfig(
        **SIZES | {"num_hidden_layers": 3, "pad_token_id": 0}, head_dim=8, query_pre_attn_scalar=12, sliding_window=4,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"], rope_parameters=rope,
    )  # fmt: skip
    model, shapes = tiny(transformers.Gemma3ForCausalLM, config, folder)
    return model, shapes, causal_modes(model, windowed)


def gpt2(folder: Path, ref: Path | None) -> tuple[Any, dict[str, list[int]], list[Mode]]:
    config = transformers.GPT2Config(
        vocab_size=V, n_embd=16, n_layer=2, n_head=4, n_positions=32, bos_token_id=None, eos_token_id=None
    )
    model, shapes = tiny(transformers.GPT2LMHeadModel, config, folder)
    return model, shapes, causal_modes(model, plain)


def diffusion_gemma(folder: Path, ref: Path | None) -> tuple[Any, dict[str, list[int]], list[Mode]]:
    text = dict(
        vocab_size=V, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=128, sliding_window=6, num_experts=4, top_k_experts=2,
        moe_intermediate_size=12, global_head_dim=12, num_global_key_value_heads=1,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"], eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    vision = dict(
        model_type="gemma4_vision", hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    config = transformers.DiffusionGemmaConfig(text_config=text, vision_config=vision, canvas_length=8)
    model, shapes = tiny(transformers.DiffusionGemmaForBlockDiffusion, config, folder)
    context, canvas = TEXT, [31, 4, 19, 7, 25, 33, 12, 6]  # the context is longer than the window
    encoded = model.model.encoder(ids(context))
    causal = model.lm_head(encoded.last_hidden_state)[0]
    causal = torch.tanh(causal / 30.0) * 30.0
    first = model(decoder_input_ids=ids(canvas), cache=encoded.cache).logits
    second = model(
        decoder_input_ids=ids(canvas[::-1]), cache=encoded.cache, self_conditioning_logits=first / 0.7
    ).logits
    modes = [
        {"mode": "causal", "tokens": context, "logits": table(causal)},
        {"mode": "canvas", "context": context, "canvas": canvas, "logits": table(first[0])},
        {"mode": "feedback", "context": context, "canvas": canvas, "next": canvas[::-1], "temperature": 0.7,
         "logits": table(second[0])},
    ]  # fmt: skip
    return model, shapes, modes


# -- families that bring their own modelling file ------------------------------------------------------------------------


def package(folder: Path, name: str = "reference") -> str:
    """Make a folder importable as a package, so that its files' relative imports work; -> the package's name."""
    made = types.ModuleType(name)
    made.__path__ = [str(folder)]  # type: ignore[attr-defined]  # what makes a module a package
    sys.modules[name] = made
    return name


def full_modes(model: Any) -> list[Mode]:
    return [{"mode": "full", "tokens": TEXT, "logits": table(model(ids(TEXT)).logits[0])}]


def block_seen(length: int, size: int) -> torch.Tensor:
    block = torch.arange(length) // size
    return block[:, None] >= block


def old(**changes: Any) -> dict[str, Any]:
    """Sizes for configuration classes of transformers 4."""
    sizes = {key: value for key, value in SIZES.items() if value is not None}
    return sizes | {"rope_theta": 1e4} | changes


def dream(folder: Path, ref: Path | None) -> tuple[Any, dict[str, list[int]], list[Mode]]:
    name = package(ref / "dream/model")
    config = importlib.import_module(name + ".configuration_dream").DreamConfig(
        **old(mask_token_id=MASK, pad_token_id=0)
    )
    cls = importlib.import_module(name + ".modeling_dream").DreamModel
    model, shapes = tiny(cls, config, folder, fix=lambda model: None)
    modes = [{"mode": "full", "tokens": TEXT, "logits": table(model(ids(TEXT), "full").logits[0])}]
    return model, shapes, modes


def llada(folder: Path, ref: Path | None) -> tuple[Any, dict[str, list[int]], list[Mode]]:
    name = package(ref / "dllm/pipelines/llada/models")
    module = importlib.import_module(name + ".modeling_llada")
    config = importlib.import_module(name + ".configuration_llada").LLaDAConfig(
        d_model=16, n_heads=4, n_kv_heads=4, n_layers=2, mlp_hidden_size=24, activation_type="silu", block_type="llama",
        rope=True, layer_norm_type="rms", rms_norm_eps=1e-5, max_sequence_length=64, rope_theta=5e5, include_bias=False,
        include_qkv_bias=False, bias_for_layer_norm=False, vocab_size=V, embedding_size=V, weight_tying=False,
        mask_token_id=MASK, eos_token_id=1, pad_token_id=1, attention_dropout=0.0, residual_dropout=0.0,
        embedding_dropout=0.0, init_device="cpu", multi_query_attention=None, alibi=False,
    )  # fmt: skip
    made = module.create_model_config_from_pretrained_config(config)
    made.init_device = "cpu"  # its wrapper insists on CUDA unless it is given a model

    class OnCPU(module.LLaDAModelLM):  # type: ignore[misc, name-defined]  # a class of a file that is read here
        def __init__(self, config: Any) -> None:
            super().__init__(config, module.LLaDAModel(made))

    model, shapes = tiny(OnCPU, config, folder, fix=lambda model: None)
    return model, shapes, full_modes(model)


def llada2(folder: Path, ref: Path | None) -> tuple[Any, dict[str, list[int]], list[Mode]]:
    name = package(ref / "dllm/pipelines/llada2/models")
    config = importlib.import_module(name + ".configuration_llada2_moe").LLaDA2MoeConfig(
        **old(head_dim=8, num_hidden_layers=3), num_experts=8, num_experts_per_tok=3, n_group=4, topk_group=2,
        moe_intermediate_size=12, num_shared_experts=1, first_k_dense_replace=1, partial_rotary_factor=0.5,
        use_bias=False, pad_token_id=0,
    )  # fmt: skip
    cls = importlib.import_module(name + ".modeling_llada2_moe").LLaDA2MoeModelLM
    model, shapes = tiny(cls, config, folder, fix=lambda model: None)
    logits = model(ids(TEXT), attention_mask=block_seen(12, 4)[None, None]).logits[0]
    return model, shapes, [{"mode": "blocks", "size": 4, "tokens": TEXT, "logits": table(logits)}]


def stand_ins() -> None:
    """What files import and a CPU does not have: flash-attn's kernels by their definitions, triton by name alone."""

    def module(name: str, **members: Any) -> types.ModuleType:
        made = types.ModuleType(name)
        made.__dict__.update(members)
        made.__spec__ = importlib.machinery.ModuleSpec(name, None)
        made.__path__ = []  # type: ignore[attr-defined]  # what makes a module a package
        sys.modules[name] = made
        return made

    def rms_norm_fn(x: torch.Tensor, weight: torch.Tensor, bias: None, eps: float) -> torch.Tensor:
        return torch.nn.functional.rms_norm(x, x.shape[-1:], weight, eps)

    def flash_attn_func(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> torch.Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=softmax_scale, enable_gqa=True)
        return mixed.transpose(1, 2)

    def packed(qkv: torch.Tensor, ends: torch.Tensor, longest: int, dropout: float, causal: bool) -> torch.Tensor:
        """qkv `[B * T, 3, H, D]`, texts of equal length."""
        assert not dropout and not causal
        q, k, v = (x.transpose(1, 2) for x in qkv.view(-1, longest, *qkv.shape[1:]).unbind(2))
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return mixed.transpose(1, 2).flatten(0, 1)

    def turned(qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """q and k of `[B, T, 3, H, D]` turned by angles of cosines and sines `[T, D / 2]`, v as it is."""
        first, second = qkv[:, :, :2].chunk(2, -1)
        cos, sin = (x[:, None, None] for x in (cos, sin))
        qk = torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
        return torch.cat((qk, qkv[:, :, 2:]), 2)

    flash = module("flash_attn", flash_attn_func=flash_attn_func, flash_attn_varlen_func=None)
    for name in ("flash_attn.ops", "flash_attn.ops.triton"):
        module(name)
    interface = module("flash_attn.flash_attn_interface", flash_attn_varlen_qkvpacked_func=packed)
    flash.layers = module("flash_attn.layers")
    flash.layers.rotary = module("flash_attn.layers.rotary", apply_rotary_emb_qkv_=turned)
    flash.flash_attn_interface = interface
    module("flash_attn.ops.triton.layer_norm", rms_norm_fn=rms_norm_fn)
    module("flash_attn.bert_padding", index_first_axis=None, pad_input=None, unpad_input=None)
    if not hasattr(transformers.utils, "LossKwargs"):
        transformers.utils.LossKwargs = transformers.utils.TransformersKwargs
    for name in ("SlidingWindowCache", "StaticCache"):
        if not hasattr(transformers.cache_utils, name):
            setattr(transformers.cache_utils, name, object)


def sdar(folder: Path, ref: Path | None) -> tuple[Any, dict[str, list[int]], list[Mode]]:
    stand_ins()
    name = package(ref / "training/model/SDAR-4B-Chat")
    sys.modules[name + ".fused_linear_diffusion_cross_entropy"] = types.ModuleType(
        "loss"
    )  # training only, needs triton
    sys.modules[name + ".fused_linear_diffusion_cross_entropy"].FusedLinearDiffusionCrossEntropyLoss = None
    config = importlib.import_module(name + ".configuration_sdar").SDARConfig(
        **old(head_dim=8), block_size=4, mask_token_id=MASK, fuse_cross_entropy=False
    )
    cls = importlib.import_module(name + ".modeling_sdar").SDARForCausalLM
    model, shapes = tiny(cls, config, folder, fix=lambda model: None)
    logits = model(ids(TEXT), attention_mask=block_seen(12, 4)[None, None], position_ids=torch.arange(12)[None]).logits[
        0
    ]
    return model, shapes, [{"mode": "blocks", "size": 4, "tokens": TEXT, "logits": table(logits)}]


def sdar_moe(folder: Path, ref: Path | None) -> tuple[Any, dict[str, list[int]], list[Mode]]:
    stand_ins()
    name = package(ref / SDAR_MOE)
    config = importlib.import_module(name + ".configuration_sdar_moe").SDARMoeConfig(
        **old(head_dim=8), num_experts=6, num_experts_per_tok=2, moe_intermediate_size=12, norm_topk_prob=True,
        decoder_sparse_step=1, mlp_only_layers=[], block_size=4, mask_token_id=MASK,
    )  # fmt: skip
    cls = importlib.import_module(name + ".modeling_sdar_moe").SDARMoeForCausalLM
    model, shapes = tiny(cls, config, folder, fix=lambda model: None)
    seen, positions = block_seen(12, 4)[None, None], torch.arange(12)[None]
    logits = model(ids(TEXT), attention_mask=seen, position_ids=positions).logits[0]
    return model, shapes, [{"mode": "blocks", "size": 4, "tokens": TEXT, "logits": table(logits)}]


def fast_dllm_v2(folder: Path, ref: Path | None) -> tuple[Any, dict[str, list[int]], list[Mode]]:
    name = package(ref / "FastDLLM_inferencing/Fast_dLLM_v2_7B")
    config = importlib.import_module(name + ".configuration").Fast_dLLM_QwenConfig(
        **old(bd_size=8, pad_token_id=0), tie_word_embeddings=False
    )
    cls = importlib.import_module(name + ".modeling").Fast_dLLM_QwenForCausalLM
    model, shapes = tiny(cls, config, folder, fix=lambda model: None)
    logits = model(ids(TEXT), block_size=4).logits[0]
    return model, shapes, [{"mode": "blocks", "size": 4, "tokens": TEXT, "logits": table(logits)}]


def a2d(folder: Path, ref: Path | None) -> tuple[Any, dict[str, list[int]], list[Mode]]:
    name = package(ref / "dllm/pipelines/a2d/models/qwen3")
    module = importlib.import_module(name + ".modeling_qwen3")
    config = module.A2DQwen3Config(**old(head_dim=8), tie_word_embeddings=True)
    model, shapes = tiny(module.A2DQwen3LMHeadModel, config, folder)
    modes = full_modes(model)
    logits = model(ids(TEXT), attention_mask=block_seen(12, 4)[None, None], position_ids=torch.arange(12)[None]).logits[
        0
    ]
    return model, shapes, [*modes, {"mode": "blocks", "size": 4, "tokens": TEXT, "logits": table(logits)}]


def bd3lm(folder: Path, ref: Path | None) -> tuple[Any, dict[str, list[int]], list[Mode]]:
    name = package(ref / "models/hf")
    make = importlib.import_module(name + ".configuration_bd3lm").BD3LMConfig
    cls = importlib.import_module(name + ".modeling_bd3lm").BD3LM
    sizes = dict(
        block_size=4, vocab_size=V, model_length=12, hidden_dim=16, cond_dim=10, n_blocks=2, n_heads=2, dropout=0.0
    )
    model, shapes = tiny(cls, make(**sizes, cross_attn=True, attn_backend="sdpa"), folder, fix=lambda model: None)
    level = torch.tensor([0.3])  # which it does not hear
    logits = model(ids(TEXT), level, sample_mode=True).logits[0]
    modes = [{"mode": "blocks", "size": 4, "tokens": TEXT, "logits": table(logits)}]
    with tempfile.TemporaryDirectory() as other:
        alone, _ = tiny(cls, make(**sizes, cross_attn=False, attn_backend="sdpa"), Path(other), fix=lambda model: None)
    model.alone = alone  # the same weights without blocks (MDLM)
    return model, shapes, [*modes, {"mode": "full", "tokens": TEXT, "logits": table(alone(ids(TEXT), level).logits[0])}]


def level_modes(say: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], text: list[int]) -> list[Mode]:
    """The same text told two levels of noise."""
    return [
        {"mode": "level", "sigma": sigma, "tokens": text, "logits": table(say(ids(text), torch.tensor([sigma]))[0])}
        for sigma in (0.3, 2.5)
    ]


def sedd_config(graph: str) -> dict[str, Any]:
    """As its configs/config.yaml and configs/model/small.yaml, smaller."""
    masks = graph == "absorb"
    return {
        "ngpus": 8, "tokens": V - masks, "graph": {"type": graph, "file": "data", "report_all": False},
        "noise": {"type": "loglinear" if masks else "geometric", "sigma_min": 1e-4, "sigma_max": 20},
        "sampling": {"predictor": "euler", "steps": 128, "noise_removal": True},
        "model": {
            "name": "small", "type": "ddit", "hidden_size": 16, "cond_dim": 10, "length": 18, "n_blocks": 2, "n_heads": 2,
            "scale_by_sigma": masks, "dropout": 0.0,
        },
    }  # fmt: skip


def sedd(folder: Path, ref: Path | None, graph: str = "absorb") -> tuple[Any, dict[str, list[int]], list[Mode]]:
    stand_ins()
    sys.path.insert(0, str(ref))
    cls = importlib.import_module("model.transformer").SEDD
    model, shapes = tiny(cls, sedd_config(graph), folder, fix=lambda model: None)
    text = [MASK if i in (1, 4, 5, 10) else token for i, token in enumerate(TEXT)] if graph == "absorb" else TEXT
    return model, shapes, level_modes(model, text)


def sedd_uniform(folder: Path, ref: Path | None) -> tuple[Any, dict[str, list[int]], list[Mode]]:
    return sedd(folder, ref, "uniform")


def udlm(folder: Path, ref: Path | None, classes: int = 0) -> tuple[Any, dict[str, list[int]], list[Mode]]:
    stand_ins()
    name = package(ref / "models/hf")
    config = importlib.import_module(name + ".configuration_udlm").UDLMConfig(
        vocab_size=V, model_length=18, hidden_dim=16, cond_dim=10, n_blocks=2, n_heads=2, dropout=0.0,
        time_conditioning=True, cfg=bool(classes), cfg_num_classes=classes or -1,
    )  # fmt: skip
    cls = importlib.import_module(name + ".modeling_udlm").UDLM
    model, shapes = tiny(cls, config, folder, fix=lambda model: None)
    if not classes:
        return model, shapes, level_modes(lambda x, sigma: model(x, sigma).logits, TEXT)
    modes = []
    for label in (1, classes):  # the last is the null
        said = model(ids(TEXT), torch.tensor([0.7]), cond=torch.tensor([label])).logits[0]
        modes.append({"mode": "level", "sigma": 0.7, "class": label, "tokens": TEXT, "logits": table(said)})
    return model, shapes, modes


def udlm_classes(folder: Path, ref: Path | None) -> tuple[Any, dict[str, list[int]], list[Mode]]:
    return udlm(folder, ref, 3)


SEDD = ("louaaron/Score-Entropy-Discrete-Diffusion", "0605786da5ccb5747545e26d66fdf477187598b6",
        ("model/transformer.py", "model/rotary.py", "model/fused_add_dropout_scale.py"))  # fmt: skip
UDLM = ("kuleshov-group/discrete-diffusion-guidance", "edb0f8c28b7caeb4ea7a06a2fee8d74ab6da1661",
        ("models/hf/modeling_udlm.py", "models/hf/configuration_udlm.py"))  # fmt: skip
SDAR_MOE = "SDAR/evaluation/opencompass/configs/sdar_local_models"

# family -> (what makes it, where its code is from: repository, commit, files; None: transformers)
FAMILIES: dict[str, tuple[Callable[..., Any], tuple[str, str, tuple[str, ...]] | None]] = {
    "llama": (llama, None), "qwen2": (qwen2, None), "qwen2_window": (qwen2_window, None), "qwen3": (qwen3, None),
    "qwen3_moe": (qwen3_moe, None), "ministral3": (ministral3, None), "gemma3": (gemma3, None), "gpt2": (gpt2, None),
    "diffusion_gemma": (diffusion_gemma, None),
    "dream": (dream, ("NVlabs/Fast-dLLM", "24cc59e75f20a6384bae8c905965bb090b96388e",
        ("dream/model/modeling_dream.py", "dream/model/configuration_dream.py", "dream/model/generation_utils.py"))),
    "llada": (llada, ("ZHZisZZ/dllm", "ca176752fbceec49c6b4777a2c18ae88e4eb10ed",
        ("dllm/pipelines/llada/models/modeling_llada.py", "dllm/pipelines/llada/models/configuration_llada.py"))),
    "llada2": (llada2, ("ZHZisZZ/dllm", "ca176752fbceec49c6b4777a2c18ae88e4eb10ed",
        ("dllm/pipelines/llada2/models/modeling_llada2_moe.py", "dllm/pipelines/llada2/models/configuration_llada2_moe.py"))),
    "sdar": (sdar, ("JetAstra/SDAR", "c2041a8333333d685f6e15122c84f60f51f85ebd",
        ("training/model/SDAR-4B-Chat/modeling_sdar.py", "training/model/SDAR-4B-Chat/configuration_sdar.py"))),
    "sdar_moe": (sdar_moe, ("linyewei526/dLLM-ARIS-1", "5fc3f3cc67faba117b9385f4553d0a95b473513d",
        (f"{SDAR_MOE}/modeling_sdar_moe.py", f"{SDAR_MOE}/configuration_sdar_moe.py"))),
    "fast_dllm_v2": (fast_dllm_v2, ("Satgoy152/DualDiffusion", "9587d1e437cbb6301f2eb5d018e18f86cbe823e2",
        tuple(f"FastDLLM_inferencing/Fast_dLLM_v2_7B/{name}.py" for name in ("modeling", "configuration")))),
    "a2d": (a2d, ("ZHZisZZ/dllm", "ca176752fbceec49c6b4777a2c18ae88e4eb10ed",
        ("dllm/pipelines/a2d/models/qwen3/modeling_qwen3.py",))),
    "bd3lm": (bd3lm, ("kuleshov-group/bd3lms", "1c3e8f43d88dfbcee5ff2aa6932a9e74b31ae1d7",
        ("models/hf/modeling_bd3lm.py", "models/hf/configuration_bd3lm.py"))),
    "sedd": (sedd, SEDD), "sedd_uniform": (sedd_uniform, SEDD), "udlm": (udlm, UDLM), "udlm_classes": (udlm_classes, UDLM),
}  # fmt: skip


def make(family: str, ref: Path | None) -> None:
    run, source = FAMILIES[family]
    reference: dict[str, Any] = {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]}
    if source is not None:
        assert ref is not None, f"{family} needs --ref, a checkout of {source[0]} at {source[1]}"
        digests = {name: hashlib.sha256((ref / name).read_bytes()).hexdigest() for name in source[2]}
        reference |= {"repository": source[0], "commit": source[1], "sha256": digests}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        model, shapes, modes = run(Path(folder), ref)
        if source is None:  # of the release that is installed
            file = Path(inspect.getsourcefile(type(model)) or "")
            name = f"src/transformers/{file.relative_to(Path(transformers.__file__).parent).as_posix()}"
            reference |= {"release": f"huggingface/transformers v{transformers.__version__}"}
            reference |= {"sha256": {name: hashlib.sha256(file.read_bytes()).hexdigest()}}
        config = json.loads((Path(folder) / "config.json").read_text())
    path = HERE / f"{family}.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    golden = {
        "family": family, "reference": reference | {"class": type(model).__mro__[0].__name__}, "config": config,
        "tensors": shapes, "checksum": checksum(weights(shapes)), "modes": modes,
    }  # fmt: skip
    golden |= {"samplers": before["samplers"]} if "samplers" in before else {}
    path.write_text(compact(golden))
    print(f"{path.name}: {path.stat().st_size} bytes, {len(shapes)} tensors, {len(modes)} modes")


def compact(golden: dict[str, Any]) -> str:
    """JSON with one line for each row of numbers."""
    text = json.dumps(golden, indent=1)
    lines, row = [], ""
    for line in text.splitlines():
        inner = line.strip()
        if row or inner.endswith("["):
            row += inner if not row.endswith(",") else " " + inner
            if inner.endswith(("]", "],")) and row.count("[") == row.count("]"):
                lines.append(" " + row)
                row = ""
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="+", choices=FAMILIES)
    parser.add_argument("--ref", type=Path)
    given = parser.parse_args()
    for name in given.families:
        make(name, given.ref)
