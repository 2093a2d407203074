"""Keywords worked into sentences: only added to, only where it is allowed, and as likely as is said."""

import math

import pytest
import torch
from checkpoints import tiny_checkpoint

import mezzotint as mz
from mezzotint.edit.checks import absent
from mezzotint.edit.editor import Where, edit
from mezzotint.edit.hunks import Edit
from mezzotint.edit.keywords import _Inserter, insert
from mezzotint.edit.locks import Locks
from mezzotint.edit.presets import preset
from mezzotint.eval.edit_ways import perplexity

TEXT = "The thing and the end are in there. A node.js thing, in the end, is one thing!\nNo and\nInner ending of a thing here"


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    root = tmp_path_factory.mktemp("keywords")
    tiny_checkpoint.write_folder(root / "tiny", tiny_checkpoint.write_gguf(root / "tiny.gguf"))
    return mz.Engine(mz.load(root / "tiny"))


def left_out(edit: Edit) -> str:
    """The edited text without its insertions."""
    assert all(hunk.before == "" for hunk in edit.hunks)
    return edit.reject(*range(len(edit.hunks))).after


def test_phrases_stand_in_sentences_and_nothing_else_changes(engine):
    done = insert(engine, TEXT, ["QX", "zed", "in it"], likely=50)
    assert len(done.hunks) == 3 and absent(done.after, "QX, zed, in it") == [] and left_out(done) == TEXT
    assert len({hunk.start for hunk in done.hunks}) == 3 and all(0 < hunk.confidence <= 1 for hunk in done.hunks)
    assert "\nNo and\n" in done.after and "node.js" in done.after and done.after.count("\n") == 2
    assert insert(engine, TEXT, ["The thing", "NODE.JS"], likely=50).hunks == []  # they are there


def test_a_sentence_is_as_perplexing_as_is_said_and_no_more_than_may_be():
    engine, text = mz.Engine(mz.load("tiny")), "The blue horses wait in the garden. Mia has a red ball."
    with torch.inference_mode():
        inserter = _Inserter(engine, text, ["QX"], Locks(), math.log(50), lambda *_: None)
        found = inserter.best(0, 50)
        before = engine.tokenizer.decode(inserter.sentences[found.sentence].ids)
        inserter.put(found)
        ids = inserter.sentences[found.sentence].ids
    after = engine.tokenizer.decode(ids)
    assert engine.tokenizer.encode(after) == ids, "else the two are not about the same tokens"
    assert found.ratio == pytest.approx(perplexity(engine, after) / perplexity(engine, before), rel=1e-3)
    assert found.ratio > 1.02
    notes = []
    for likely in (1, 1.5, 2, 3, 5, 10, 50):
        done = insert(engine, text, ["QX"], likely=likely)
        old, new = (part.split(". ") for part in (text, done.after))
        ratios = [perplexity(engine, b) / perplexity(engine, a) for a, b in zip(old, new, strict=True) if a != b]
        assert len(ratios) == len(done.hunks) == 1 - len(done.notes) and all(r <= likely * 1.05 for r in ratios)
        notes += done.notes
    assert 1 <= len(notes) <= 6 and "'QX' was left out" in notes[0] and "times as perplexing at best" in notes[0]


def test_more_is_read_where_what_is_quickly_found_will_not_do():
    engine, text = (
        mz.Engine(mz.load("tiny")),
        "Mia has a red ball. The blue horses wait in the garden. Tom went to the park.",
    )
    with torch.inference_mode():
        inserter = _Inserter(engine, text, ["green"], Locks(), math.log(2), lambda *_: None)
        quick = inserter.best(0, math.inf)
        calls = inserter.num_calls
        assert inserter.best(0, quick.ratio) == quick
        assert inserter.num_calls < 2 * calls
        better = inserter.best(0, quick.ratio - 1e-3)
    assert better.ratio < quick.ratio - 1  # not by how a processor rounds


def test_locks_and_what_is_no_sentence_stay(engine):
    ask = preset("seo").ask({"keywords": "QX, zed"}, likely=50)
    free = edit(engine, TEXT, ask)
    place = free.hunks[0].start
    held = edit(engine, TEXT, ask, Where([(place, place)]))
    assert place not in {hunk.start for hunk in held.hunks} and len(held.hunks) == 2 and held.way == "insert"
    whole = edit(engine, TEXT, ask, Where([(0, TEXT.index("!"))]))
    assert all(hunk.start > TEXT.index("!") for hunk in whole.hunks)
    nowhere = insert(engine, "No and\nOne two", ["QX"])
    assert nowhere.hunks == [] and "no sentence may take it" in nowhere.notes[0]
    with pytest.raises(ValueError, match=r"likely is 0\.5"):
        insert(engine, TEXT, ["QX"], likely=0.5)
    with pytest.raises(ValueError, match="none are given"):
        edit(engine, TEXT, way="insert")
