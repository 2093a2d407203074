"""`mezzotint eval` as a user meets it."""

import json

from test_cli import refused, run

from mezzotint.eval.store import whole_lines


def test_the_list():
    code, out, _ = run("eval", "--list", env={"MEZZOTINT_EVALDATA": ""})
    assert code == 0 and "LiveCodeBench v6 (175 rows)" in out and "fixture only" in out
    rows = json.loads(run("eval", "--list", "--json")[1])
    assert sum(row["founding"] for row in rows) == 10 and rows[0]["published"]["Gemini Diffusion"] == 30.9


def test_bad_input(tmp_path):
    none = {"MEZZOTINT_EVALDATA": ""}
    refused(run("eval", env=none), 2, "--list")
    refused(run("eval", "humanevel", env=none), 2, "did you mean humaneval")
    refused(run("eval", "humaneval", env=none), 2, "--data or MEZZOTINT_EVALDATA", "openai/human-eval")
    refused(run("eval", "gpqa", "--data", "/nowhere"), 2, "not a folder")
    refused(run("eval", "gpqa", "--fixtures", "--items", "some", env=none), 2, "--items")
    refused(run("eval", "lbpp", "--fixtures", "--python", "python9", env=none), 2, "python9")
    refused(run("eval", "lbpp", "--fixtures", "--grading", "kind", env=none), 2, "official, strict")
    refused(run("eval", "lbpp", "--fixtures", env={**none, "PATH": str(tmp_path)}), 1, "bubblewrap")
    refused(run("eval-report", str(tmp_path)), 2, "holds no evaluation")
    refused(run("eval", "gpqa", "--fixtures", "--endpoint", "localhost:80", env=none), 2, "http://")


def test_the_tiny_model_on_fixtures_in_two_decoders(tmp_path, sandbox):
    names = ("gpqa", "mmlu-lite", "lbpp", "livecodebench", "swebench")
    rest = ("--fixtures", "--model", "tiny", "--max-tokens", "12", "--data", str(tmp_path))
    for decode in ("ar", "verified"):
        code, out, err = run("eval", *names, *rest, "--decode", decode, "--out", str(tmp_path / decode))
        assert code == 0 and out.count(" of ") == 5, err
    code, out, _ = run("eval", *names, *rest, "--decode", "ar", "--out", str(tmp_path / "ar"), "--json")
    assert code == 0 and all(task["asked"] == 0 for task in json.loads(out)["tasks"])
    texts = [
        [row["text"] for name in names for row in whole_lines(tmp_path / d / f"{name}.answers.jsonl")]
        for d in ("ar", "verified")
    ]
    assert texts[0] == texts[1] and len(texts[0]) == 13
    code, out, _ = run("eval-report", str(tmp_path / "ar"), str(tmp_path / "verified"), "--out", str(tmp_path / "page"))
    page = (tmp_path / "page.md").read_text()
    assert code == 0 and "13 answers in both, 0 differ" in page and "fixture: 0 of 3" in page
