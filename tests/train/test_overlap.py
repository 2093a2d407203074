"""Texts that share 13 words with an evaluation are found, wherever in a text they stand, and no others."""

import json
import lzma
import os
import random

import pytest

from mezzotint.train.data import find_evaluations
from mezzotint.train.overlap import RUN, WORD, Runs, evaluation_runs, runs_of_words

STORY = "the quick brown fox jumps over the lazy dog while two cats sleep on a warm roof"


def test_a_run_is_found_in_any_case_and_punctuation(tmp_path):
    (tmp_path / "x-EVAL.jsonl").write_text(json.dumps({"input": "", "references": [{"a": STORY}]}) + "\n")
    runs = evaluation_runs([tmp_path / "x-EVAL.jsonl"])
    assert len(runs) == len(STORY.split()) - RUN + 1
    assert runs.overlaps("So: The quick brown fox JUMPS over the lazy dog, while two cats sleep on.")
    assert (
        not runs.overlaps("the quick brown fox " * 9)
        and not runs.overlaps(" ".join(STORY.split()[:12]))
        and not runs.overlaps("")
    )


def test_it_is_what_comparing_the_words_themselves_finds(count):
    words = [f"w{n}" for n in range(4)]
    draw = random.Random(0)
    texts = [" ".join(draw.choices(words, k=draw.randrange(5, 60))) for _ in range(count(200))]
    texts += [text[3:] + " w1 w2" for text in texts[::3]]

    def slow(text):
        found = WORD.findall(text.lower())
        return {tuple(found[i : i + RUN]) for i in range(len(found) - RUN + 1)}

    half = len(texts) // 2
    runs, known = Runs(texts[:half]), set().union(*map(slow, texts[:half]))
    assert len(runs) == len(known)
    assert [runs.overlaps(t) for t in texts] == [bool(slow(t) & known) for t in texts]


def test_a_planted_run_is_found_in_the_evaluations_themselves():
    """In every evaluation file here, a piece of 13 words, hidden in the middle of another text."""
    if not os.environ.get("MEZZOTINT_EVALDATA"):
        pytest.skip("MEZZOTINT_EVALDATA is not set")
    paths = find_evaluations(["all"])
    for path in [p for p in paths if p.suffix == ".xz"][:6]:
        with lzma.open(path, "rt", encoding="utf-8") as file:
            rows = [file.readline() for _ in range(3)]
        longest = max(
            (w for row in rows for v in json.loads(row).values() if isinstance(v, str) for w in [WORD.findall(v)]),
            key=len,
        )
        if len(longest) >= RUN + 4:
            assert evaluation_runs([path]).overlaps(
                "x y z " * 50 + " ".join(longest[3 : 3 + RUN]).upper() + " z" * 99
            ), path


def test_all_names_both_folders(tmp_path, monkeypatch):
    for folder, name in (("data", "a-EVAL.jsonl"), ("data", "b.jsonl"), ("eval", "c.jsonl")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text("{}\n")
    monkeypatch.setenv("MEZZOTINT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MEZZOTINT_EVALDATA", str(tmp_path / "eval"))
    assert [p.name for p in find_evaluations(["all"])] == ["a-EVAL.jsonl", "c.jsonl"]
    monkeypatch.setenv("MEZZOTINT_EVALDATA", str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"MEZZOTINT_EVALDATA is .* not a folder"):
        find_evaluations(["all"])


def test_hashes_do_not_depend_on_the_process():
    assert (runs_of_words(STORY) == runs_of_words(STORY.title())).all() and len(runs_of_words("a b")) == 0
    assert int(runs_of_words("a " * 13)[0]) == 7320761512841222976
