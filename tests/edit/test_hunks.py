"""An edit as hunks: choosing among them, every way of counting, diffs that `patch` applies."""

import random
import shutil
import subprocess

import documents
import pytest

from mezzotint.edit.hunks import Edit, Hunk


def random_edit(rng):
    text = documents.document(rng, 120)
    hunks, at = [], 0
    while at < len(text):
        start = min(at + rng.randint(0, 20), len(text))
        end = min(start + rng.randint(0, 4), len(text))
        after = documents.document(rng, 4) if rng.random() < 0.7 else ""
        hunks.append(Hunk(start, end, text[start:end], after, rng.random()))
        at = end + 1
    return Edit(text, hunks)


def test_hunks_are_accepted_and_rejected_alone():
    edit = Edit("She dont like apple", [Hunk(4, 8, "dont", "don't", 0.9), Hunk(19, 19, "", "s.", 0.4)])
    assert edit.after == "She don't like apples."
    assert edit.reject(0).after == "She dont like apples." and edit.accept(0).after == "She don't like apple"
    assert edit.reject(0, 1).after == edit.before and edit.reject().after == edit.accept(0, 1).after == edit.after
    with pytest.raises(ValueError, match="no hunk 2; this edit has 2"):
        edit.reject(2)
    for bad in ([Hunk(4, 8, "dont", ""), Hunk(6, 7, "n", "")], [Hunk(0, 3, "she", "")]):
        with pytest.raises(ValueError, match="overlaps another or is not of this text"):
            Edit("She dont", bad)
    with pytest.raises(ValueError, match="does not hold"):
        Hunk(0, 3, "ab", "")


def test_the_surest_hunks_come_within_a_budget():
    edit = Edit("abcdefghij", [Hunk(0, 1, "a", "xyz", 0.5), Hunk(2, 4, "cd", "ced", 0.9), Hunk(6, 9, "ghi", "", 0.8)])
    assert [hunk.size for hunk in edit.hunks] == [3, 1, 3]
    assert [len(edit.within(share, 10).hunks) for share in (0, 0.1, 0.3, 0.4, 0.7, 1)] == [0, 1, 1, 2, 3, 3]


def test_every_way_of_counting_applies(count):
    rng = random.Random(3)
    for _ in range(count(1000)):
        edit = random_edit(rng)
        data, units = edit.before.encode(), edit.before.encode("utf-16-le")
        for hunk, (start, end) in reversed(list(zip(edit.hunks, edit.places(), strict=True))):
            data = data[: start.byte] + hunk.after.encode() + data[end.byte :]
            units = units[: 2 * start.utf16] + hunk.after.encode("utf-16-le") + units[2 * end.utf16 :]
            line = (
                edit.before.replace("\r\n", "\n\n")[: start.code_point].count("\n") if "\r" not in edit.before else None
            )
            assert line is None or line == start.line
        assert data.decode() == units.decode("utf-16-le") == edit.after
        table = edit.to_json()
        assert table["text"] == edit.after and len(table["lsp"]) == len(table["hunks"]) == len(edit.hunks)


def test_lsp_counts_lines_and_utf16_units():
    edit = Edit("a\r\n😀é b\n", [Hunk(6, 7, "b", "c")])
    assert edit.lsp() == [
        {"range": {"start": {"line": 1, "character": 4}, "end": {"line": 1, "character": 5}}, "newText": "c"}
    ]


@pytest.mark.skipif(shutil.which("patch") is None, reason="patch is not installed")
def test_patch_applies_the_diff(count, tmp_path):
    rng = random.Random(4)
    for _ in range(count(200)):
        edit = random_edit(rng)
        path = tmp_path / "text"
        path.write_bytes(edit.before.encode())
        diff = edit.diff("text")
        assert bool(diff) == (edit.after != edit.before)
        if diff and edit.after:
            done = subprocess.run(
                ["patch", "--binary", "-s", "-p1", "-d", str(tmp_path)], input=diff.encode(), capture_output=True
            )
            assert done.returncode == 0, done.stdout + done.stderr
            assert path.read_bytes().decode() == edit.after
