"""The command line as a user meets it: output, exit codes, bad input. Each case is a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from forked import run

PYTHON = [sys.executable, "-m", "mezzotint"]


def refused(result, code, *words):
    assert result[0] == code, result
    assert "Traceback" not in result[2] and len(result[2].strip().splitlines()) <= 12
    for word in words:
        assert word in result[2], result[2]


def test_generate_repeats_itself_and_decoders_agree(base_path):
    args = ("generate", "Write a Python function that reverses a string.", "--seed", "7", "--max-tokens", "20")
    first, second, plain = run(*args), run(*args), run(*args, "--decode", "ar")
    assert first[0] == 0 and "def" in first[1]
    assert first[1] == second[1] == plain[1]
    warm = run(*args, "--temperature", "0.9", "--json")
    again = run(*args, "--temperature", "0.9", "--json", "--decode", "ar")
    one, two = json.loads(warm[1]), json.loads(again[1])
    assert one["text"] == two["text"] and one["calls"] <= two["calls"]


def test_trace_is_saved_and_replayed(base_path, tmp_path):
    path = tmp_path / "t.jsonl"
    code, text, errors = run("generate", "Name three colours.", "--max-tokens", "12", "--trace", str(path), "--summary")
    assert code == 0 and "tokens/call" in errors and "peak memory" in errors
    assert run("replay", str(path))[1] == text
    frames = run("replay", str(path), "--frames")[1]
    assert len(frames.strip().splitlines()) >= 10
    assert json.loads(run("replay", str(path), "--json")[1])["text"] == text.rstrip("\n")
    refused(run("replay", str(tmp_path / "none")), 1, "no such file")
    path.write_text("{}\n")
    refused(run("replay", str(path)), 2, "line 1")


def test_edit_fixes_shows_a_diff_and_writes_files(base_path, tmp_path):
    code, out, _ = run("edit", "-i", "fix the grammar", "--diff", stdin="She dont like apples.\n")
    assert code == 0 and "+She don't like apples." in out
    path = tmp_path / "note.txt"
    path.write_text("She dont like apples.\r\nThey are good.\n", newline="")
    assert run("edit", str(path), "--write")[0] == 0
    assert path.read_bytes() == b"She don't like apples.\r\nThey are good.\n"
    code, out, _ = run("edit", "--diff", "--lock", "dont", "--json", stdin="She dont like apples.")
    assert code == 0 and "dont" in json.loads(out)["text"]
    refused(run("edit", "--lock", "pears", stdin="She dont like apples."), 2, "'pears' does not occur")
    refused(run("edit", "--lock", "3:99", stdin="She dont like apples."), 2, "outside the text")
    refused(run("edit", "--write", stdin="x"), 2, "needs a file")


def test_watch_shows_text_dissolve_and_emerge(base_path):
    for noise in ("absorbing", "uniform", "hybrid"):
        code, out, _ = run("watch", "--forward", "The cat sat on the mat.", "--noise", noise, "--steps", "4")
        lines = out.splitlines()
        assert code == 0 and len(lines) == 5 and "The cat sat on the mat." in lines[0] and "cat sat" not in lines[-1]
    code, out, errors = run("watch", "Name three colours.", "--max-tokens", "8", "--draft-length", "4")
    assert code == 0 and len(out.splitlines()) >= 4 and "tokens/call" in errors
    refused(run("watch", "--forward", "x", "--noise", "pink"), 2, "'pink'", "absorbing, uniform, hybrid")
    refused(run("watch", "--forward", "x", "--steps", "0"), 2, "steps is 0")


def test_doctor_says_what_is_there(base_path, tmp_path):
    code, out, _ = run("doctor")
    assert code == 0 and "SHA-256 as pinned" in out
    code, out, _ = run("doctor", env={"MEZZOTINT_CACHE": str(tmp_path)})
    assert code == 1 and "mezzotint pull default" in out


@pytest.mark.parametrize(
    ("args", "stdin", "words"),
    [
        (("generate", ""), "", ("prompt is empty",)), (("generate", "-"), "", ("empty",)),
        (("generate", "-"), b"\xff\xfeabc", ("not UTF-8", "byte 0 is 0xff")),
        (("generate", "-"), b"ELF\0\0", ("binary file", "byte 3")),
        (("edit",), "", ("empty",)), (("edit",), b"\x80abc", ("not UTF-8",)), (("edit",), b"a\0b", ("binary file",)),
        (("generate", "x", "--model", "defualt"), "", ("'defualt'", "did you mean default")),
        (("generate", "x", "--decode", "magic"), "", ("'magic'", "ar, verified, diffusion")),
        (("generate", "x", "--policy", "magic", "--decode", "diffusion"), "", ("'magic'", "threshold, factor")),
        (("generate", "x", "--max-tokens", "0"), "", ("max_tokens is 0",)),
        (("generate", "x", "--draft", "magic"), "", ("'magic'", "fixed-point, random, text")),
        (("generate", "x", "--draft", "text"), "", ("draft_text",)),
        (("generate", "x", "--temperature", "-1"), "", ("temperature is -1",)),
        (("generate", "word " * 9000), "", ("context", "shorten")),
        (("generate", "x", "--no-such-option"), "", ("No such option",)),
        (("generate", "x", "--seed", str(2**70)), "", ("64-bit",)),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_exit_2(base_path, args, stdin, words):
    refused(run(*args, stdin=stdin), 2, *words)


def test_a_broken_weights_file_is_exit_1(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + b"\xff" * 40)
    refused(run("generate", "x", "--model", str(path)), 1, "x.gguf")
    refused(run("edit", str(tmp_path / "none.txt")), 1, "no such file")


def test_no_network_and_an_empty_cache_is_exit_1(tmp_path):
    env = {
        "MEZZOTINT_CACHE": str(tmp_path),
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_RETRIES": "0",
        "PIP_TIMEOUT": "1",
    }
    refused(run("pull", "default", env=env), 1, "mezzotint")
    assert not [p for p in tmp_path.rglob("*") if p.suffix == ".gguf"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_full_disk_is_a_sentence_and_exit_1(base_path):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*PYTHON, "generate", "Name a colour.", "--max-tokens", "2"],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=240,
        )
    refused((done.returncode, "", done.stderr.decode()), 1, "no space left")
    refused(run("generate", "x", "--max-tokens", "2", "--trace", "/dev/full/t.jsonl"), 1, "/dev/full")


def test_a_write_that_fails_leaves_the_old_file(base_path, tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "note.txt"
    path.write_text("She dont like apples.")

    def no_file_may_grow():
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    command = [*PYTHON, "edit", str(path), "--write"]
    done = subprocess.run(command, preexec_fn=no_file_may_grow, capture_output=True, text=True, timeout=240)
    refused((done.returncode, done.stdout, done.stderr), 1, "file too large")
    assert path.read_text() == "She dont like apples." and list(tmp_path.iterdir()) == [path]


def test_ctrl_c_is_exit_130():
    child = subprocess.Popen(
        [*PYTHON, "generate", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    time.sleep(3)  # it waits for standard input
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 130 and b"Traceback" not in errors and b"interrupted" in errors


def test_a_closed_pipe_is_exit_141_without_noise(base_path):
    child = subprocess.Popen(
        [*PYTHON, "generate", "Count to twenty.", "--max-tokens", "40"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    child.stdout.close()
    errors = child.stderr.read()
    child.stderr.close()
    assert child.wait(timeout=120) == 141 and b"Traceback" not in errors and b"Exception ignored" not in errors


def test_generate_follows_formats(tmp_path):
    """On `tiny`: a regex, a schema as text and as a file; what cannot be is said in a line."""
    ask = ("generate", "Who won?", "--model", "tiny")
    assert run(*ask, "--regex", "(Mia|Tom) won[.]")[1].strip() in ("Mia won.", "Tom won.")
    schema = {"type": "object", "properties": {"name": {"enum": ["Mia", "Tom"]}}, "required": ["name"]}
    (tmp_path / "s.json").write_text(json.dumps(schema))
    texts = [run(*ask, "--json-schema", given)[1] for given in (json.dumps(schema), str(tmp_path / "s.json"))]
    assert texts[0] == texts[1] and json.loads(texts[0])["name"] in ("Mia", "Tom")
    refused(run(*ask, "--regex", "(Mia"), 2, "unterminated")
    refused(run(*ask, "--json-schema", '{"not": {}}'), 2, "not supported: not")
    refused(run(*ask, "--json-schema", "none.json"), 1, "no such file")
