"""Safetensors in and out: guards by name, shards, no pickles, and saving whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from pathlib import Path

import pytest
import safetensors.torch
import tiny_checkpoint
import torch

from mezzotint.checkpoints import files, llama
from mezzotint.checkpoints.errors import CheckpointError
from mezzotint.checkpoints.gguf import read_gguf
from mezzotint.checkpoints.load import CONTROL, Checkpoint, Facts, load
from mezzotint.checkpoints.weights import MAX_HEADER, read_header, save_tensors


def pack(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def one(**changes: object) -> dict[str, object]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
BAD = {
    "short": (b"\0" * 9, "header", 0),
    "length": (pack(one(), bytes(8), 1 << 62), "header length", 0),
    "long header": (pack(b"{" + b" " * MAX_HEADER + b"}"), "header length", 0),
    "not an object": (pack(b"[]"), "header", 8),
    "not JSON": (pack(b"{,}", bytes(8)), "header", 8),
    "not UTF-8": (pack(b'{"\xff": 1}'), "header", 8),
    "NaN": (pack(b'{"a": NaN}'), "header", 8),
    "nested": (pack(b'{"a":' + b"[" * 100_000), "header", 8),
    "big number": (pack(b'{"a":' + b"9" * 10_000 + b"}"), "header", 8),
    "twice": (pack(json.dumps({"a": A})[:-1].encode() + b', "a": {}}', bytes(8)), "header", 8),
    "metadata": (pack({"__metadata__": {"x": 1}}), "header", 8),
    "entry": (pack({"a": [1]}), "entry of tensor 'a'", 9),
    "extra key": (pack(one(more=1), bytes(8)), "entry of tensor 'a'", 9),
    "dtype": (pack(one(dtype="F33"), bytes(8)), "dtype of tensor 'a'", 9),
    "negative shape": (pack(one(shape=[-2]), bytes(8)), "shape of tensor 'a'", 9),
    "float shape": (pack(one(shape=[2.0]), bytes(8)), "shape of tensor 'a'", 9),
    "bool shape": (pack(one(shape=[True, 2]), bytes(8)), "shape of tensor 'a'", 9),
    "overflow": (pack(one(shape=[1 << 62, 1 << 62]), bytes(8)), "data_offsets of tensor 'a'", 9),
    "backwards": (pack(one(data_offsets=[8, 0]), bytes(8)), "data_offsets of tensor 'a'", 9),
    "outside": (pack(one(), bytes(7)), "data_offsets of tensor 'a'", 9),
    "size": (pack(one(data_offsets=[0, 4]), bytes(4)), "data_offsets of tensor 'a'", 9),
    "overlap": (pack({"a": A, "b": A}, bytes(8)), "data_offsets of tensor 'b'", 70),
    "gap": (pack({"a": A, "b": A | {"data_offsets": [12, 20]}}, bytes(20)), "data_offsets of tensor 'b'", 70),
    "trailing": (pack(one(), bytes(9)), "end of data", 77),
}


@pytest.mark.parametrize("name", BAD)
def test_guards_name_field_and_byte(name: str, tmp_path: Path) -> None:
    data, field, offset = BAD[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert (caught.value.field, caught.value.offset) == (field, offset), str(caught.value)
    assert str(path) in str(caught.value)


def test_a_header_of_escaped_names_costs_no_time(tmp_path: Path) -> None:
    entries = ",".join(
        f'"\\u00{0x61 + i % 26:02x}{i:05d}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for i in range(25_000)
    )
    path = tmp_path / "model.safetensors"
    path.write_bytes(pack(("{" + entries + "}").encode()))
    began = time.process_time()
    assert len(read_header(path)) == 25_000
    assert time.process_time() - began < 5


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".pkl"])
def test_pickles_are_refused(suffix: str, tmp_path: Path, tiny: tuple[Path, Path]) -> None:
    path = tmp_path / f"pytorch_model{suffix}"
    torch.save({"a": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="can run code when read and are refused"):
        load(path)
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(tiny[1] / name, tmp_path)
    with pytest.raises(CheckpointError, match="can run code when read and are refused"):
        load(tmp_path)


# -- shards --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def shards(tiny: tuple[Path, Path], tmp_path: Path) -> Path:
    weights = safetensors.torch.load_file(tiny[1] / "model.safetensors")
    tiny_checkpoint.write_folder(tmp_path / "shards", weights, shards=3)
    return tmp_path / "shards"


def test_shards_equal_one_file(tiny: tuple[Path, Path], shards: Path) -> None:
    left, right = dict(load(tiny[1]).weights()), dict(load(shards).weights())
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    "shard", ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "x.bin", ".safetensors", 3]
)
def test_shards_stay_in_their_folder(shard: object, shards: Path) -> None:
    index = json.loads((shards / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = shard
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="is not a plain name"):
        load(shards)


def test_shards_must_agree_with_their_index(shards: Path) -> None:
    path = shards / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    good = dict(index["weight_map"])
    for change, message in (
        (good | {"model.norm.weight": "model-00009-of-00003.safetensors"}, "is not in the folder"),
        (good | {"other": good["model.norm.weight"]}, "not in its shard"),
        ({k: v for k, v in good.items() if k != "model.norm.weight"}, "the index puts it into None"),
    ):
        path.write_text(json.dumps({"weight_map": change}))
        with pytest.raises(CheckpointError, match=message):
            load(shards)


# -- names, shapes, dtypes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("model.norm.weight"), "'model.norm.weight'.*missing"),
        (lambda w: w.update(extra=torch.ones(1)), "'extra'.*has none"),
        (lambda w: w.update({"model.norm.weight": torch.ones(31)}), r"\(31,\); expected \(32,\)"),
        (
            lambda w: w.update({"model.norm.weight": torch.ones(32, dtype=torch.int32)}),
            "torch.int32; supported: float32",
        ),
    ],
)
def test_weights_that_do_not_fit(change: object, message: str, tiny: tuple[Path, Path], tmp_path: Path) -> None:
    weights = safetensors.torch.load_file(tiny[1] / "model.safetensors")
    change(weights)  # type: ignore[operator]
    tiny_checkpoint.write_folder(tmp_path / "odd", weights)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "odd")


def test_bfloat16_stays_and_a_tied_head_is_left_out(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    weights = {k: v.bfloat16() for k, v in safetensors.torch.load_file(tiny[1] / "model.safetensors").items()}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    tiny_checkpoint.write_folder(tmp_path / "half", weights)
    found = dict(load(tmp_path / "half").weights())
    assert "lm_head.weight" not in found
    assert found["model.norm.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bert"}, "'bert'; supported: 'llama'"),
        ({"hidden_size": None}, "missing"),
        ({"hidden_size": 1e3}, "expected one int"),
        ({"num_hidden_layers": 10**9}, "expected 1 to"),
        ({"rms_norm_eps": "x"}, "expected one float"),
        ({"hidden_act": "gelu"}, "supported: 'silu'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4}}, "original_max_position_embeddings' .* missing"),
        ({"attention_bias": True}, "q_proj.bias' .* missing"),
        ({"num_key_value_heads": 3}, "not a multiple"),
        ({"mezzotint": {"shift": 2}}, "shift is 2; allowed: 0, 1"),
        ({"mezzotint": {"canvas": 2}}, "expected one of"),
        ({"mezzotint": {"control": {"MASK": "the"}}}, "not among the tokenizer's special tokens"),
        ({"mezzotint": {"control": {"MASK": "<|im_end|>"}}}, "share an id"),
    ],
)
def test_configurations_that_do_not_fit(
    change: dict[str, object], message: str, tiny: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny[1], tmp_path / "odd")
    (folder / "config.json").write_text(json.dumps(tiny_checkpoint.config_json() | change))
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_rope_parameters_of_newer_files(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny[1], tmp_path / "new")
    table = tiny_checkpoint.config_json() | {"rope_parameters": {"rope_theta": 77.0, "rope_type": "default"}}
    (folder / "config.json").write_text(json.dumps(table))
    assert load(folder).config.rope_theta == 77.0


# -- saving --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [0, 1])
def test_round_trip(which: int, tiny: tuple[Path, Path], tmp_path: Path) -> None:
    before = load(tiny[which])
    after = load(before.save(tmp_path / "new" / "copy"))
    assert (after.config, after.facts) == (before.config, before.facts)
    left, right = dict(before.weights()), dict(after.weights())
    assert all(torch.equal(left[name], right[name]) for name in left.keys() | right.keys())
    assert after.tokenizer.chat_template == before.tokenizer.chat_template
    assert after.tokenizer.eos_ids == before.tokenizer.eos_ids == (2, 0)
    text = "the thing, 12 and \u65e5 <|im_end|>"
    assert after.tokenizer.encode(text) == before.tokenizer.encode(text)
    assert sorted(path.name for path in (tmp_path / "new" / "copy").iterdir()) == [
        "README.md", "chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    ]  # fmt: skip
    assert os.listdir(tmp_path / "new") == ["copy"]


def test_facts_survive(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    from dataclasses import replace

    before = load(tiny[0])
    facts = replace(before.facts, shift=0, canvas_length=32, trained_canvas=True, noise="hybrid")
    after = load(replace(before, facts=facts).save(tmp_path / "copy"))
    assert after.facts == facts
    assert after.facts.mask_id == after.tokenizer.id(CONTROL["MASK"])
    assert after.process.mask_id == after.facts.mask_id


def test_transformers_reads_what_we_save(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    checkpoint = load(tiny[0])
    theirs = transformers.LlamaForCausalLM.from_pretrained(checkpoint.save(tmp_path / "copy"), dtype=torch.float32)
    tokens = torch.tensor([checkpoint.tokenizer.encode("the thing and 12")])
    ours = checkpoint.denoiser()
    counts = torch.tensor([tokens.shape[1]])
    with torch.inference_mode():
        expected = theirs(tokens).logits
        got = ours.read(tokens, counts, ours.new_cache(1, 64), every=True).logits
    assert torch.allclose(got, expected, atol=1e-4)


def test_saving_never_overwrites(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    checkpoint = load(tiny[0])
    checkpoint.save(tmp_path / "there")  # empty: fine
    with pytest.raises(FileExistsError, match="not an empty folder"):
        checkpoint.save(tmp_path / "there")


def test_a_full_disk_leaves_nothing(tiny: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="no space left to write") as caught:
        load(tiny[0]).save(tmp_path / "copy")
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == []


def test_an_interrupt_leaves_nothing(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    def weights() -> object:
        yield "model.norm.weight", torch.ones(32)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_tensors(tmp_path / "model.safetensors", llama.shapes(tiny_checkpoint.CONFIG), weights())  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == []


def test_saving_checks_its_tensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(ValueError, match="missing"):
        save_tensors(path, {"a": (2,)}, [])
    with pytest.raises(ValueError, match="unknown, repeated"):
        save_tensors(path, {"a": (2,)}, [("a", torch.ones(3))])
    assert not path.exists()
    save_tensors(
        path, {"a": (2,), "b": (0,), "c": ()}, [("c", torch.ones(())), ("b", torch.ones(0)), ("a", torch.ones(2))]
    )
    assert safetensors.torch.load_file(path)["a"].tolist() == [1, 1]


# -- names of checkpoints ------------------------------------------------------------------------------------------------


def test_unknown_names_list_the_known(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no checkpoint named 'defualt'.*known: default, base, tiny, digits; did you mean default\?"
    ):
        load("defualt")
    with pytest.raises(CheckpointError, match=r"config\.json: missing"):
        load(tmp_path)
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"expected a \.gguf file or a folder"):
        load(tmp_path / "x.txt")
    (tmp_path / "x.safetensors").write_text("hello")
    with pytest.raises(CheckpointError, match="name the folder"):
        load(tmp_path / "x.safetensors")


def test_weights_stream(tiny: tuple[Path, Path]) -> None:
    """Nothing is dequantised before it is asked for."""
    stream = load(tiny[0]).weights()
    assert next(stream)[0] == "model.embed_tokens.weight"
    assert len(list(stream)) == len(read_gguf(tiny[0]).tensors) - 1


def test_facts_are_checked() -> None:
    for change in ({"noise": "pink"}, {"shift": 3}, {"visibility": "none"}, {"canvas_length": 0}, {"mask_id": 4}):
        with pytest.raises(ValueError, match=r"allowed|mask_id"):
            Facts(**({"control_ids": {"MASK": 3}, "mask_id": 3} | change))


def test_default_checkpoint(base: Checkpoint) -> None:
    c = base.config
    assert (c.vocab_size, c.width, c.num_layers, c.num_heads, c.num_kv_heads, c.head_size, c.mlp_width) == (
        49152, 576, 30, 9, 3, 64, 1536
    )  # fmt: skip
    assert (c.rope_theta, c.norm_eps, c.max_length, c.tied_head) == (100000.0, 1e-5, 8192, True)
    assert base.facts.control_ids == {"MASK": 16, "DELETE": 10, "INSERT": 8, "EXPAND": 9}
    assert {base.tokenizer.id(name) for name in CONTROL.values()} == {16, 10, 8, 9}
    assert "134.5 million" in base.card()


def test_reserved_rows_were_never_trained(base: Checkpoint) -> None:
    """The control tokens are free to take: their embeddings are one row, but for a step of the quantisation."""
    name, table = next(base.weights())
    assert name == "model.embed_tokens.weight"
    rows = table[list(base.facts.control_ids.values())]
    assert float((rows - rows[0]).norm(dim=1).max()) < 0.02
    assert float((table - rows[0]).norm(dim=1).median()) > 1


def test_uniform_noise_draws_no_special_token(tiny: tuple[Path, Path]) -> None:
    checkpoint = load(tiny[0])
    special = set(checkpoint.tokenizer.specials.values())
    assert not special & set(checkpoint.noise("uniform").support)
    assert checkpoint.noise("absorbing").mask_id == checkpoint.facts.mask_id
    with pytest.raises(ValueError, match="allowed: absorbing"):
        checkpoint.noise("pink")
