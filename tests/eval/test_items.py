"""Items out of files: the fixtures of sets that may not be stored, real files where they are, and files that are wrong."""

import base64
import gzip
import json
import lzma
import pickle
import zlib

import pytest

from mezzotint.eval import data
from mezzotint.eval.judge import Judge
from mezzotint.eval.patch import patch_of, repaired, windows
from mezzotint.eval.tasks import ORDER, TASKS, chosen, rows_of

VALUES = ("gpqa", "mmlu-lite", "aime2025", "aime2024", "bbeh", "bbeh-mini", "gsm8k", "math500")
DOUBLES = {  # answers to the hand-made LiveCodeBench rows
    "fixture_1": "print(2 * int(input()))",
    "fixture_2": "class Solution:\n    def pairAverage(self, a, b):\n        return (a + b) / 2",
    "fixture_3": "for _ in range(int(input())):\n    print(int(input()) ** 2)",
}


def packed(value):
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def test_encoded_fields_are_read_without_unpickling():
    assert data.encoded_text(packed("a text")) == "a text" and data.encoded_text('[{"plain": 1}]') == '[{"plain": 1}]'
    for protocol in range(6):
        assert (
            data.encoded_text(base64.b64encode(zlib.compress(pickle.dumps("é" * 300, protocol))).decode()) == "é" * 300
        )

    class Run:
        def __reduce__(self):
            return exec, ("raise SystemExit('unpickled')",)

    for bad in (packed(Run()), packed(["a"]), packed(7), packed(("a", "b"))):
        with pytest.raises(ValueError, match="encoded field"):
            data.encoded_text(bad)


def test_files(tmp_path):
    row = json.dumps({"id": "a", "problem": "1 + 1?", "expected_answer": "2"}) + "\n"
    for name, content in (
        ("a.jsonl", row.encode()),
        ("b.jsonl.xz", lzma.compress(row.encode())),
        ("c.jsonl.gz", gzip.compress(row.encode())),
    ):
        (tmp_path / name).write_bytes(content)
        (path,) = data.find(tmp_path, (name.split(".")[0],))
        assert data.read([path]).rows[0]["problem"] == "1 + 1?"
    (tmp_path / "d.csv").write_text('Question,"Correct Answer"\n"a,\nb",c\n')
    assert data.read([tmp_path / "d.csv"]).rows[0]["Question"] == "a,\nb"
    (tmp_path / "bad.jsonl").write_text(row + "{\n")
    (tmp_path / "cut.jsonl.xz").write_bytes(lzma.compress(row.encode() * 99)[:40])
    (tmp_path / "empty.jsonl").write_text("\n")
    for name, words in (("bad.jsonl", "line 2"), ("cut.jsonl.xz", "cannot be read"), ("empty.jsonl", "no rows")):
        with pytest.raises(ValueError, match=words):
            data.read([tmp_path / name])
    assert data.find(tmp_path, ("a", "nothing")) is None
    with pytest.raises(ValueError, match="not a folder"):
        data.folder(str(tmp_path / "none"))


def test_rows_that_lack_something_are_named():
    for task in TASKS.values():
        with pytest.raises(ValueError, match="lacks"):
            task.load([{"x": 1}], 0)
    with pytest.raises(ValueError, match="no tests"):
        row = {"question_id": "q", "question_content": "", "public_test_cases": "[]", "private_test_cases": "[]"}
        TASKS["livecodebench"].load([row], 0)


@pytest.mark.parametrize("name", [name for name in TASKS if TASKS[name].fixture and not TASKS[name].page])
def test_fixtures_load_and_their_references_are_right(name, strict, official):
    task = TASKS[name]
    rows = data.fixture(task.fixture).rows
    for judge in (strict, official):
        for item in task.load(rows, 0):
            text = f"```python\n{DOUBLES[item.id]}\n```" if "livecodebench" in name else task.reference(item)
            assert task.judge(item, text, False, judge).state == "correct", item.id
            assert task.judge(item, "I do not know.", False, judge).state == "no_answer", item.id
            wrong = (
                text.replace("2 * int", "3 * int")
                .replace("/ 2", "/ 3")
                .replace("** 2", "** 3")
                .replace("return", "return None #")
            )
            wrong = wrong.replace("return None # a + b", "return a * b")
            for letter, other in zip("ABCD", "BCDA", strict=True):
                if text.endswith(f"Answer: {letter}"):
                    wrong = text[:-1] + other
            assert task.judge(item, wrong, False, judge).state == "wrong", wrong


def test_option_orders_differ_and_are_the_same_again():
    rows = data.fixture("gpqa_schema").rows
    orders = [[item.gold["order"] for item in TASKS["gpqa"].load(rows, sample)] for sample in range(6)]
    assert len({json.dumps(order) for order in orders}) > 3
    assert orders[2] == [item.gold["order"] for item in TASKS["gpqa"].load(rows, 2)]
    for sample in range(6):
        for item, row in zip(TASKS["gpqa"].load(rows, sample), rows, strict=True):
            assert f"{item.gold['target']}) {row['Correct Answer']}" in item.chat[-1]["content"]


def test_names():
    assert [task.name for task in chosen(["ten"])] == list(ORDER) and len(chosen(["ten", "humaneval"])) == 10
    with pytest.raises(ValueError, match="did you mean humaneval"):
        chosen(["humanevel"])


def test_patches():
    patch = "--- a/x.py\n+++ b/x.py\n@@ -3,9 +3,1 @@ def f\n a\n-b\n+c\n"
    assert windows(patch) == {"x.py": [(3, ["a", "b"])]}
    assert "@@ -3,2 +3,2 @@ def f" in repaired(patch)
    assert (
        patch_of(f"Here:\n```diff\n{patch}```\n")
        == repaired(patch)
        == patch_of(f"<patch>\n{patch}</patch>")
        == patch_of(patch)
    )
    assert patch_of("no patch") is None and patch_of("```python\nx\n```") is None


@pytest.mark.parametrize("name", VALUES)
def test_every_real_reference_value_is_right(name, items_folder):
    task, rows = TASKS[name], rows_of(TASKS[name], items_folder)
    if rows is None:
        pytest.skip("skipped: no data")
    items = task.load(rows.rows, 0)
    wrong = [i.id for i in items if task.judge(i, task.reference(i), False, Judge()).state != "correct"]
    assert len(items) == task.rows and len(wrong) == {"bbeh": 11}.get(name, 0)  # see selftest.py
