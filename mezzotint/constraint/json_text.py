"""JSON text: how values are spelled, always in one way: `{"a": 1, "b": [true, "é"]}`, as Python's json writes it.

One spelling makes most of the text certain: whatever can only stand there is given to the canvas, not generated.
"""

from __future__ import annotations

import json

from mezzotint.constraint.language import (
    LAST,
    Node,
    Ranges,
    alt,
    chars,
    members,
    repeat,
    separated,
    seq,
    text,
    without,
)  # fmt: skip

COMMA, COLON = text(", "), text(": ")
PLAIN: Ranges = without(((0x20, LAST),), ((0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x9F)))
SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
DIGIT = chars(((0x30, 0x39),))
NONZERO = chars(((0x31, 0x39),))
INTEGER = alt(text("0"), seq(repeat(text("-"), 0, 1), NONZERO, repeat(DIGIT, 0, 14)))  # doubles hold 15 digits exactly
NUMBER = seq(
    repeat(text("-"), 0, 1),
    alt(text("0"), seq(NONZERO, repeat(DIGIT, 0, 14))),
    repeat(seq(text("."), repeat(DIGIT, 1, 15)), 0, 1),
    repeat(seq(text("e"), alt(text("-"), text("+")), NONZERO, repeat(DIGIT, 0, 1)), 0, 1),
)
BOOLEAN = alt(text("true"), text("false"))
NULL = text("null")
SCALARS = ("string", "number", "boolean", "null")


def spelled(value: object) -> str:
    """A value as it is written. Raises ValueError for what JSON cannot spell."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def character(ranges: Ranges) -> Node:
    """One character of a string's value, as it is spelled inside the quotes."""
    parts = [chars(plain)] if (plain := without(ranges, without(((0, LAST),), PLAIN))) else []
    for low, high in ranges:
        parts += [text(SHORT[c]) for c in SHORT if low <= ord(c) <= high]
        hidden = [code for code in (*range(0x20), *range(0x7F, 0xA0)) if low <= code <= high and chr(code) not in SHORT]
        parts += [text(f"\\u{code:04x}") for code in hidden]
    return alt(*parts)


# free text: what people write; the rare controls are left to patterns that ask for them
FREE = alt(chars(PLAIN), *(text(SHORT[c]) for c in '"\\\n\t'))
STRING = seq(text('"'), repeat(FREE), text('"'))


def quoted(inside: Node) -> Node:
    return seq(text('"'), inside, text('"'))


def array(first: list[Node], item: Node | None, least: int, most: int | None) -> Node:
    """A list whose items begin with `first`; `item` for those after them (None: no more). least, most: how many."""
    if most is not None and most <= len(first):
        first, item = first[:most], None
    if not first:
        body = seq() if item is None else separated(item, COMMA, least, most)
    else:
        rest = most if most is None else most - len(first)
        more = alt() if item is None else seq(COMMA, separated(item, COMMA, max(least - len(first), 1), rest))
        body = _prefix([(part, number < least) for number, part in enumerate(first)], alt(seq(), more))
        if least > len(first):
            body = seq(_prefix([(part, True) for part in first], seq()), more)
    return seq(text("["), body, text("]"))


def _prefix(parts: list[tuple[Node, bool]], after: Node) -> Node:
    """The first, the first two, ... of the parts, at least those that are required; `after` all of them."""
    node = after
    for number in range(len(parts) - 1, -1, -1):
        part, required = parts[number]
        here = seq(*([COMMA] if number else []), part, node)
        node = here if required else repeat(here, 0, 1)
    return node


def record(fields: list[tuple[str, Node, bool]]) -> Node:
    """An object with these fields in order; those that are not required may be left out."""
    parts = [(seq(text(spelled(name)), COLON, value), required) for name, value, required in fields]
    return seq(text("{"), members(parts, COMMA), text("}"))


def table(value: Node, least: int = 0, most: int | None = None) -> Node:
    """An object with `least` to `most` fields of any name."""
    return seq(text("{"), separated(seq(STRING, COLON, value), COMMA, least, most), text("}"))


def anything(depth: int) -> Node:
    """Any value, with at most `depth` lists and objects inside one another."""
    scalar = alt(STRING, NUMBER, BOOLEAN, NULL)
    if depth == 0:
        return scalar
    inner = anything(depth - 1)
    return alt(scalar, array([], inner, 0, None), table(inner))


def numbers(low: int, high: int, places: int = 0) -> Node:
    """The numbers n / 10**places for whole n from `low` to `high`, written with that many decimals. ValueError for none."""
    if low > high:
        raise ValueError(f"no such number lies between {low / 10**places:g} and {high / 10**places:g}")
    parts = []
    if low < 0:
        parts.append(seq(text("-"), _naturals(max(1, -high), -low, places)))
    if high >= 0:
        parts.append(_naturals(max(0, low), high, places))
    return alt(*parts)


def _naturals(low: int, high: int, places: int) -> Node:
    """Between two numbers of any length, without leading zeros before the point."""
    parts = []
    for size in range(max(len(str(low)), places + 1), max(len(str(high)), places + 1) + 1):
        a, b = max(low, 10 ** (size - 1) if size > places + 1 else 0), min(high, 10**size - 1)
        parts.append(_between(str(a).zfill(size), str(b).zfill(size), places))
    return alt(*parts)


def _between(low: str, high: str, places: int) -> Node:
    """Texts of digits, equally long, from one to the other; a point stands before the last `places` of them."""
    rest = len(low) - 1
    if rest < 0:
        return seq()
    point = [text(".")] if places and rest == places else []
    if low == "0" * len(low) and high == "9" * len(high):
        before = len(low) - places if 0 < places < len(low) else len(low)
        tail = [text("."), repeat(DIGIT, places, places)] if before < len(low) else []
        return seq(repeat(DIGIT, before, before), *tail)
    if low[0] == high[0]:
        return seq(text(low[0]), *point, _between(low[1:], high[1:], places))
    parts = [
        seq(text(low[0]), *point, _between(low[1:], "9" * rest, places)),
        seq(text(high[0]), *point, _between("0" * rest, high[1:], places)),
    ]
    if int(low[0]) + 1 < int(high[0]):
        middle = chars(((ord(low[0]) + 1, ord(high[0]) - 1),))
        parts.append(seq(middle, *point, _between("0" * rest, "9" * rest, places)))
    return alt(*parts)
