"""The model that comes with the package: it loads, writes what was recorded, fills, repairs, and its command line works."""

from dataclasses import replace

import make_golden
import pytest
from forked import run

import mezzotint as mz
from mezzotint.checkpoints.load import KNOWN
from mezzotint.recipes import tiny


@pytest.fixture(scope="module")
def engine():
    return mz.Engine(mz.load("tiny"))


def test_it_is_what_the_recipe_makes(engine):
    checkpoint = engine.checkpoint
    assert checkpoint.config == tiny.config(checkpoint.tokenizer.vocab_size)
    assert replace(checkpoint.facts) == tiny.facts(checkpoint.tokenizer)
    weights = sum(weight.numel() for _, weight in checkpoint.weights())
    assert weights == KNOWN["tiny"].parameters and 1e6 < weights < 3e6
    assert checkpoint.source.joinpath("model.safetensors").stat().st_size < 4e6


def test_a_damaged_copy_is_refused(tmp_path, monkeypatch):
    import shutil

    from mezzotint.checkpoints.errors import CheckpointError

    known = KNOWN["tiny"]
    shutil.copytree(known.folder, tmp_path / "tiny")
    path = tmp_path / "tiny" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    monkeypatch.setitem(KNOWN, "tiny", replace(known, folder=tmp_path / "tiny"))
    with pytest.raises(CheckpointError, match="SHA-256"):
        mz.load("tiny")


@pytest.mark.parametrize("number", range(4))
def test_it_writes_what_was_recorded(number):
    name, trace = list(make_golden.recordings())[number]
    recorded = mz.Trace.load(make_golden.HERE / f"{name}.jsonl")
    assert trace.header == recorded.header
    assert [(f.kind, f.step, f.tokens, f.status) for f in trace.frames] == [
        (f.kind, f.step, f.tokens, f.status) for f in recorded.frames
    ]
    assert trace.replay() == recorded.replay()


def test_all_three_decoders_write_text(engine):
    texts = {
        decode: engine.generate(mz.Request("Mia has", raw=True, decode=decode, max_tokens=24))[0].text
        for decode in ("ar", "verified", "diffusion")
    }
    assert texts["ar"] == texts["verified"] and all(texts.values())


def test_it_repairs_a_planted_error_and_leaves_clean_text_alone(engine):
    clean = "The green goats sleep in the station. They jump because they are happy."
    spoiled = clean.replace("happy", "seven")
    assert mz.repair(engine, clean).hunks == []
    fixed = mz.repair(engine, spoiled)
    assert fixed.after == clean and [h.after for h in fixed.hunks] == [" happy"]
    start = spoiled.index(" seven")
    assert mz.repair(engine, spoiled, locks=[(start, start + 6)]).after != clean
    with pytest.raises(ValueError, match="threshold is 2"):
        mz.repair(engine, clean, threshold=2)
    with pytest.raises(ValueError, match="tokens; this model reads"):
        mz.repair(engine, clean * 100)


def test_train_edit_and_infill_from_the_command_line(tmp_path):
    out = tmp_path / "mine"
    code, text, errors = run("train", "tiny", "--steps", "2", "--out", str(out), "--threads", "1")
    assert code == 0 and text.strip() == str(out) and "loss" in errors, errors
    code, text, errors = run(
        "generate", "Mia", "--raw", "--model", str(out), "--decode", "diffusion", "--max-tokens", "4"
    )
    assert code == 0, errors
    code, _, errors = run("train", "tiny", "--out", str(out))
    assert code == 2 and "exists" in errors
    assert run("train", "huge", "--out", str(tmp_path / "x"))[0] == 2
    code, text, errors = run("edit", "--model", "tiny", "--diff", stdin="The blue horses wait in seven garden.\n")
    assert code == 0 and "reads no instruction" in errors and "+The blue horses wait in the garden." in text
    code, text, _ = run("infill", "Mia has a [[1]] ball. She takes the red ball home.", "--model", "tiny")
    assert code == 0 and text.startswith("Mia has a ")
    code, text, _ = run("models")
    assert code == 0 and "tiny" in text and "default" in text
