"""GGUF files written: the AR twin of a Llama, by the `gguf` package's own writer, read again by `gguf.py` and llama.cpp.

model.layers.0.self_attn.q_proj.weight   ->  blk.0.attn_q.weight, rows of q and k with neighbours rotating together
tokenizer.json                           ->  tokenizer.ggml.*
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mezzotint.checkpoints.files import whole_path
from mezzotint.checkpoints.llama import NAMES, interleaved
from mezzotint.checkpoints.load import Checkpoint
from mezzotint.checkpoints.pieces import is_byte_level
from mezzotint.checkpoints.tokenizer import PRE_TOKENIZERS, Tokenizer

TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0", "q4_1": "Q4_1"}
QUANTISED = ("q8_0", "q4_1")
BLOCK = 32  # numbers that share a scale
OURS = {ours: theirs for theirs, ours in NAMES.items()}
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # ggml's token types


def write(checkpoint: Checkpoint, path: str | Path, dtype: str) -> None:
    """Matrices in `dtype`, one of `TYPES`, vectors in float32. Rows that no block divides are kept in float16.

    Raises ValueError for what GGUF's llama has no place for, FileExistsError, OSError.
    """
    import gguf

    config = checkpoint.config
    if checkpoint.family.name != "llama" or config.variant is not None:
        raise ValueError(
            f"{checkpoint.name} is a {checkpoint.family.name} with more than a plain Llama has; GGUF is written for those only"
        )
    words = _words(checkpoint.tokenizer, config.vocab_size)
    with whole_path(path) as part:
        writer = gguf.GGUFWriter(part, "llama", use_temp_file=True)
        try:
            writer.add_name(checkpoint.name)
            if checkpoint.license:
                writer.add_license(checkpoint.license)
            writer.add_context_length(config.max_length)
            writer.add_embedding_length(config.width)
            writer.add_block_count(config.num_layers)
            writer.add_feed_forward_length(config.mlp_width)
            writer.add_head_count(config.num_heads)
            writer.add_head_count_kv(config.num_kv_heads)
            writer.add_key_length(config.head_size)
            writer.add_value_length(config.head_size)
            writer.add_rope_dimension_count(config.head_size)
            writer.add_rope_freq_base(config.rope_theta)
            writer.add_layer_norm_rms_eps(config.norm_eps)
            writer.add_vocab_size(config.vocab_size)
            writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{TYPES[dtype]}" if dtype != "float32" else "ALL_F32"])
            _tokenizer(writer, checkpoint.tokenizer, words)
            for name, tensor in checkpoint.weights():
                _tensor(gguf, writer, checkpoint, name, tensor, TYPES[dtype])
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
            if writer.temp_file is not None:  # the tensors on their way, where something went wrong
                writer.temp_file.close()


def _tensor(gguf: Any, writer: Any, checkpoint: Checkpoint, name: str, tensor: Tensor, kind: str) -> None:
    heads = {"q_proj": checkpoint.config.num_heads, "k_proj": checkpoint.config.num_kv_heads}.get(name.split(".")[-2])
    tensor = tensor.detach().to(torch.float32)
    rows = (tensor if heads is None else interleaved(tensor, heads)).contiguous().numpy()
    kind = "F32" if rows.ndim == 1 else "F16" if kind.startswith("Q") and rows.shape[-1] % BLOCK else kind
    number = re.search(r"\.(\d+)\.", name)
    theirs = OURS[re.sub(r"\.\d+\.", ".{}.", name)].format(number[1] if number else "")
    if kind == "F16" and float(np.abs(rows).max()) > 65504:
        raise ValueError(f"tensor {name!r} has numbers beyond what float16 holds; take bfloat16 or float32")
    quantised = gguf.GGMLQuantizationType[kind]
    writer.add_tensor(theirs, gguf.quants.quantize(rows, quantised), raw_dtype=quantised)


def _words(tokenizer: Tokenizer, size: int) -> list[tuple[str, int]]:
    """(token, its type) for every id; ids that no token has are filled. Raises ValueError for a tokenizer GGUF cannot say."""
    spec = tokenizer.spec
    if not is_byte_level(spec):
        raise ValueError("the tokenizer is not byte-level BPE; GGUF files are written for those alone")
    if spec.get("normalizer") is not None or spec["model"].get("ignore_merges"):
        raise ValueError("the tokenizer normalises text or ignores merges; GGUF files cannot say so")
    found = {index: (token, NORMAL) for token, index in spec["model"]["vocab"].items()}
    for token in spec.get("added_tokens") or []:
        found[token["id"]] = (token["content"], CONTROL if token.get("special") else USER_DEFINED)
    return [found.get(index, (f"[PAD{index}]", UNUSED)) for index in range(size)]


def _tokenizer(writer: Any, tokenizer: Tokenizer, words: list[tuple[str, int]]) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre(tokenizer))
    writer.add_token_list([token for token, _ in words])
    writer.add_token_types([kind for _, kind in words])
    merges = tokenizer.spec["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    for name, add in ((tokenizer.bos, writer.add_bos_token_id), (tokenizer.pad, writer.add_pad_token_id)):
        if name is not None:
            add(tokenizer.id(name))
    if tokenizer.eos_ids:
        writer.add_eos_token_id(tokenizer.eos_ids[0])
    if len(tokenizer.eos_ids) > 1:
        writer.add_eot_token_id(tokenizer.eos_ids[1])
    writer.add_add_bos_token(False)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)


def _pre(tokenizer: Tokenizer) -> str:
    """GGUF's name of the pre-tokenizer. Raises ValueError for one that we could not read again."""
    own = _meaning(tokenizer.spec.get("pre_tokenizer"))
    for name, known in PRE_TOKENIZERS.items():
        if _meaning(known) == own:
            return name
    raise ValueError(f"the pre-tokenizer has no name in GGUF that is known here; known: {', '.join(PRE_TOKENIZERS)}")


def _meaning(value: Any) -> Any:
    """A pre-tokenizer without what does not change how text is split."""
    if isinstance(value, list):
        return [_meaning(item) for item in value]
    if not isinstance(value, dict):
        return value
    told = {key: _meaning(item) for key, item in value.items() if key != "trim_offsets"}
    return {"use_regex": True, "add_prefix_space": True, **told} if told.get("type") == "ByteLevel" else told
