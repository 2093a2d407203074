"""Schema: a JSON schema (draft 2020-12) as a language of JSON texts that satisfy it.

- Every text of the language is valid; not every valid text is in it. Fields come in the schema's order, no others are added
  to those that are named, and numbers have at most 15 digits before and after the point.
- What no automaton can do (and what is not done here) is refused: all such keywords are named, with their places.
- A schema that contains itself is unrolled `MAX_NESTING` times; where nothing is said of a value, it may nest `FREE_DEPTH` deep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from mezzotint.constraint import json_text as spell
from mezzotint.constraint.language import LAST, Node, alt, both, repeat, text
from mezzotint.constraint.pattern import pattern_node

MAX_NESTING, FREE_DEPTH = 3, 2
MAX_DEPTH = 32  # of schemas inside schemas
MAX_TIMES = 4096  # a bound on lengths and items above it would not fit an automaton
TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
NOTES = frozenset({
    "title", "description", "default", "examples", "$schema", "$id", "$comment", "$defs", "definitions", "deprecated",
    "readOnly", "writeOnly", "$anchor", "discriminator", "example", "contentMediaType", "contentEncoding"
})  # fmt: skip
OF_TYPE = {  # keyword -> the type it speaks about
    "properties": "object", "required": "object", "additionalProperties": "object", "minProperties": "object",
    "maxProperties": "object", "items": "array", "prefixItems": "array", "minItems": "array", "maxItems": "array",
    "minLength": "string", "maxLength": "string", "pattern": "string", "format": "string", "minimum": "number",
    "maximum": "number", "exclusiveMinimum": "number", "exclusiveMaximum": "number",
}  # fmt: skip
UNSUPPORTED = frozenset({
    "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "patternProperties",
    "propertyNames", "unevaluatedProperties", "unevaluatedItems", "contains", "minContains", "maxContains", "uniqueItems",
    "multipleOf", "$dynamicRef", "$recursiveRef", "additionalItems",
})  # fmt: skip
NEUTRAL = {"uniqueItems": False, "minProperties": 0, "minContains": 0}
_DAY = r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8]))"
_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d"
_BYTE = r"(?:\d|[1-9]\d|1\d\d|2[0-4]\d|25[0-5])"
_HOST = r"[a-z0-9](?:[a-z0-9-]{0,20}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,20}[a-z0-9])?){0,2}\.[a-z]{2,8}"
FORMATS = {
    "date": rf"(?:19|20)\d\d-{_DAY}",
    "time": rf"{_TIME}Z",
    "date-time": rf"(?:19|20)\d\d-{_DAY}T{_TIME}Z",
    "duration": r"P(?:[1-9]\d{0,3}D|T(?:[1-9]\d{0,3}H|[1-9]\d{0,3}M|[1-9]\d{0,3}S))",
    "email": rf"[A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*@{_HOST}",
    "hostname": _HOST,
    "ipv4": rf"{_BYTE}(?:\.{_BYTE}){{3}}",
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
    "uri": rf"https?://{_HOST}(?:/[A-Za-z0-9._~-]+){{0,6}}/?",
}  # fmt: skip


class UnsupportedSchema(ValueError):
    """`keywords`: what cannot be followed, each with its place."""

    def __init__(self, keywords: list[str]) -> None:
        super().__init__(f"the schema uses what is not supported: {', '.join(keywords[:20])}")
        self.keywords = keywords


def schema_node(schema: Any) -> Node:
    """The language of a schema. Raises UnsupportedSchema, and ValueError for what is not a schema."""
    reader = _Reader(schema)
    node = reader.node(schema, "#")
    if reader.unsupported:
        raise UnsupportedSchema(list(dict.fromkeys(reader.unsupported)))
    return node


def object_node() -> Node:
    """Any JSON object."""
    return spell.table(spell.anything(FREE_DEPTH))


@dataclass
class _Reader:
    root: Any
    unsupported: list[str] = field(default_factory=list)
    inside: list[str] = field(default_factory=list)  # the references that are being followed
    depth: int = 0

    def node(self, schema: Any, place: str) -> Node:
        if schema is True:
            return spell.anything(FREE_DEPTH)
        if schema is False:
            return alt()
        if not isinstance(schema, Mapping):
            raise ValueError(f"{place} is {str(schema)[:40]!r}; a schema is an object or a boolean")
        if self.depth >= MAX_DEPTH:
            raise ValueError(f"{place[:200]} lies {MAX_DEPTH} schemas deep; at most that many are read")
        self.depth += 1
        try:
            return self._composed(schema, place)
        finally:
            self.depth -= 1

    def _refuse(self, keyword: str, place: str) -> Node:
        self.unsupported.append(f"{keyword} (at {place[:120]})")
        return alt()

    def _composed(self, schema: Mapping[str, Any], place: str) -> Node:
        """References and combinations of schemas, resolved into alternatives of plain ones."""
        for keyword in schema:
            if keyword in UNSUPPORTED and not (keyword in NEUTRAL and schema[keyword] == NEUTRAL[keyword]):
                return self._refuse(keyword, place)
        rest = {key: value for key, value in schema.items() if key not in NOTES}
        if "$ref" in rest:
            return self._reference(rest, place)
        if "allOf" in rest:
            parts = self._list(rest.pop("allOf"), "allOf", place)
            for number, part in enumerate(parts):
                merged = self._merge(rest, self._resolved(part, place), f"{place}/allOf/{number}")
                if merged is None:
                    return alt()
                rest = merged
            return self.node(rest, place)
        for keyword in ("anyOf", "oneOf"):
            if keyword in rest:
                parts = self._list(rest.pop(keyword), keyword, place)
                if keyword == "oneOf":
                    whole = [self._resolved(part, place) for part in parts]
                    if any(not _apart(a, b) for n, a in enumerate(whole) for b in whole[:n]):
                        return self._refuse("oneOf with alternatives that one value may satisfy together", place)
                nodes = []
                for number, part in enumerate(parts):
                    here = f"{place}/{keyword}/{number}"
                    asked = self._merge(rest, self._resolved(part, place), here) if rest else part
                    nodes.append(alt() if asked is None else self.node(asked, here))
                return alt(*nodes)
        return self._plain(rest, place)

    # -- references and combinations -----------------------------------------------------------------------------------

    def _list(self, value: Any, keyword: str, place: str) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise ValueError(f"{place}/{keyword} must be a list of at least one schema")
        return value

    def _target(self, reference: Any, place: str) -> Any:
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            self._refuse(f"$ref to {str(reference)[:80]}", place)
            return False
        found = self.root
        for part in reference.split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and part.isdigit() and int(part) < len(found):
                found = found[int(part)]
            elif isinstance(found, Mapping) and part in found:
                found = found[part]
            else:
                raise ValueError(f"$ref {reference[:80]!r} at {place[:120]} leads nowhere")
        return found

    def _reference(self, schema: dict[str, Any], place: str) -> Node:
        reference = schema.pop("$ref")
        target = self._target(reference, place)
        if self.inside.count(reference) >= MAX_NESTING:
            return alt()
        self.inside.append(reference)
        try:
            if schema and isinstance(target, Mapping):
                target = self._merge(schema, dict(target), place)
            return alt() if target is None else self.node(target, reference)
        finally:
            self.inside.pop()

    def _resolved(self, schema: Any, place: str) -> dict[str, Any]:
        """A schema as a table, its reference followed unless it leads back here."""
        for _ in range(MAX_DEPTH):
            if schema is True:
                return {}
            if schema is False:
                return {"enum": []}
            if not isinstance(schema, Mapping):
                raise ValueError(f"{place} holds {str(schema)[:40]!r}; a schema is an object or a boolean")
            here = {key: value for key, value in schema.items() if key not in NOTES}
            if set(here) != {"$ref"} or here["$ref"] in self.inside:
                return here
            schema = self._target(here["$ref"], place)
        raise ValueError(f"the references at {place} lead in a circle")

    def _merge(self, first: Mapping[str, Any], second: Mapping[str, Any], place: str) -> dict[str, Any] | None:
        """One table that asks what both ask; None where that is refused, or nothing satisfies both."""
        out = {key: value for key, value in first.items() if key not in NOTES}
        second = {key: value for key, value in second.items() if key not in NOTES}
        shapes = [{k: s[k] for k in ("properties", "additionalProperties") if k in s} for s in (out, second)]
        closed = any(shape.get("additionalProperties", True) is not True for shape in shapes)
        if closed and all(shapes) and set(shapes[0].get("properties", ())) != set(shapes[1].get("properties", ())):
            self._refuse("additionalProperties beside properties of another schema", place)
            return None
        for key, value in second.items():
            if key not in out or out[key] == value:
                out[key] = value
            elif key == "properties":
                fields = dict(out[key])
                for name, inner in value.items():
                    merged = inner if name not in fields else self._merge(
                        self._resolved(fields[name], place), self._resolved(inner, place), f"{place}/properties/{name}"
                    )  # fmt: skip
                    if merged is None:
                        return None
                    fields[name] = merged
                out[key] = fields
            elif key == "required":
                out[key] = [*out[key], *(name for name in value if name not in out[key])]
            elif key in ("minimum", "exclusiveMinimum", "minLength", "minItems"):
                out[key] = max(out[key], value)
            elif key in ("maximum", "exclusiveMaximum", "maxLength", "maxItems"):
                out[key] = min(out[key], value)
            elif key == "type":
                kinds = [k for k in _listed(out[key]) if k in _listed(value)]
                if not kinds:
                    return None
                out[key] = kinds
            elif key == "enum":
                out[key] = [x for x in out[key] if any(_same(x, y) for y in value)]
            else:
                self._refuse(f"two values of {key} together", place)
                return None
        return out

    # -- plain schemas -------------------------------------------------------------------------------------------------

    def _plain(self, schema: dict[str, Any], place: str) -> Node:
        if "const" in schema or "enum" in schema:
            return self._values(schema, place)
        if "type" in schema:
            kinds = _listed(schema["type"])
            if not kinds or any(kind not in TYPES for kind in kinds):
                raise ValueError(f"type at {place[:120]} is {str(schema['type'])[:60]!r}; allowed: {', '.join(TYPES)}")
        else:
            kinds = list(dict.fromkeys(OF_TYPE[key] for key in schema if key in OF_TYPE))
            if not kinds:
                return spell.anything(FREE_DEPTH)
        makers = {
            "object": self._object, "array": self._array, "string": self._string, "number": self._number,
            "integer": self._integer, "boolean": lambda *_: spell.BOOLEAN, "null": lambda *_: spell.NULL,
        }  # fmt: skip
        return alt(*(makers[kind](schema, place) for kind in kinds))

    def _values(self, schema: dict[str, Any], place: str) -> Node:
        """Values written out, of those the ones that the type allows."""
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        if not isinstance(values, list):
            raise ValueError(f"enum at {place[:120]} must be a list")
        for keyword in schema:
            if keyword in OF_TYPE:
                return self._refuse(f"{keyword} beside enum or const", place)
        if "enum" in schema and "const" in schema:
            values = [value for value in values if _same(value, schema["const"])]
        kinds = _listed(schema.get("type", list(TYPES)))
        try:
            return alt(*(text(spell.spelled(value)) for value in values if any(_is(value, kind) for kind in kinds)))
        except (TypeError, ValueError):
            raise ValueError(f"a value at {place[:120]} is none that JSON can spell") from None

    def _count(self, schema: dict[str, Any], keyword: str, place: str) -> int | None:
        value = schema.get(keyword)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 0:
            raise ValueError(f"{keyword} at {place[:120]} is {str(value)[:40]}; it must be a whole number from 0 up")
        if value > MAX_TIMES:
            self._refuse(f"{keyword} above {MAX_TIMES}", place)
        return min(int(value), MAX_TIMES)

    def _object(self, schema: dict[str, Any], place: str) -> Node:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, Mapping):
            raise ValueError(f"properties at {place[:120]} must be an object")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise ValueError(f"required at {place[:120]} must be a list of names")
        more = schema.get("additionalProperties", True)
        least, most = (self._count(schema, k, place) for k in ("minProperties", "maxProperties"))
        if not properties and not required:
            if (least or 0) > 1:
                return self._refuse("minProperties above 1 for names that are not given", place)
            if more is False:
                return text("{}")
            return spell.table(self.node(more, f"{place}/additionalProperties"), least or 0, most)
        names = [*properties, *(name for name in required if name not in properties)]
        if (least or 0) > len(set(required)) or (most is not None and most < len(names)):
            return self._refuse("minProperties or maxProperties beside properties", place)
        fields = []
        for name in names:
            value = properties.get(name, more)
            fields.append((name, self.node(value, f"{place}/properties/{name}"), name in required))
        return spell.record(fields)

    def _array(self, schema: dict[str, Any], place: str) -> Node:
        items, first = schema.get("items", True), schema.get("prefixItems", [])
        if not isinstance(first, list):
            raise ValueError(f"prefixItems at {place[:120]} must be a list")
        if isinstance(items, list):
            return self._refuse("items as a list (prefixItems since 2020-12)", place)
        heads = [self.node(item, f"{place}/prefixItems/{n}") for n, item in enumerate(first)]
        least, most = self._count(schema, "minItems", place) or 0, self._count(schema, "maxItems", place)
        if most is not None and most < least:
            return alt()
        item = None if items is False else self.node(items, f"{place}/items")
        if item is None and least > len(heads):
            return alt()
        return spell.array(heads, item, least, most)

    def _string(self, schema: dict[str, Any], place: str) -> Node:
        least, most = self._count(schema, "minLength", place) or 0, self._count(schema, "maxLength", place)
        if most is not None and most < least:
            return alt()
        parts: list[Node] = []
        if "pattern" in schema:
            if not isinstance(schema["pattern"], str):
                raise ValueError(f"pattern at {place[:120]} must be a text")
            try:
                parts.append(pattern_node(schema["pattern"], spell.character, anywhere=True))
            except ValueError as error:
                return self._refuse(f"pattern: {error}", place)
        if (form := schema.get("format")) is not None:
            if form not in FORMATS:
                return self._refuse(f"format {str(form)[:40]}", place)
            parts.append(pattern_node(FORMATS[form]))
        if least or most is not None:
            unit = spell.FREE if not parts else spell.character(((0, LAST),))
            parts.append(repeat(unit, least, most))
        if not parts:
            return spell.STRING
        inside = parts[0]
        for part in parts[1:]:
            inside = both(inside, part)
        return spell.quoted(inside)

    def _bounds(self, schema: dict[str, Any], place: str) -> tuple[Decimal | None, bool, Decimal | None, bool]:
        """Lower bound and whether it is excluded itself, upper bound and the same."""
        out: list[Any] = []
        for keyword, exclusive, tighter in (("minimum", "exclusiveMinimum", max), ("maximum", "exclusiveMaximum", min)):
            found: list[tuple[Decimal, bool]] = []
            for name in (keyword, exclusive):
                value = schema.get(name)
                if value is None:
                    continue
                if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                    raise ValueError(f"{name} at {place[:120]} is {str(value)[:40]}; it must be a number")
                found.append((Decimal(str(value)), name == exclusive))
            if not found:
                out += [None, False]
                continue
            value = tighter(bound for bound, _ in found)
            out += [value, any(excluded for bound, excluded in found if bound == value)]
        return out[0], out[1], out[2], out[3]

    def _integer(self, schema: dict[str, Any], place: str) -> Node:
        low, above, high, below = self._bounds(schema, place)
        if low is None and high is None:
            return spell.INTEGER
        return _grid(low, above, high, below, 0)

    def _number(self, schema: dict[str, Any], place: str) -> Node:
        """With bounds: whole numbers, and numbers with one or two decimals, or as many as the bounds have."""
        low, above, high, below = self._bounds(schema, place)
        if low is None and high is None:
            return spell.NUMBER
        places = max(2, *(-int(b.normalize().as_tuple().exponent) for b in (low, high) if b is not None))
        if places > 12:
            return self._refuse("a bound with more than 12 decimals", place)
        return alt(*(_grid(low, above, high, below, n) for n in sorted({0, 1, 2, places})))


def _grid(low: Decimal | None, above: bool, high: Decimal | None, below: bool, places: int) -> Node:
    """The numbers with so many decimals between two bounds; no text, where there is none."""
    scale, edge = 10**places, 10**15 - 1
    first, last = -edge, edge
    if low is not None:
        first = math.ceil(low * scale)
        first += above and first == low * scale
    if high is not None:
        last = math.floor(high * scale)
        last -= below and last == high * scale
    return spell.numbers(max(first, -edge), min(last, edge), places) if first <= last else alt()


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _is(value: Any, kind: Any) -> bool:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    number = isinstance(value, int | float) and not isinstance(value, bool)
    checks = {
        "object": isinstance(value, Mapping), "array": isinstance(value, list), "string": isinstance(value, str),
        "number": number, "integer": number and whole, "boolean": isinstance(value, bool), "null": value is None,
    }  # fmt: skip
    return checks.get(kind, False)


def _same(first: Any, second: Any) -> bool:
    """Equal as JSON values: true is not 1."""
    return isinstance(first, bool) == isinstance(second, bool) and first == second


def _apart(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Is it plain that no value satisfies both?"""
    values = [s.get("enum", [s["const"]] if "const" in s else None) for s in (first, second)]
    if values[0] is not None and values[1] is not None:
        return not any(_same(a, b) for a in values[0] for b in values[1])
    kinds = []
    for schema, listed in zip((first, second), values, strict=True):
        if listed is not None:
            kinds.append({kind for kind in TYPES if any(_is(value, kind) for value in listed)})
        elif "type" in schema:
            kinds.append(set(_listed(schema["type"])))
        else:
            return False
    kinds = [k | ({"integer"} if "number" in k else set()) for k in kinds]
    if not kinds[0] & kinds[1]:
        return True
    shared = set(first.get("required", [])) & set(second.get("required", []))
    fields = [schema.get("properties", {}) for schema in (first, second)]
    both_objects = kinds[0] == kinds[1] == {"object"}
    return both_objects and any(
        isinstance(fields[0].get(name), Mapping) and isinstance(fields[1].get(name), Mapping)
        and ("const" in fields[0][name] or "enum" in fields[0][name])
        and ("const" in fields[1][name] or "enum" in fields[1][name])
        and _apart(fields[0][name], fields[1][name])
        for name in shared
    )  # fmt: skip
