"""The questions of benchmarks/grounding.py: each value stands in its prompt once, and outcomes are told apart."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from grounding import KINDS, outcome, questions


def test_every_value_stands_in_its_note():
    asked = questions(100, 0)
    assert len({q.prompt for q in asked}) == 100 and questions(100, 0) == asked != questions(100, 1)
    assert [sum(q.kind == kind for q in asked) for kind in KINDS] == [34, 33, 33]
    for question in asked:
        assert question.note.count(question.value) == 1 and question.value in KINDS[question.kind].findall(
            question.note
        )
        assert outcome(question, f"It is {question.value}.") == "copied"


@pytest.mark.parametrize("index", range(3))
def test_outcomes(index):
    question = questions(3, 5)[index]
    others = set(KINDS[question.kind].findall(question.note)) - {question.value}
    strange = {"name": "Nobody Here", "number": "77777", "date": "1 May 1899"}[question.kind]
    assert outcome(question, f"{question.value} or {others.pop()}") == "other"
    assert outcome(question, strange) == outcome(question, f"{question.value}, {strange}") == "invented"
    assert outcome(question, "") == outcome(question, "i do not know") == "none"


def test_a_number_may_be_grouped():
    question = next(q for q in questions(6, 0) if q.kind == "number")
    assert outcome(question, f"{int(question.value):,} of them") == "copied"
