"""Streams of the engine: several rows are what each is alone, and choices of one seed differ."""

from dataclasses import replace

import pytest

import mezzotint as mz
from mezzotint.engine.request import Text


@pytest.fixture(scope="module")
def engine():
    return mz.Engine(mz.load("tiny"))


@pytest.mark.parametrize("decode", ["verified", "diffusion"])
def test_rows_of_a_stream_are_what_each_is_alone(engine, decode):
    request = mz.Request("Mia has", raw=True, decode=decode, max_tokens=12, temperature=0.9, seed=4)
    rows = [request, replace(request, choice=1), replace(request, prompt="The blue", choice=2)]
    texts = ["", "", ""]
    for event in engine.stream(rows):
        if isinstance(event, Text):
            texts[event.row] += event.piece
    assert texts == [reply.text for row in rows for reply in engine.generate(row)]
    assert texts[0] != texts[1]


def test_rows_decoded_in_different_ways_are_refused(engine):
    request = mz.Request("Mia has", raw=True)
    for wrong in ([], [request, replace(request, max_tokens=3)], [replace(request, draft="text", draft_text="a")] * 2):
        with pytest.raises(ValueError, match="decoded in one way"):
            engine.stream(wrong)
    with pytest.raises(ValueError, match="choice is -1"):
        replace(request, choice=-1)
