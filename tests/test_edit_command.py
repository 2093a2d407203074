"""`mezzotint edit` on files: what is shown, what is written, what is refused. On the tiny model, in this process."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from mezzotint.cli import app

BEFORE, AFTER = "The blue horses wait in seven garden.", "The blue horses wait in the garden."


def run(*args, stdin=b""):
    done = CliRunner().invoke(app, ["edit", "--model", "tiny", *map(str, args)], input=stdin)
    return done.exit_code, done.stdout_bytes.decode(), done.stderr


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "horses.txt"
    file.write_bytes(f"\ufeff  {BEFORE}\r\n\tMia has a red ball.\r\n".encode())
    return file


def test_a_file_gives_a_diff_and_standard_input_text(path):
    code, out, errors = run(path)
    assert code == 0 and f"-\ufeff  {BEFORE}\r\n+\ufeff  {AFTER}\r\n" in out and out.startswith("--- a/")
    assert "reads no instruction" in errors and "\x1b" not in out
    before = path.read_bytes()
    assert run(stdin=before)[1].encode() == before.replace(b"seven", b"the")
    assert run("--diff", stdin=before)[1].startswith("--- a/text") and run(path, "--text")[1] == run(stdin=before)[1]
    assert path.read_bytes() == before
    patch = subprocess.run(
        ["patch", "--binary", "-s", str(path)], input=run(path)[1].encode(), cwd=path.parent, capture_output=True
    )
    assert patch.returncode == 0 and path.read_bytes() == before.replace(b"seven", b"the")


def test_in_place_keeps_everything_else_and_a_backup(path, tmp_path):
    before = path.read_bytes()
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    assert run(link, "--in-place", "--backup", ".old")[0:2] == (0, "")
    assert path.read_bytes() == before.replace(b"seven", b"the") and (path.stat().st_mode & 0o777) == 0o640
    assert link.is_symlink() and (tmp_path / "horses.txt.old").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["horses.txt", "horses.txt.old", "link"]
    path.write_text(BEFORE, newline="")
    assert run(path, "-w")[0] == 0 and path.read_text() == AFTER


def test_several_files_json_and_exit_codes(path, tmp_path):
    other = tmp_path / "clean.txt"
    other.write_text("Mia has a red ball.\n")
    code, out, errors = run(path, other, "--json", "--exit-code")
    assert "mezzotint:" not in errors, "a change is no failure to report"
    one, two = (json.loads(line) for line in out.splitlines())
    assert code == 1 and one["changed"] and not two["changed"] and two["hunks"] == []
    (hunk,) = one["hunks"]
    assert (hunk["before"], hunk["after"]) == (" seven", " the") and 0.8 < hunk["confidence"] <= 1
    start = path.read_bytes().index(b" seven")
    assert hunk["bytes"] == [start, start + 6] and hunk["utf16"] == [start - 2, start + 4] == [
        hunk["start"],
        hunk["end"],
    ]
    assert one["lsp"][0]["range"]["start"] == {"line": 0, "character": start - 2} and one["way"] == "diffusion"
    code, out, errors = run(other, "--exit-code")
    assert (code, out) == (0, "") and "no change" in errors


def test_locks_lines_budget_rejection_and_doubt(path):
    for args in (
        ("--lock", "seven"), ("--lock", r"\w+ garden"), ("--lines", "2"), ("--budget", "0.01"), ("--budget", "0"),
        ("--reject", "0"), ("--lock", "0:40"),
    ):  # fmt: skip
        assert AFTER not in run(path, *args)[1], args
    for args in (("--lines", "1"), ("--only-doubtful",), ("--strength", "0"), ("--way", "repair"), ("--lock", "")):
        assert AFTER in run(path, *args)[1], args
    code, _, errors = run(path, "--explain", "--summary", "--lock", "1:2")
    assert code == 0 and "diffusion: tiny has learnt to denoise" in errors and "1 change," in errors


def test_doubt_is_shown_and_changes_nothing(path):
    path.write_text(f"{BEFORE}\n")
    code, out, _ = run(path, "--doubt", "-w")
    assert code == 0 and out == "23:29\tseven\n" and path.read_text() == f"{BEFORE}\n"
    table = json.loads(run(path, "--doubt", "--json")[1])
    assert table["way"] == "canvas" and len(table["tokens"]) == 8 and len(table["doubtful"]) == 1


@pytest.mark.parametrize(
    ("args", "data", "words"),
    [
        ((), b" \r\n", "is empty"), ((), b"\xff\xfea\x00", "binary"), ((), b"caf\xe9", "not UTF-8: byte 3 is 0xe9"),
        (("--lock", "pears"), b"abc", "'pears' does not occur"), (("--lock", "a("), b"abc", "no regular expression"),
        (("--lock", "1:9"), b"abc", "outside the text's 0:3"), (("--lines", "9"), b"abc", "among the text's 1-1"),
        (("--strength", "2"), b"abc", "strength is 2"), (("--budget", "-1"), b"abc", "budget is -1"),
        (("--way", "magic"), b"abc", "known: auto, diffusion"), (("--way", "verified"), b"abc", "it can by diffusion"),
        (("--preset", "magic"), b"abc", "known: grammar"), (("--preset", "audience"), b"abc", "--with audience="),
        (("--with", "a=b"), b"abc", "go with --preset"), (("--preset", "seo", "--with", "a"), b"abc", "KEY=VALUE"),
        (("-i", " "), b"abc", "instruction is empty"), (("--in-place",), b"abc", "needs a file"),
        (("--reject", "7"), b"abc", "no hunk 7"), (("--lock", r"(a+)+$"), b"a" * 4000 + b"!", "simpler pattern"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(args, data, words, monkeypatch):
    monkeypatch.setattr("mezzotint.edit.locks.PATIENCE", 0.01)
    code, out, errors = run(*args, stdin=data)
    assert code == 2 and out == "" and words in errors and len(errors.strip().splitlines()) <= 2, errors


def test_presets_run_and_a_failed_check_leaves_the_file(path, tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text('[mend]\nprompt = "Mend it"\nchecks = ["keywords"]\n')
    before = path.read_bytes()
    code, _, errors = run(path, "--presets", mine, "--preset", "mend", "--with", "keywords=unicorn", "--in-place")
    assert code == 1 and "check keywords: not in a sentence: unicorn" in errors and path.read_bytes() == before
    for args in (
        ("grammar",), ("audience", "--with", "audience=children"), ("seo", "--with", "keywords=horses"), ("refactor",),
        ("feature", "-i", "more"), ("convert", "--with", "language=Rust"), ("free", "-i", "shorter"),
    ):  # fmt: skip
        code, out, _ = run(path, "--json", "--preset", *args)
        assert code == 0 and json.loads(out)["text"].startswith("\ufeff"), args


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_and_a_file_changed_meanwhile_leave_it_alone(path, monkeypatch):
    text = (f"{BEFORE}\n" * 4000).encode()
    path.write_bytes(text)
    child = subprocess.Popen(
        [sys.executable, "-m", "mezzotint", "edit", "--model", "tiny", "-w", str(path)], stderr=subprocess.PIPE
    )
    time.sleep(6)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 130 and b"Traceback" not in errors, errors
    assert path.read_bytes() == text and list(path.parent.iterdir()) == [path]
    path.write_text(BEFORE)
    import mezzotint.edit_files as edit_files

    original = edit_files.write

    def late(file, done, backup=""):
        file.write_text("mine")
        original(file, done, backup)

    monkeypatch.setattr(edit_files, "write", late)
    code, _, errors = run(path, "-w")
    assert code == 1 and "changed since it was read" in errors and path.read_text() == "mine"
