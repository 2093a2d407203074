"""Programmatic edits: their answers are exact, they repeat, every kind occurs, and what is stable changes nothing twice."""

import ast
import json
import random
from collections import Counter

import pytest

from mezzotint.recipes import edits as made
from mezzotint.recipes.edits import KINDS, edits, no_op, say, typo

PROSE = [
    "The old bridge was closed for repairs. Nobody used the old road. It took the town a year to open the bridge again.",
    "Mia has a red ball and Tom has a blue ball. Mia throws the ball.",
    "A short sentence about the sea.",
]
CODE = [
    "def add_all(first_number, other):\n    # sum them\n    total = first_number + other\n    return total * 17 + first_number",
    "function f(x) {\n    const name = 'abc';\n    return name + 'x' + x;\n}",
]


def some(kinds, count):
    texts = {"prose": PROSE, "code": CODE, "made": [""]}[kinds]
    return [e for _, e in edits([(texts[i % len(texts)], str(i)) for i in range(count)], 0, kinds, each=2)]


@pytest.mark.parametrize("kinds", KINDS)
def test_every_kind_occurs_repeats_and_changes_something(kinds):
    found = some(kinds, 400)
    assert found == some(kinds, 400) and all(e.before != e.after and e.instruction for e in found)
    kinds_found = Counter(e.kind for e in found)
    assert len(kinds_found) >= len(KINDS[kinds]) and min(kinds_found.values()) > 3, kinds_found
    ways = {e.instruction.lower().removeprefix("please ").rstrip(".")[:12] for e in found}
    assert len(ways) > 3 * len(KINDS[kinds])


def of(kind, kinds, count=600):
    return [e for e in some(kinds, count) if e.kind == kind]


def test_the_answers_are_right():
    for e in of("rename", "code"):
        compact = e.after.replace("\n", " ")
        assert len(made.NAME.findall(compact)) == len(made.NAME.findall(e.before.replace("\n", " ")))
    for e in of("indent", "code"):
        if e.before.startswith("def") and "\t" not in e.after:
            assert ast.dump(ast.parse(e.after)) == ast.dump(ast.parse(e.before))
    for e in of("json", "made"):
        assert json.loads(e.before) != json.loads(e.after)
    for e in of("sort", "made"):
        assert e.after.split("\n") == sorted(e.before.split("\n"))
    for e in of("dedupe", "made"):
        assert e.after.split("\n") == list(dict.fromkeys(e.before.split("\n")))
    for e in of("typos", "prose"):
        assert e.after in PROSE and len(e.before) - len(e.after) in range(-4, 5)
    for e in of("number", "code"):
        assert sum(a != b for a, b in zip(e.before.split(), e.after.split(), strict=True)) == 1
    for e in of("delete sentence", "prose"):
        assert len(e.after) < len(e.before)


def test_a_stable_edit_made_again_is_a_no_op():
    found = [e for kinds in KINDS for e in some(kinds, 300)]
    again = [no_op(e) for e in found]
    assert all(n is None or (n.before == n.after and n.kind == "no-op") for n in again)
    assert 0.3 < sum(n is not None for n in again) / len(again) < 1


def test_ways_of_saying_and_typos():
    draw = random.Random(0)
    said = {say(draw, "Use {a}|Take {a}", a="x y") for _ in range(100)}
    assert {"Use x y.", "Take x y", "Please use x y.", "take x y."} <= said
    slips = {typo("market", draw) for _ in range(200)}
    assert {"amrket", "arket", "mmarket"} & slips and all(abs(len(s) - 6) <= 1 for s in slips)
    with pytest.raises(ValueError, match="allowed: prose, code, made"):
        list(edits([], 0, "verse"))
