"""Examples on disk: they come back as they were, as often as their weights say; damage and other vocabularies are found."""

import json

import pytest
import torch
from checkpoints.tiny_checkpoint import library_tokenizer

import mezzotint as mz
from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.train.canvases import Example, Ids, Stage, make_batches
from mezzotint.train.examples import Part, Record, read_examples, write_examples


@pytest.fixture(scope="module")
def tokenizer():
    return mz.load("tiny").tokenizer


TEXTS = [Record(Example([], [i, 2, 3], free=True), held_out=i % 10 == 0) for i in range(40)]
EDITS = [Record(Example([7], [1, 2, i], draft=[1, i]), answer=i % 2 == 0) for i in range(10, 20)]


@pytest.fixture
def folder(tokenizer, tmp_path):
    some = Part("texts", TEXTS, 1.5, {"licence": "CC0"}), Part("edits", EDITS), Part("none", ())
    write_examples(tmp_path / "e", some, tokenizer, {"seed": 3}, lambda m: ", ".join(m["sources"]))
    return tmp_path / "e"


def plain(examples):
    return [
        (list(e.context), list(e.text), e.free, e.ends, None if e.draft is None else list(e.draft)) for e in examples
    ]


def test_examples_come_back(folder, tokenizer):
    learn, measure = read_examples(folder, tokenizer, {"texts": 1})
    assert plain(learn[:36]) == plain([r.example for r in TEXTS if not r.held_out])
    assert sorted(plain(measure)) == plain([r.example for r in TEXTS if r.held_out])
    edits = plain(learn[36:])
    assert len(edits) == 15 and edits[0] == ([7], [1, 2, 10], False, False, [1, 10]) and edits[1][3:] == (True, None)
    assert (folder / "README.md").read_text() == "texts, edits, none\n"


def test_weights_repeat_and_thin_out(folder, tokenizer):
    learn, _ = read_examples(folder, tokenizer)
    first = [e[1][0] for e in plain(learn) if e[2]]
    assert len(first) == 36 + 18 and len(set(first)) == 36
    assert (
        plain(learn) == plain(read_examples(folder, tokenizer)[0]) != plain(read_examples(folder, tokenizer, seed=1)[0])
    )
    assert len(read_examples(folder, tokenizer, {"edits": 0, "texts": 0.5})[0]) == 18
    for weights, problem in (({"x": 1.0}, "'x'; known: texts, edits"), ({"edits": -1.0}, "at least 0")):
        with pytest.raises(ValueError, match=problem):
            read_examples(folder, tokenizer, weights)


def test_batches_are_made_of_them(folder, tokenizer):
    ids = Ids(1, 0, torch.arange(5, 20), {"DELETE": 2, "INSERT": 3, "EXPAND": 4})
    stage = Stage(sizes={2: 1.0}, edits=0.5)
    batches = make_batches(read_examples(folder, tokenizer)[0], [stage], ids, lambda: 8, 4)
    assert all(batches(step).tokens.dtype == torch.int64 for step in range(8))


def test_damage_and_other_vocabularies_are_found(folder, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="another vocabulary"):
        read_examples(folder, Tokenizer(json.loads(library_tokenizer().to_str())))
    path = folder / "texts.flags.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    with pytest.raises(ValueError, match=r"texts.flags.npy is damaged"):
        read_examples(folder, tokenizer)
    with pytest.raises(ValueError, match="holds no examples"):
        read_examples(tmp_path, tokenizer)
    with pytest.raises(ValueError, match="no example to learn"):
        write_examples(tmp_path / "x", [Part("none", ())], tokenizer)
    with pytest.raises(ValueError, match="at least 0"):
        Part("x", (), -1)
