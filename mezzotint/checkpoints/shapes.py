"""The tensors that a network of given sizes needs: our name -> shape. Ours are Hugging Face's Llama's where it has one."""

from __future__ import annotations

from functools import lru_cache

import torch

from mezzotint.model import condition
from mezzotint.model.config import ModelConfig

Shape = tuple[int, ...]


@lru_cache(maxsize=8)
def shapes(config: ModelConfig) -> dict[str, Shape]:
    """Our name -> shape of every tensor, no more and no fewer. Not to be changed by callers."""
    if config.variant is None:
        return _llama(config)
    from mezzotint.model.denoiser import Denoiser

    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in Denoiser(config).slots().items()}


def _llama(config: ModelConfig) -> dict[str, Shape]:
    """Without building anything: a damaged file may declare thousands of layers."""
    c = config
    q, kv = c.num_heads * c.head_size, c.num_kv_heads * c.head_size
    found: dict[str, Shape] = {"model.embed_tokens.weight": (c.vocab_size, c.width)}
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
