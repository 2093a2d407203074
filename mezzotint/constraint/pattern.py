"""Pattern: a regular expression, read by Python's own parser, as a language.

    [a-z]+\\d{2}|é    ->    alt(seq(repeat(chars a-z, 1), repeat(chars 0-9, 2, 2)), chars é)

Python's and ECMAScript's dialects differ in what \\w, \\d, \\s and the dot mean. Each is read here as what both accept, so a
text that is made is valid under either.
"""

from __future__ import annotations

import re
import re._parser as parser  # type: ignore[import-not-found]  # the syntax tree has no public name
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from mezzotint.constraint.language import LAST, Node, Ranges, alt, chars, merged, repeat, seq, without

ANY: Ranges = ((0, LAST),)
LINE_ENDS: Ranges = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
DIGITS: Ranges = ((0x30, 0x39),)
WORDS: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
SPACES: Ranges = ((0x09, 0x0D), (0x20, 0x20))
MAX_LENGTH = 4096  # characters of a pattern
MAX_TIMES = 4096
Leaf = Callable[[Ranges], Node]  # a character of the pattern as it is spelled in the text


def pattern_node(pattern: str, leaf: Leaf = chars, anywhere: bool = False) -> Node:
    """The texts that match the whole pattern, or, with `anywhere`, those that hold a match (as JSON schema asks).

    Raises ValueError for what is not a regular expression, and naming what no automaton can do.
    """
    if len(pattern) > MAX_LENGTH:
        raise ValueError(f"the pattern has {len(pattern)} characters; at most {MAX_LENGTH} are read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tree = parser.parse(pattern)
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise ValueError(f"{pattern[:80]!r} is not a regular expression: {str(error)[:200]}") from None
    if tree.state.flags & ~re.UNICODE.value:
        raise ValueError("flags in a pattern are not supported; write them out")
    return _branches(list(tree), leaf, anywhere)


def _branches(items: list[Any], leaf: Leaf, anywhere: bool) -> Node:
    """The whole pattern: anchors at its ends, or at those of its branches."""
    if len(items) == 1 and str(items[0][0]) == "BRANCH":
        return alt(*(_branches(list(branch), leaf, anywhere) for branch in items[0][1][1]))
    if len(items) == 1 and str(items[0][0]) == "SUBPATTERN" and not (items[0][1][1] or items[0][1][2]):
        return _branches(list(items[0][1][3]), leaf, anywhere)
    start = bool(items) and _is_anchor(items[0], "AT_BEGINNING", "AT_BEGINNING_STRING")
    items = items[1:] if start else items
    end = bool(items) and _is_anchor(items[-1], "AT_END", "AT_END_STRING")
    items = items[:-1] if end else items
    free = repeat(leaf(ANY))
    before, after = ([] if start or not anywhere else [free]), ([] if end or not anywhere else [free])
    return seq(*before, _sequence(items, leaf), *after)


def _is_anchor(item: Any, *names: str) -> bool:
    return str(item[0]) == "AT" and str(item[1]) in names


def _sequence(items: Any, leaf: Leaf) -> Node:
    return seq(*(_item(str(code), value, leaf) for code, value in items))


def _item(code: str, value: Any, leaf: Leaf) -> Node:
    if code == "LITERAL":
        return leaf(((value, value),))
    if code == "NOT_LITERAL":
        return leaf(without(ANY, ((value, value),)))
    if code == "ANY":
        return leaf(without(ANY, LINE_ENDS))
    if code == "IN":
        return leaf(_class(value))
    if code == "CATEGORY":
        return leaf(_category(str(value)))
    if code == "BRANCH":
        return alt(*(_sequence(branch, leaf) for branch in value[1]))
    if code == "SUBPATTERN" and not (value[1] or value[2]):
        return _sequence(value[3], leaf)
    if code in ("MAX_REPEAT", "MIN_REPEAT"):
        least, most, part = value
        endless = most is parser.MAXREPEAT
        if (high := least if endless else most) > MAX_TIMES:
            raise ValueError(f"a repetition of {high} times is not supported; at most {MAX_TIMES} are")
        return repeat(_sequence(part, leaf), least, None if endless else most)
    names = {
        "AT": "an anchor or word border inside the pattern", "ASSERT": "look-around", "ASSERT_NOT": "look-around",
        "GROUPREF": "a back-reference", "GROUPREF_EXISTS": "a conditional group", "SUBPATTERN": "flags in a group",
        "POSSESSIVE_REPEAT": "a possessive repetition", "ATOMIC_GROUP": "an atomic group",
    }  # fmt: skip
    raise ValueError(f"{names.get(code, code)} is not supported in a pattern")


def _class(items: list[Any]) -> Ranges:
    """[...]"""
    found: list[tuple[int, int]] = []
    excluded = str(items[0][0]) == "NEGATE"
    for code, value in items[1:] if excluded else items:
        if str(code) == "LITERAL":
            found.append((value, value))
        elif str(code) == "RANGE":
            found.append(value)
        else:
            found += _category(str(value), wide=excluded)
    return without(ANY, merged(found)) if excluded else merged(found)


def _category(name: str, wide: bool = False) -> Ranges:
    """What \\d, \\w, \\s and their opposites mean. wide: all that some dialect counts, for a class to be excluded."""
    opposite = "NOT" in name
    letter = {"DIGIT": "d", "WORD": "w", "SPACE": "s"}[name.rsplit("_", 1)[1]]
    narrow = {"d": DIGITS, "w": WORDS, "s": SPACES}[letter]
    if opposite:
        return without(ANY, narrow if wide else _everywhere(letter))
    return _everywhere(letter) if wide else narrow


@lru_cache
def _everywhere(letter: str) -> Ranges:
    """All characters of a class in Unicode, and those that ECMAScript counts besides."""
    found = ((m.start(), m.end() - 1) for m in re.finditer(rf"[\{letter}]+", "".join(map(chr, range(LAST + 1)))))
    return merged([*found, *((0xFEFF, 0xFEFF) for _ in range(letter == "s"))])
