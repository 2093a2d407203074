"""Patterns and schemas against Python's own matcher and a JSON schema validator."""

import json
import os
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schemas import SCHEMAS, satisfies, walk

from mezzotint.constraint.formats import JsonSchema, Regex, ToolCall, parse_call
from mezzotint.constraint.language import Automaton, chars, utf8_ranges
from mezzotint.constraint.schema import FORMATS, UnsupportedSchema

EXAMPLES = 500 if os.environ.get("MEZZOTINT_FULL") == "1" else 12
PATTERNS = [
    r"[a-z]+\d{2}|é", r"\w+\s\S", r"[^\W\d]x", r"(foo|bar)*?baz{1,3}", r".{3}", r"^abc$", r"\D\d", r"(?:)", r"a?b*c+",
    r"[^a-c]{0,2}", r"🙂[À-ÿ]{1,2}", *FORMATS.values(),
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_texts_match_their_pattern(pattern):
    automaton, rng = Regex(pattern).automaton, random.Random(0)
    for _ in range(20):
        assert re.fullmatch(pattern, walk(automaton, rng))


@pytest.mark.parametrize("pattern, yes, no", [
    (r"a|b+", ["a", "bbb"], ["", "ab"]), (r"(ab){2,3}", ["abab", "ababab"], ["ab", "abababab"]),
    (r"[^é]", ["e", "日"], ["é", "ee"]), (r"\d\d-\w", ["12-x"], ["1-x", "12-é"]), (r"x*", ["", "xx"], ["y"]),
])  # fmt: skip
def test_an_automaton_knows_what_belongs(pattern, yes, no):
    automaton = Regex(pattern).automaton
    assert all(map(automaton.accepts, yes)) and not any(map(automaton.accepts, no))


@given(st.integers(0, 0x10FFFF), st.integers(0, 0x10FFFF), st.integers(0, 0x10FFFF))
@settings(max_examples=EXAMPLES, deadline=None)
def test_byte_ranges_are_the_encoding(a, b, c):
    low, high = min(a, b), max(a, b)
    if 0xD800 <= c <= 0xDFFF:
        return
    data = chr(c).encode()
    fits = [
        s
        for s in utf8_ranges(low, high)
        if len(s) == len(data) and all(x <= d <= y for d, (x, y) in zip(data, s, strict=True))
    ]
    assert len(fits) == (low <= c <= high)


def test_states_are_merged():
    assert len(Automaton.of(chars(((0x61, 0x7A),))).next) == 2
    assert len(Regex("(abc|xbc)d").automaton.next) == len(Regex("[ax]bcd").automaton.next) == 5


@given(SCHEMAS, st.integers(0, 2**32))
@settings(max_examples=EXAMPLES, deadline=None)
def test_every_text_of_a_schema_satisfies_it(schema, seed):
    automaton, rng = JsonSchema(schema).automaton, random.Random(seed)
    for _ in range(5):
        assert satisfies(text := walk(automaton, rng), schema), text


CASES = [
    ({"type": "object"}, {"a": [1, {"b": None}]}),
    ({"$ref": "#/$defs/n", "$defs": {"n": {"type": "object", "properties": {
        "v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/n"}}}, "required": ["v", "kids"]}}},
     {"v": 1, "kids": [{"v": 2, "kids": []}]}),
    ({"oneOf": [
        {"type": "object", "properties": {"k": {"const": "x"}, "n": {"type": "number"}}, "required": ["k", "n"]},
        {"type": "object", "properties": {"k": {"const": "y"}}, "required": ["k"]}]}, {"k": "x", "n": -1.5}),
    ({"allOf": [{"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
                {"properties": {"b": {"type": "boolean"}}, "required": ["b"]}]}, {"a": "", "b": True}),
    ({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}, {"b": 2}),
    ({"type": "object", "additionalProperties": {"type": "number"}}, {"x": 1, "y": 2.25}),
    ({"anyOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]}, "日本語"),
    ({"type": "string"}, 'a "quoted"\nline \\'),
    ({"type": "number", "minimum": 0.5, "maximum": 2}, 0.75),
    (True, {"any": ["thing", 1e5]}),
]  # fmt: skip


@pytest.mark.parametrize("schema, value", CASES)
def test_ordinary_values_belong(schema, value):
    text = json.dumps(value, ensure_ascii=False).replace("100000.0", "1e+5")
    assert JsonSchema(schema).automaton.accepts(text), text
    for seed in range(10):
        drawn = walk(JsonSchema(schema).automaton, random.Random(seed))
        assert satisfies(drawn, schema), drawn


@pytest.mark.parametrize("schema, named", [
    ({"type": "array", "uniqueItems": True}, ["uniqueItems"]),
    ({"type": "object", "properties": {"a": {"not": {}}, "b": {"multipleOf": 3}}}, ["not", "multipleOf", "#/properties/b"]),
    ({"type": "string", "format": "zip"}, ["format zip"]), ({"pattern": "(?=a)b"}, ["look-around"]),
    ({"pattern": r"(a)\1"}, ["back-reference"]), ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, ["oneOf"]),
    ({"type": "object", "patternProperties": {}}, ["patternProperties"]), ({"$ref": "http://x/y"}, ["$ref to http://x/y"]),
    ({"if": {}, "then": {}}, ["if"]), ({"enum": ["a"], "minLength": 2}, ["minLength beside enum"]),
    ({"type": "string", "maxLength": 10**6}, ["maxLength above"]),
])  # fmt: skip
def test_what_is_not_supported_is_named(schema, named):
    with pytest.raises(UnsupportedSchema) as caught:
        JsonSchema(schema)
    assert all(name in str(caught.value) for name in named)


@pytest.mark.parametrize("schema", [
    {"type": "strin"}, {"$ref": "#/nowhere"}, {"properties": []}, {"minLength": "3", "type": "string"}, [], "x",
    {"type": "string", "minLength": 3, "maxLength": 1}, False, {"$ref": "#"}, {"enum": []}, {"type": "array", "items": 3},
    {"type": "integer", "minimum": 3, "maximum": 2}, {"enum": [float("nan")]}, {"anyOf": []}, {"type": "string", "pattern": 3},
    {"type": "array", "minItems": 3000, "items": {"type": "string"}},
])  # fmt: skip
def test_bad_schemas_are_refused(schema):
    with pytest.raises(ValueError):
        JsonSchema(schema)


@pytest.mark.parametrize("pattern", ["(", r"a\b", "(?i)a", "a{5000}", "x" * 5000, "(?>a)", "a^b", "((a{99}){99}){99}"])
def test_bad_patterns_are_refused(pattern):
    with pytest.raises(ValueError):
        Regex(pattern)


def test_a_tool_call_is_read_back():
    schema = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}
    text = '{"name": "find", "arguments": {"q": "a}, \\"arguments\\": "}}'
    assert ToolCall({"find": schema}).automaton.accepts(text)
    assert parse_call(text) == ("find", '{"q": "a}, \\"arguments\\": "}')
    free = ToolCall({"find": schema}, required=False).automaton
    assert free.accepts(f"<tool_call>\n{text}\n</tool_call>") and free.accepts("<tool>") and free.accepts("Hi {1}")
    assert not free.accepts("<tool_call>\n{}") and parse_call("Hi") is None
