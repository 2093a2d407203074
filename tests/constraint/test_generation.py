"""Texts that models write under a format, in every way of decoding: always valid, whatever the weights say."""

import json
import os
import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemas import SCHEMAS, satisfies

import mezzotint as mz
from mezzotint.model.condition import Condition
from mezzotint.sampler.decoding import POLICIES

FULL = os.environ.get("MEZZOTINT_FULL") == "1"
WAYS = [
    {"decode": "ar"}, {"decode": "verified"}, {"decode": "verified", "draft": "random"},
    {"decode": "verified", "draft": "self"}, {"decode": "verified", "draft": "self-two-call"}, {"decode": "diffusion"},
]  # fmt: skip
PERSON = {
    "type": "object", "additionalProperties": False, "required": ["name", "age", "likes"],
    "properties": {
        "name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "likes": {"type": "array", "items": {"enum": ["thé", "日本"]}, "maxItems": 2},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def engine():
    return mz.Engine(mz.load("tiny"))


@pytest.fixture(scope="module")
def wild():
    """The same network with weights that have learnt nothing."""
    engine = mz.Engine(mz.load("tiny"))
    draws = torch.Generator().manual_seed(0)
    for weight in engine.denoiser.parameters():
        weight.data.normal_(0, 0.5, generator=draws)
    return engine


def ask(engine, form, **settings):
    return engine.generate(mz.Request("Mia is", raw=True, format=form, **{"max_tokens": 96, **settings}))[0]


@given(SCHEMAS, st.integers(0, len(WAYS) - 1), st.sampled_from([0.0, 1.0]), st.integers(0, 99), st.integers(0, 20))
@settings(max_examples=400 if FULL else 12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_answer_is_valid(wild, schema, way, temperature, seed, spare):
    form = mz.JsonSchema(schema)
    room = max(1, int(wild.lattice(form).automaton.distance[0])) + spare  # little of it: an answer must learn to close
    reply = ask(wild, form, **WAYS[way], temperature=temperature, seed=seed, max_tokens=room)
    assert satisfies(reply.text, schema)


@pytest.mark.parametrize(
    "policy", POLICIES if FULL else ("entropy", "ancestral", "diffusion-gemma", "editing", "wino", "nemotron")
)
def test_every_policy_keeps_a_format(engine, policy):
    form = mz.Regex(r'\{"a": "[a-z ]{1,6}", "b": (true|false), "c": [1-9][0-9]?\}')
    reply = ask(engine, form, decode="diffusion", policy=policy, seed=1, max_tokens=40)
    assert re.fullmatch(form.pattern, reply.text)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_verified_text_is_that_of_ar_under_the_same_format(engine, temperature, count):
    for seed in range(count(40)):
        texts = {
            ask(engine, mz.JsonSchema(PERSON), **way, temperature=temperature, seed=seed).text for way in WAYS[:-1]
        }
        assert len(texts) == 1


def test_committed_text_is_always_a_beginning_of_a_valid_one(engine):
    form = mz.JsonSchema(PERSON)
    automaton = form.automaton
    for way in WAYS:
        text = b""
        for event in engine.stream(mz.Request("Mia is", raw=True, format=form, max_tokens=48, **way)):
            if isinstance(event, mz.Text):
                text += event.piece.encode()
                assert automaton.run(text) >= 0


def test_literals_cost_no_call(engine):
    plain = ask(engine, None, decode="ar", max_tokens=30)
    reply = ask(engine, mz.JsonSchema({"const": {"a": [1, 2, 3], "b": "a long literal text, given"}}), decode="ar")
    assert json.loads(reply.text)["a"] == [1, 2, 3] and reply.reason == "stop"
    assert reply.trace.num_calls <= 1 < plain.trace.num_calls
    canvas = ask(engine, mz.JsonSchema({"const": {"a": [1, 2, 3]}}), decode="diffusion")
    assert all(frame.kind != "denoise" for frame in canvas.trace.frames)
    person = ask(engine, mz.JsonSchema(PERSON), decode="ar")
    given = sum(frame.status[: frame.committed].count(0) for frame in person.trace.frames)
    assert given > 8 and person.trace.num_calls < person.trace.num_tokens - given + 4


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_may_end_with_its_choice(engine, way):
    forms = [mz.Regex("[a-f]|no"), mz.Regex("(yes|no)+"), mz.JsonSchema({"enum": [1, 2, 30]})]
    for temperature in (0.0, 1.0):
        asked = [
            mz.Request("Mia", raw=True, max_tokens=12, seed=n, temperature=temperature, format=form, **way)
            for n, form in enumerate(forms * 2)
        ]
        for request, reply in zip(asked, engine.generate(asked), strict=True):
            assert request.format.automaton.accepts(reply.text)


def test_rows_with_and_without_a_format_share_a_stream(engine):
    form = mz.JsonSchema(PERSON)
    for way in WAYS[:2] + WAYS[-1:]:
        asked = [
            mz.Request("Mia is", raw=True, max_tokens=40, seed=n, format=f, **way)
            for n, f in enumerate((form, None, form))
        ]
        alone = [engine.generate(request)[0].text for request in asked]
        assert [reply.text for reply in engine.generate(asked)] == alone


@pytest.mark.parametrize("settings, words", [
    ({"max_tokens": 3}, "shortest text of this format"), ({"locks": {0: "x"}}, "format and locks"),
    ({"decode": "diffusion", "blocks_in_flight": 2}, "one block"),
])  # fmt: skip
def test_what_does_not_go_together(engine, settings, words):
    with pytest.raises(ValueError, match=words):
        ask(engine, mz.JsonSchema(PERSON), **settings)


def test_whole_canvases_follow_no_format():
    engine = mz.Engine(mz.load("digits"))
    with pytest.raises(ValueError, match="whole canvases"):
        engine.generate(mz.Request(condition=Condition(class_label=1), decode="diffusion", format=mz.Regex("1")))
