"""`mezzotint data`: a corpus made and shown from the command line, errors in one sentence."""

import importlib.util
import json

import pytest
from typer.testing import CliRunner

from mezzotint.cli import app


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEZZOTINT_DATA", raising=False)
    return lambda *args: CliRunner().invoke(app, ["data", *args])


def test_build_and_show(run, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "Mia has a ball."}\n{"prompt": "Who?", "completion": "Mia."}\nbad\n')
    (tmp_path / "b.txt").write_text("Tom has a dog.")
    built = run("build", "out", "b.txt", "a.jsonl", "--tokenizer", "tiny", "--workers", "2")
    assert built.exit_code == 0 and built.stdout == "out\n", built.output
    assert "a: 1 left out: is not JSON (first: a.jsonl, line 3)" in built.stderr and "3 documents" in built.stderr
    shown = run("show", "out", "--document", "1")
    assert shown.exit_code == 0 and "Who?" in shown.stdout and "Mia.<|endoftext|>" in shown.stdout
    facts = json.loads(run("show", "out", "--json").stdout)
    assert facts["documents"] == 3 and list(facts["sources"]) == ["a", "b"] and facts["rows"] == 1


def test_bad_input_is_one_sentence(run, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one two three"}\nbad\n')
    for args, problem in (
        (("build", "out", "none.jsonl"), "unknown source 'none.jsonl'"),
        (("build", "out", "a.jsonl", "--tokenizer", "tiny", "--strict"), "a.jsonl, line 2 is not JSON"),
        (("build", "out", "a.jsonl", "--without", "x"), "unknown evaluation 'x'"),
        (("show", "out"), "out is no corpus"),
    ):
        result = run(*args)
        assert result.exit_code == 2 and problem in result.stderr and not (tmp_path / "out").exists(), result.output
    assert run("build", "out", "a.jsonl", "--tokenizer", "tiny").exit_code == 0
    again = run("build", "out", "a.jsonl", "--tokenizer", "tiny")
    assert again.exit_code == 1 and "is not an empty folder" in again.stderr
    shard = tmp_path / "out" / "a-00000.ends.npy"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\1")
    broken = run("show", "out")
    assert broken.exit_code == 2 and "a-00000.ends.npy" in broken.stderr


def test_without_ray_the_error_says_what_to_install(run, tmp_path):
    if importlib.util.find_spec("ray") is not None:
        pytest.skip("ray is installed: see test_ray.py")
    (tmp_path / "a.jsonl").write_text('{"prompt": "Who?", "completion": "Mia."}\n')
    for args in (
        ("build", "out", "a.jsonl", "--tokenizer", "tiny", "--ray"),
        ("regenerate", "new.jsonl", "a.jsonl", "--model", "tiny", "--workers", "2"),
    ):
        result = run(*args)
        assert result.exit_code == 2 and "pip install 'mezzotint[ray]'" in result.stderr, result.output
