"""`mezzotint eval` as a user meets it."""

import json

import pytest
from typer.testing import CliRunner

from mezzotint.cli import app
from mezzotint.eval.store import whole_lines

NONE = {"MEZZOTINT_EVALDATA": ""}


def call(*args, **env):
    """Exit code, standard output, standard error."""
    done = CliRunner().invoke(app, [str(arg) for arg in args], env={**NONE, **env})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    return done.exit_code, done.stdout, done.stderr


def test_the_list():
    code, out, _ = call("eval", "--list")
    assert code == 0 and "LiveCodeBench v6 (175 rows)" in out and "fixture only" in out
    rows = json.loads(call("eval", "--list", "--json")[1])
    assert sum(row["founding"] for row in rows) == 10 and rows[0]["published"]["Gemini Diffusion"] == 30.9


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        ((), 2, "--list"),
        (("humanevel",), 2, "did you mean humaneval"),
        (("humaneval",), 2, "--data or MEZZOTINT_EVALDATA"),
        (("humaneval",), 2, "openai/human-eval"),
        (("gpqa", "--data", "/nowhere"), 2, "not a folder"),
        (("gpqa", "--fixtures", "--items", "some"), 2, "--items"),
        (("lbpp", "--fixtures", "--python", "python9"), 2, "python9"),
        (("gpqa", "--fixtures", "--grading", "kind"), 2, "official, strict"),
        (("--self-test",), 2, "--data or MEZZOTINT_EVALDATA"),
        (("gpqa", "--fixtures", "--endpoint", "localhost:80"), 2, "http://"),
        (("gpqa", "--fixtures", "--batch", 0), 2, "--batch"),
        (("gpqa", "--fixtures", "--samples", 0), 2, "samples is 0"),
        (("gpqa", "--fixtures", "--patience", -1), 2, "patience"),
    ],
)
def test_bad_input(args, code, words):
    found = call("eval", *args)
    assert found[0] == code and words in found[2] and len(found[2].splitlines()) == 1, found


def test_code_is_not_judged_without_a_sandbox(tmp_path):
    code, _, err = call("eval", "lbpp", "--fixtures", PATH=str(tmp_path))
    assert code == 1 and "bubblewrap is missing" in err
    assert call("eval-report", tmp_path)[0] == 2


def test_the_tiny_model_on_fixtures_in_two_decoders(tmp_path, sandbox):
    names = ("gpqa", "mmlu-lite", "lbpp", "livecodebench", "swebench")
    rest = ("--fixtures", "--model", "tiny", "--max-tokens", "12", "--data", tmp_path)
    for decode in ("ar", "verified"):
        code, out, err = call("eval", *names, *rest, "--decode", decode, "--out", tmp_path / decode)
        assert code == 0 and out.count(" of ") == 5, err
    code, out, _ = call("eval", *names, *rest, "--decode", "ar", "--out", tmp_path / "ar", "--json")
    assert code == 0 and all(task["asked"] == 0 for task in json.loads(out)["tasks"])
    texts = [
        [row["text"] for name in names for row in whole_lines(tmp_path / d / f"{name}.answers.jsonl")]
        for d in ("ar", "verified")
    ]
    assert texts[0] == texts[1] and len(texts[0]) == 13
    code, out, _ = call("eval-report", tmp_path / "ar", tmp_path / "verified", "--out", tmp_path / "page")
    page = (tmp_path / "page.md").read_text()
    assert code == 0 and "13 answers in both, 0 differ" in page and "fixture: 0 of 3" in page


def test_an_endpoint_that_nobody_answers_says_why_and_no_more(tmp_path):
    code, out, err = call(
        "eval", "gpqa", "--fixtures", "--endpoint", "http://127.0.0.1:9/v1", "--model", "x", "--out", tmp_path / "s"
    )
    assert code == 1 and "3 infra error" in out
    assert "refused" in err.splitlines()[-1] and "run the same command again" in err.splitlines()[-1], err
