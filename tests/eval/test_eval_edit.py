"""`mezzotint eval edit`: its measures by hand, its items, and a run of the tiny model as a user meets it."""

import json
import math
import random

import pytest
from test_eval_command import call

import mezzotint as mz
from mezzotint.eval import changes, edit_items, edit_parts, edit_suite, edit_ways
from mezzotint.eval.edit_parts import PARTS, Done, items_of
from mezzotint.eval.judge import Judge
from mezzotint.eval.store import whole_lines
from mezzotint.recipes.edits import no_op


@pytest.fixture(scope="module")
def engine():
    return mz.Engine(mz.load("tiny"))


def done(text, score=0.0, calls=3, seconds=1.0, **gold):
    (item,) = items_of([{"id": "x", "group": "g", "instruction": "Do it", **gold}], 0)
    return Done(item, text, score, calls, seconds)


# -- counting changes --------------------------------------------------------------------------------------------------


def test_changes_by_hand():
    before, wanted = "The cat sat an the mat.", "The cat sat on the mat."
    assert [c.new for c in changes.changes(before, wanted)] == [("on",)]
    assert changes.right_changes(before, wanted, wanted) == (1, 1, 1)
    assert changes.right_changes(before, wanted, before) == (0, 0, 1)
    assert changes.right_changes(before, wanted, "A cat sat on the mat.") == (1, 2, 1)
    # 12 tokens with the spaces and the stop, one of them to go; "The" has gone too
    assert changes.kept(before, wanted, "A cat sat on the mat.") == (10, 11)
    assert changes.kept(before, wanted, wanted) == (11, 11)
    assert changes.kept(before, before, "") == (0, 12)


def test_any_edit_scores_full_marks_against_itself(count):
    stock = edit_items.Stock(mz.load("tiny").tokenizer, True)
    rows = edit_items.edits(stock)
    for row in random.Random(1).sample(rows, count(200)):
        right, made, wanted = changes.right_changes(row["before"], row["after"], row["after"])
        assert right == made == wanted > 0
        stayed, total = changes.kept(row["before"], row["after"], row["after"])
        assert stayed == total


def test_pooled_f():
    """Three right of four made, six wanted: P .75, R .5, F0.5 = 1.25 * .375 / (.25 * .75 + .5)."""
    value, error = changes.pooled_f([(1, 2, 3), (2, 2, 3)])
    assert value == pytest.approx(1.25 * 0.375 / 0.6875) and 0 < error < 0.5
    assert math.isnan(changes.pooled_f([(1, 2, 3)])[1])
    assert changes.pooled_f([(0, 0, 3), (0, 0, 1)]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("word", "count"),
    [("cat", 1), ("table", 2), ("time", 1), ("water", 2), ("beautiful", 3), ("the", 1), ("tree", 1), ("idea", 2)],
)
def test_syllables(word, count):
    assert changes.syllables(word) == count


def test_grade():
    """Two sentences, six words, seven syllables: 0.39 * 3 + 11.8 * 7/6 - 15.59."""
    assert changes.grade("The cat sat. It saw water.") == pytest.approx(0.39 * 3 + 11.8 * 7 / 6 - 15.59)
    assert changes.grade("... 12") is None


# -- measures ----------------------------------------------------------------------------------------------------------


def test_measures_by_hand(engine):
    two = [
        done("a x c", 1.0, before="a b c", after="a x c"),
        done("z x c", 0.0, before="a b c", after="a x c"),
    ]
    exact, locality, by_class = edit_parts.exact(two, engine)
    assert (exact.value, exact.error, exact.items) == (0.5, 0.5, 2)
    assert locality.value == pytest.approx((1 + 3 / 4) / 2)
    assert by_class.name.strip() == "g" and by_class.value == 0.5
    f, precision, recall, _ = edit_parts.mended(two, engine)
    assert (precision.value, recall.value) == (pytest.approx(2 / 3), 1.0) and f.value == pytest.approx(2.5 / 3.5)
    changed, kept = edit_parts.over_edit([done("a b", before="a b"), done("a c", before="a b")], engine)
    assert (changed.value, kept.value) == (0.5, pytest.approx(5 / 6))
    years, left = edit_parts.easier([done("It is a cat.", before="Incomprehensible feline organism.")], engine)
    assert years.value > 20 and left.value == pytest.approx(8 / 6)


def test_keywords_count_in_sentences_only():
    before, judge = "We bake bread for the whole town. Come in and taste it.", Judge()
    (item,) = items_of([{"id": "x", "instruction": "-", "before": before, "keywords": "rye, oven"}], 0)
    part = PARTS["keywords"]
    good = "We bake rye bread in our oven for the whole town. Come in and taste it."
    assert part.judge(item, good, False, judge).state == "correct"
    assert part.judge(item, before + " rye, oven.", False, judge).state == "wrong"


def test_a_likely_sentence_and_an_unlikely_one(engine):
    before = "The blue horses wait in the garden. Mia has three green apples."
    likely = done("The blue horses wait in the garden. Mia has two green apples.", 1.0, before=before, keywords="two")
    odd = done("The blue horses wait in the garden. Q%z has]] fo4r x grn apples.", 1.0, before=before, keywords="grn")
    found = [{m.name: m.value for m in edit_parts.worked_in([one], engine)} for one in (likely, odd)]
    assert [table["changed sentences at most 1.5x"] for table in found] == [1.0, 0.0]
    assert [table["all three"] for table in found] == [0.0, 0.0]  # another word stood there
    more = done(before.replace("has three", "has four, three"), 1.0, before=before, keywords="four, five")
    table = {m.name: m.value for m in edit_parts.worked_in([more], engine)}
    assert table["keywords in sentences"] == 0.5 and table["98% of the other tokens stay"] == 1.0
    assert edit_ways.perplexity(engine, likely.text) < edit_ways.perplexity(engine, odd.text)
    assert math.isnan(edit_ways.perplexity(engine, ""))


# -- items -------------------------------------------------------------------------------------------------------------


def test_items_are_the_same_again_and_of_every_class():
    stock = edit_items.Stock(mz.load("tiny").tokenizer, True)
    rows = edit_items.edits(stock)
    assert rows == edit_items.edits(stock)
    assert len({row["id"] for row in rows}) == len(rows)
    classes = {row["group"] for row in rows}
    assert {"replace word", "json", "sort", "dates", "delete sentence"} <= classes
    for row in edit_items.no_ops(stock):
        assert row["before"] == row["after"]
    assert no_op is not None and edit_items.translations(stock) == [] and edit_items.keywords(stock) == []
    assert edit_items.edits(edit_items.Stock(stock.tokenizer, False)) == []


@pytest.mark.parametrize("rate", [0.02, 0.1])
def test_errors_are_planted(rate):
    stock = edit_items.Stock(mz.load("tiny").tokenizer, False)
    rows = edit_items.planted(stock, rate)[:40]
    shares = []
    for row in rows:
        ids = stock.tokenizer.encode(row["after"])
        shares.append(len(changes.changes(row["before"], row["after"])) / len(ids))
        assert row["before"] != row["after"]
    assert len(rows) == 40 and min(shares) > 0 and sum(shares) / 40 < 3 * rate + 0.03


def test_jfleg_and_code_in_their_files(tmp_path):
    """Both forms of JFLEG's file; a solution and its Python head."""
    rows = [{"input": "They was here.", "references": ["They were here."], "source": "s"}]
    (tmp_path / "jfleg-dev-EVAL-nc.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    python = {"lang": "python", "task_id": "Python/1", "declaration": "def two(x):\n", "output": "    return 2 * x\n",
              "test": "def check(two):\n    assert two(4) == 8\n\ncheck(two)"}  # fmt: skip
    js = {
        "lang": "js",
        "task_id": "JavaScript/1",
        "declaration": "\nconst two = (x) => {\n",
        "output": "  return 2 * x;\n}\n",
        "test": "",
    }
    (tmp_path / "humaneval-x-EVAL.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (python, js)))
    stock = edit_items.Stock(mz.load("tiny").tokenizer, True, tmp_path)
    (sentence,) = edit_items.grammar(stock)
    assert sentence["before"] == "They was here." and sentence["references"] == ["They were here."]
    (row,) = edit_items.translations(stock)
    assert row["entry_point"] == "two" and row["before"].startswith("const two") and "def two(x):" in row["instruction"]


def test_a_translation_is_executed(tmp_path, strict):
    test_jfleg_and_code_in_their_files(tmp_path)
    rows = edit_items.translations(edit_items.Stock(mz.load("tiny").tokenizer, True, tmp_path))
    (item,), part = items_of(rows, 0), PARTS["convert"]
    assert part.judge(item, "def two(x):\n    return x + x\n", False, strict).state == "correct"
    assert part.judge(item, "```python\ndef two(x):\n    return x\n```", False, strict).state == "wrong"
    assert part.judge(item, item.gold["before"], False, strict).state == "no_answer"


# -- the run -----------------------------------------------------------------------------------------------------------


def test_ways_of_a_checkpoint(engine):
    ways, notes = edit_ways.chosen(engine, None)
    assert ways == ["diffusion"] and len(notes) == 3
    assert edit_ways.chosen(engine, "repair, diffusion")[0] == ["repair", "diffusion"]
    with pytest.raises(ValueError, match="unknown way 'left'"):
        edit_ways.chosen(engine, "left")
    with pytest.raises(ValueError, match="in none of ar"):
        edit_ways.chosen(engine, "ar")


def test_costs_stand_beside_ar(engine):
    found = edit_suite.Found("p", "P")
    cost = [edit_parts.mean("calls an edit", [2.0], ""), edit_parts.mean("seconds an edit", [0.5], "")]
    base = [edit_parts.mean("calls an edit", [10.0], ""), edit_parts.mean("seconds an edit", [2.0], "")]
    found.ways = {"diffusion": cost, "ar": base}
    edit_suite._compare(found)
    assert [edit_suite.shown(m) for m in found.ways["diffusion"]][-2:] == ["5.00x", "4.00x"]


def test_verified_and_ar_are_compared_where_both_ended():
    texts = {"verified": {"a": "one", "b": "two"}, "ar": {"a": "one", "b": "too", "c": "three"}}
    assert edit_suite._same(texts) == ["verified and ar: the same text in 1 of 2"]
    assert edit_suite._same({"diffusion": {"a": "one"}, "ar": {"a": "one"}}) == []


def test_the_tiny_model_from_the_command(tmp_path):
    args = ("eval", "edit", "--model", "tiny", "--items", 2, "--ways", "diffusion,repair", "--out", tmp_path / "store")
    env = {"MEZZOTINT_DATA": ""}
    code, out, err = call(*args, **env)
    assert code == 0 and "F0.5" in out and "texts changed" in out and "calls an edit" in out, err
    assert "tiny reads no request" in err
    answers = whole_lines(tmp_path / "store" / "diffusion" / "edit-repair-5.answers.jsonl")
    assert len(answers) == 2
    code, out, _ = call(*args, "--json", **env)
    told = json.loads(out)
    assert (
        whole_lines(tmp_path / "store" / "diffusion" / "edit-repair-5.answers.jsonl") == answers
    )  # nothing asked again
    assert told["ways"] == ["diffusion", "repair"]
    parts = {part["part"]: part for part in told["parts"]}
    measures = {m["measure"]: m for m in parts["repair-5"]["ways"]["repair"]}
    assert measures["F0.5"]["items"] == 2 and measures["seconds an edit"]["value"] > 0
    assert parts["grammar"]["skipped"] and not parts["grammar"]["ways"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("edit", "humaneval"), "run alone"),
        (("edit", "--decode", "ar"), "--decode"),
        (("edit", "--parts", "repare"), "unknown part 'repare'"),
        (("edit", "--model", "tiny", "--ways", "left"), "unknown way 'left'"),
        (("edit", "--items", "few"), "--items"),
        (("gpqa", "--fixtures", "--ways", "ar"), "mezzotint eval edit"),
    ],
)
def test_bad_input(args, words):
    code, _, err = call("eval", *args)
    assert code == 2 and words in err and len(err.splitlines()) == 1, err
