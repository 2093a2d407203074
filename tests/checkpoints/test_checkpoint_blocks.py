"""Blocks inside safetensors: the weights of the GGUF file they come from, bit for bit, and errors that name what is wrong."""

import json

import pytest
import torch
from checkpoints.tiny_checkpoint import write_gguf

import mezzotint as mz
from mezzotint.checkpoints.blocks import ABOUT, BLOCKS, load_blocks, save_blocks
from mezzotint.checkpoints.errors import CheckpointError


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("blocks") / "two-layers.gguf"
    write_gguf(path, tied=False)
    return mz.load(path)


@pytest.fixture
def folder(base, tmp_path):
    return save_blocks(base, tmp_path / "base")


def same(one, other):
    wanted, found = dict(one.weights()), dict(other.weights())
    assert found.keys() == wanted.keys() and all(torch.equal(found[n], wanted[n]) for n in wanted)


def test_blocks_are_the_weights_bit_for_bit_and_no_larger(base, folder):
    again = load_blocks(folder)
    same(base, again)
    assert (again.name, again.config, again.facts) == (base.name, base.config, base.facts)
    assert again.weights_sha256() == base.weights_sha256() and again.tokenizer.encode(
        "the and"
    ) == base.tokenizer.encode("the and")
    assert again.tokenizer.chat_template == base.tokenizer.chat_template
    assert (folder / BLOCKS).stat().st_size < base.source.stat().st_size + 3000


def test_a_checkpoint_that_is_not_quantised_can_travel_too(tmp_path):
    tiny = mz.load("tiny")
    again = load_blocks(save_blocks(tiny, tmp_path / "tiny"))
    same(tiny, again)
    assert again.facts == tiny.facts and again.sha256 == tiny.sha256


@pytest.mark.parametrize("spoil, problem", [
    (lambda f: (f / ABOUT).unlink(), "checkpoint.json: missing"),
    (lambda f: (f / ABOUT).write_text("{}"), "'name'.*expected str"),
    (lambda f: (f / BLOCKS).write_bytes((f / BLOCKS).read_bytes()[:-1] + b"x"), "SHA-256"),
])  # fmt: skip
def test_damage_is_named(folder, spoil, problem):
    spoil(folder)
    with pytest.raises(CheckpointError, match=problem):
        load_blocks(folder)


def test_sizes_that_do_not_fit_the_blocks_are_refused(folder):
    about = json.loads((folder / ABOUT).read_text())
    about["config"]["intermediate_size"] = 32
    (folder / ABOUT).write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match="mlp"):
        load_blocks(folder)


def test_the_base_in_blocks(base_path, tmp_path):
    base = mz.load(base_path)
    again = load_blocks(save_blocks(base, tmp_path / "base"))
    same(base, again)
    assert (tmp_path / "base" / BLOCKS).stat().st_size < 97e6
