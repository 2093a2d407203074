"""Schemas drawn at random, and texts drawn from an automaton."""

import json

import jsonschema
import numpy as np
from hypothesis import strategies as st

NAMES = st.sampled_from(["name", "age", "é", "日本", 'a"b', "x\\y", "items", "ok", "π r²", "🙂"])


@st.composite
def strings(draw):
    schema = {"type": "string"}
    kind = draw(st.sampled_from(["plain", "length", "pattern", "format"]))
    if kind == "length":
        low = draw(st.integers(0, 3))
        schema |= {"minLength": low, "maxLength": low + draw(st.integers(0, 4))}
    elif kind == "pattern":
        schema["pattern"] = draw(st.sampled_from(["^[A-Z]{2}[0-9]+$", "^(yes|no)$", "é+", '^"\\\\w"$', "^[^a]{0,3}$"]))
    elif kind == "format":
        schema["format"] = draw(st.sampled_from(["date", "time", "date-time", "uuid", "ipv4", "email"]))
    return schema


@st.composite
def numbers(draw):
    kind = draw(st.sampled_from(["integer", "number"]))
    schema = {"type": kind}
    low, size = draw(st.integers(-120, 120)), draw(st.integers(2, 60))
    scale = draw(st.sampled_from([1, 1, 10])) if kind == "number" else 1
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["minimum", "exclusiveMinimum"]))] = low / scale if scale > 1 else low
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["maximum", "exclusiveMaximum"]))] = round(low / scale + size, 1)
    return schema


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-99, 99), st.text(max_size=4).filter(lambda s: s.isprintable())
)
LEAVES = st.one_of(
    strings(), numbers(), st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["integer", "null"]}]),
    st.lists(VALUES, min_size=1, max_size=4).map(lambda values: {"enum": values}),
    VALUES.map(lambda value: {"const": value}),
)  # fmt: skip


@st.composite
def containers(draw, inner):
    if draw(st.booleans()):
        least = draw(st.integers(0, 2))
        schema = {"type": "array", "items": draw(inner), "minItems": least}
        if draw(st.booleans()):
            schema["maxItems"] = least + draw(st.integers(0, 2))
        if draw(st.integers(0, 3)) == 0:
            schema["prefixItems"] = [draw(inner)]
        return schema
    if draw(st.integers(0, 4)) == 0:
        return {"anyOf": [draw(inner), draw(inner)]}
    names = draw(st.lists(NAMES, max_size=4, unique=True))
    schema = {"type": "object", "properties": {name: draw(inner) for name in names}}
    schema["required"] = [name for name in names if draw(st.booleans())]
    schema["additionalProperties"] = False
    return schema


SCHEMAS = st.recursive(LEAVES, lambda inner: containers(inner), max_leaves=6)


def satisfies(text, schema):
    """Is it JSON that a validator of its own accepts, formats too?"""
    kind = jsonschema.Draft202012Validator
    return kind(schema, format_checker=kind.FORMAT_CHECKER).is_valid(json.loads(text))


def walk(automaton, rng, length=60):
    """A text drawn byte by byte; after `length` bytes the shortest way to an end."""
    step = automaton.next
    distance = np.where(automaton.final, 0, 1 << 30)
    while True:
        near = np.where(step >= 0, distance[np.where(step >= 0, step, 0)], 1 << 30).min(1) + 1
        if (np.minimum(distance, near) == distance).all():
            break
        distance = np.minimum(distance, near)
    state, out = 0, bytearray()
    while True:
        choices = (step[state] >= 0).nonzero()[0].tolist()
        if automaton.final[state] and (not choices or len(out) > length or rng.random() < 0.3):
            return out.decode()
        if len(out) > length:
            choices = [byte for byte in choices if distance[step[state, byte]] < distance[state]]
        byte = rng.choice(choices)
        out.append(byte)
        state = int(step[state, byte])
