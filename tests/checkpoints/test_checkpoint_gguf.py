"""GGUF: dequantisers against the reference package, the tiny file against its twin, and each guard by name."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny_checkpoint
import torch
from gguf import GGMLQuantizationType as Q
from gguf import quants

from mezzotint.checkpoints.errors import CheckpointError
from mezzotint.checkpoints.gguf import DEQUANTISERS, MAX_OBJECTS, TYPES, read_gguf
from mezzotint.checkpoints.llama import half_split, interleaved
from mezzotint.checkpoints.load import load


def test_block_sizes_are_the_reference_s() -> None:
    for number, (name, block, size) in TYPES.items():
        assert (Q(number).name, *gguf.GGML_QUANT_SIZES[Q(number)]) == (name, block, size)


@pytest.mark.parametrize("name", DEQUANTISERS)
def test_dequantisers_equal_the_reference(name: str) -> None:
    values = np.random.default_rng(1).normal(size=(64, 96)).astype(np.float32) * np.logspace(-6, 4, 64)[:, None]
    raw = values.astype(np.float32) if name == "F32" else quants.quantize(values.astype(np.float32), Q[name])
    ours = DEQUANTISERS[name](np.ascontiguousarray(raw).view(np.uint8).reshape(-1))
    assert ours.dtype == np.float32
    assert np.array_equal(ours.reshape(values.shape), quants.dequantize(raw, Q[name]))


def test_any_bytes_dequantise_as_in_the_reference() -> None:
    """Infinite, absent and denormal scales included."""
    random = np.random.default_rng(2)
    for name, size in (("Q4_1", 20), ("Q8_0", 34), ("F16", 2), ("BF16", 2)):
        raw = random.integers(0, 256, size=(1, size * 3000), dtype=np.uint8)
        with np.errstate(all="ignore"):
            theirs = quants.dequantize(raw.view(np.float16) if name == "F16" else raw, Q[name])
            ours = DEQUANTISERS[name](raw.reshape(-1))
        assert np.array_equal(ours, theirs.reshape(-1), equal_nan=True)


def test_rotary_rows_are_put_back() -> None:
    rows = torch.arange(4 * 8)[:, None].expand(-1, 3).contiguous()
    paired = torch.from_numpy(tiny_checkpoint.pair_up(rows.numpy(), 4))
    assert torch.equal(half_split(paired, 4), rows)
    assert torch.equal(interleaved(rows, 4), paired)


def test_tiny_gguf_equals_its_safetensors_twin(tiny: tuple[Path, Path]) -> None:
    a, b = load(tiny[0]), load(tiny[1])
    assert a.config == b.config == tiny_checkpoint.CONFIG
    left, right = dict(a.weights()), dict(b.weights())
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name
    for text in ("the thing and 1234 <|im_end|>", "é\n\t 日本", ""):
        assert a.tokenizer.encode(text) == b.tokenizer.encode(text)
    assert a.facts == b.facts
    assert a.facts.control_ids == {"MASK": 3, "DELETE": 4, "INSERT": 5, "EXPAND": 6}


def test_untied_head(tmp_path: Path) -> None:
    weights = tiny_checkpoint.write_gguf(tmp_path / "untied.gguf", tied=False)
    checkpoint = load(tmp_path / "untied.gguf")
    assert not checkpoint.config.tied_head
    assert torch.equal(dict(checkpoint.weights())["lm_head.weight"], weights["lm_head.weight"])


def test_metadata_kinds(tiny: tuple[Path, Path]) -> None:
    file = read_gguf(tiny[0])
    assert file.metadata["general.name"] == "tiny"
    assert [list(row) for row in file.metadata["test.nested"]] == [[1, 2], [3]]
    assert file.metadata["tokenizer.ggml.tokens"] == tiny_checkpoint.TOKENS


def test_real_tensors_equal_the_reference(base: object) -> None:
    from mezzotint.checkpoints.load import Checkpoint

    assert isinstance(base, Checkpoint)
    ours = read_gguf(base.source)
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(base.source).tensors}
    for name in ("blk.0.attn_q.weight", "blk.29.ffn_down.weight", "output_norm.weight"):
        expected = quants.dequantize(theirs[name].data, theirs[name].tensor_type)
        assert np.array_equal(ours.tensor(name).numpy(), expected)
    rows = theirs["token_embd.weight"]
    assert np.array_equal(
        ours.tensor("token_embd.weight")[:64].numpy(), quants.dequantize(rows.data[:64], rows.tensor_type)
    )


# -- guards: one small bad file each -------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def entry(name: str, dims: list[int], kind: int, offset: int) -> bytes:
    return (
        text(name)
        + struct.pack("<I", len(dims))
        + struct.pack(f"<{len(dims)}Q", *dims)
        + struct.pack("<IQ", kind, offset)
    )


def head(num_tensors: int, num_keys: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_keys)


def with_data(table: bytes, size: int) -> bytes:
    return table + b"\0" * (-len(table) % 32) + b"\1" * size


HUGE = (1 << 64) - 1
ARRAY_OF = struct.pack("<II", 9, 9)
BAD = {
    "empty": (b"", "header", 0),
    "magic": (b"GGML" + bytes(60), "magic", 0),
    "version": (head(0, 0, 1) + bytes(60), "version", 4),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + bytes(60), "version", 4),
    "tensor count": (head(HUGE, 0) + bytes(60), "tensor count", 8),
    "metadata count": (head(0, 1 << 40) + bytes(60), "metadata count", 16),
    "key length": (head(0, 1) + struct.pack("<Q", HUGE) + bytes(60), "length of metadata key 0", 24),
    "string length": (head(0, 1) + text("k") + struct.pack("<IQ", 8, 1 << 62), "length of metadata 'k'", 37),
    "not UTF-8": (head(0, 1) + text("k") + struct.pack("<IQ", 8, 2) + b"a\xff", "metadata 'k'", 46),
    "value type": (head(0, 1) + text("k") + struct.pack("<IQ", 99, 0), "type of metadata 'k'", 33),
    "bool": (head(0, 1) + text("k") + struct.pack("<IB", 7, 3), "metadata 'k'", 37),
    "array count": (head(0, 1) + text("k") + struct.pack("<IIQ", 9, 4, HUGE // 4) + bytes(9), "count of metadata 'k'", 41),
    "array of strings": (
        head(0, 1) + text("k") + struct.pack("<IIQQ", 9, 8, 1, 1 << 63), "length of metadata 'k'[0]", 49
    ),
    "nested count": (
        head(0, 1) + text("k") + ARRAY_OF + struct.pack("<QIQ", 1, 9, 1 << 50) + bytes(20), "count of metadata 'k'[0]", 53
    ),
    "nested depth": (
        head(0, 1) + text("k") + ARRAY_OF + struct.pack("<QI", 1, 9) * 5 + bytes(50), "metadata 'k'[0][0][0]", 73
    ),
    "key twice": (head(0, 2) + (text("k") + struct.pack("<IB", 7, 1)) * 2, "metadata key 1", 38),
    "alignment": (head(0, 1) + text("general.alignment") + struct.pack("<II", 4, 3), "metadata 'general.alignment'", 53),
    "dimensions": (head(1, 0) + entry("a", [1] * 5, 0, 0) + bytes(64), "dimension count of tensor 'a'", 33),
    "zero dimension": (head(1, 0) + entry("a", [0], 0, 0) + bytes(64), "dimension 0 of tensor 'a'", 37),
    "overflow": (head(1, 0) + entry("a", [1 << 33, 1 << 33], 0, 0) + bytes(64), "shape of tensor 'a'", 53),
    "ggml type": (head(1, 0) + entry("a", [32], 77, 0) + bytes(64), "type of tensor 'a'", 45),
    "block": (head(1, 0) + entry("a", [33], 3, 0) + bytes(64), "dimension 0 of tensor 'a'", 45),
    "unaligned": (with_data(head(1, 0) + entry("a", [8], 0, 4), 64), "offset of tensor 'a'", 24),
    "outside": (with_data(head(1, 0) + entry("a", [16], 0, 0), 32), "data of tensor 'a'", 24),
    "overlap": (
        with_data(head(2, 0) + entry("a", [16], 0, 0) + entry("b", [16], 0, 32), 128), "offset of tensor 'b'", 57
    ),
    "trailing": (with_data(head(1, 0) + entry("a", [8], 0, 0), 96), "end of data", 96),
    "name twice": (with_data(head(2, 0) + entry("a", [8], 0, 0) + entry("a", [8], 0, 32), 64), "tensor name", 57),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_guards_name_field_and_byte(name: str, tmp_path: Path) -> None:
    data, field, offset = BAD[name]
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        read_gguf(path)
    assert (caught.value.field, caught.value.offset) == (field, offset), str(caught.value)
    assert str(path) in str(caught.value)
    assert f"{field} at byte {offset}" in str(caught.value)


def test_too_many_strings_are_refused_before_they_are_made(tmp_path: Path) -> None:
    path = tmp_path / "many.gguf"
    count = MAX_OBJECTS + 1
    path.write_bytes(head(0, 1) + text("k") + struct.pack("<IIQ", 9, 8, count) + bytes(8 * count))
    with pytest.raises(CheckpointError, match="strings and arrays"):
        read_gguf(path)


def test_version_2_is_read(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    data = bytearray(tiny[0].read_bytes())
    data[4] = 2
    (tmp_path / "two.gguf").write_bytes(data)
    assert load(tmp_path / "two.gguf").config == tiny_checkpoint.CONFIG


def test_unsupported_tensor_type_lists_what_is(tmp_path: Path) -> None:
    (tmp_path / "q6.gguf").write_bytes(with_data(head(1, 0) + entry("a", [256], 14, 0), 224))
    with pytest.raises(CheckpointError, match="Q6_K is not supported; supported: F32, F16, BF16, Q4_1, Q8_0"):
        read_gguf(tmp_path / "q6.gguf").tensor("a")


KEYS = [
    "general.architecture", "llama.block_count", "llama.rope.freq_base", "tokenizer.ggml.model", "tokenizer.ggml.pre",
    "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges", "tokenizer.ggml.eos_token_id",
    "tokenizer.chat_template",
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "value",
    [
        struct.pack("<IIQ2I", 9, 4, 2, 1, 2),
        struct.pack("<IIQ", 9, 8, 1) + text("x"),
        struct.pack("<IIQIQ", 9, 9, 1, 4, 0),
        struct.pack("<If", 6, float("inf")),
        struct.pack("<I", 8) + text("x"),
        struct.pack("<IB", 7, 1),
    ],
    ids=["numbers", "strings", "nested", "float", "string", "bool"],
)
def test_values_of_another_kind(key: str, value: bytes, tiny: tuple[Path, Path], tmp_path: Path) -> None:
    """Every value that is read, replaced by every kind of value: an error about that key, unless it happens to fit."""
    file, data = read_gguf(tiny[0]), tiny[0].read_bytes()
    begin = file.offsets[key] - 4
    later = [offset - 4 - len(name) - 8 for name, offset in file.offsets.items() if offset > file.offsets[key]]
    end = min(later) if later else min(tensor.declared_at for tensor in file.tensors.values())
    start = min(tensor.offset for tensor in file.tensors.values())
    last = max(file.tensors.values(), key=lambda tensor: tensor.declared_at)
    over = last.declared_at + 8 + len(last.name) + 4 + 8 * len(last.shape) + 4 + 8  # where the tensor table ends
    table = data[:begin] + value + data[end:over]
    path = tmp_path / "odd.gguf"
    path.write_bytes(table + b"\0" * (-len(table) % 32) + data[start:])
    if key == "tokenizer.chat_template" and value[:4] == struct.pack("<I", 8):
        assert load(path).tokenizer.chat_template == "x"
        return
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert key in caught.value.field or key in (
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.merges",
    )  # or what must match them


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"head_count": 5}, "llama.attention.head_count"),
        ({"head_count_kv": 3}, "llama.attention.head_count_kv"),
        ({"rope_dimension_count": 4}, "llama.rope.dimension_count"),
        ({"block_count": 0}, "llama.block_count"),
        ({"context_length": 1 << 31}, "llama.context_length"),
        ({"rope_freq_base": float("nan")}, "llama.rope.freq_base"),
        ({"layer_norm_rms_eps": 0.0}, "llama.attention.layer_norm_rms_epsilon"),
        ({"block_count": 3}, "blk.2.attn_norm.weight"),
        ({"feed_forward_length": 96}, "blk.0.ffn_gate.weight"),
        ({"vocab_size": 9}, "token_embd.weight"),
    ],
)
def test_sizes_that_do_not_fit(changes: dict[str, object], field: str, tmp_path: Path) -> None:
    tiny_checkpoint.write_gguf(tmp_path / "odd.gguf", **changes)
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "odd.gguf")
    assert field in caught.value.field
    assert caught.value.offset is not None


def test_an_error_stays_readable_however_long_the_names_in_a_file() -> None:
    error = CheckpointError("x.gguf", f"tensor {'n' * 10_000!r}", f"shape {'9' * 10_000}; expected less", 24)
    text = str(error)
    assert len(text) < 700 and text.startswith("x.gguf: tensor 'nnn") and text.endswith("expected less")
