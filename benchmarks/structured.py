"""Structured output, counted: are answers valid, what do they say, and which calls did their literals save?

    python benchmarks/structured.py --model tiny                       500 outputs on 50 schemas, every way of decoding in turn
    python benchmarks/structured.py --model default --compute int8 --extraction 100   and values taken from sentences, each way
    python benchmarks/structured.py --decisions                        and 100 typed decisions (decisions.py)

A validator of its own (`pip install jsonschema`) judges. given: tokens that only could stand there, which cost AR no call.
Writes benchmarks/results/YYYY-MM-DD-structured-MODEL.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import decisions
import jsonschema
import report

import mezzotint as mz
from mezzotint.sampler.quality import QUALITY

WAYS: dict[str, dict[str, Any]] = {
    "ar": {"decode": "ar"}, "verified": {"decode": "verified"}, "verified, self": {"decode": "verified", "draft": "self"},
    "diffusion": {"decode": "diffusion"}, "diffusion, fast": {"decode": "diffusion", "policy": QUALITY["fast"]()},
}  # fmt: skip
NAMES = ("Ada", "Bruno", "Chloe", "Dmitri", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jonas")
CITIES = ("Paris", "Oslo", "Lagos", "Lima", "Kyoto", "Cairo", "Boston", "Delhi", "Rome", "Quito")
SENTENCES = (
    "{name} is {age} years old and lives in {city}.", "My name is {name}, I am {age}, and my home is {city}.",
    "In {city} we met {name}, who had just turned {age}.", "{name} ({age}) writes to us from {city}.",
)  # fmt: skip


def obj(**fields: Any) -> dict[str, Any]:
    """An object with all these fields and no others."""
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def schemas() -> list[dict[str, Any]]:
    """Fifty: scalars and bounds, enums, unicode, arrays, nesting, alternatives, formats."""
    string, integer, boolean = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
    colour = {"enum": ["red", "green", "blue"]}
    uni = {"enum": ["日本", "München", "Ελλάδα", "🙂 ok"]}
    small = {"type": "integer", "minimum": 0, "maximum": 150}
    plain = [
        obj(name=string), obj(age=small), obj(ok=boolean), obj(colour=colour), obj(place=uni), obj(nothing={"type": "null"}),
        obj(price={"type": "number", "minimum": 0.5, "maximum": 99.5}), obj(**{"prénom": string, "年齢": small}),
        obj(word={"type": "string", "minLength": 2, "maxLength": 8}),
        obj(code={"type": "string", "pattern": "^[A-Z]{3}-[0-9]{2}$"}),
        obj(day={"type": "string", "format": "date"}), obj(id={"type": "string", "format": "uuid"}),
        obj(at={"type": "string", "format": "date-time"}), obj(mail={"type": "string", "format": "email"}),
        obj(x={"type": ["string", "null"]}), obj(x={"anyOf": [integer, boolean]}), obj(kind={"const": "é\"\\"}, n=integer),
        {"type": "array", "items": colour, "maxItems": 4}, {"type": "array", "items": small, "minItems": 2, "maxItems": 3},
        {"type": "array", "prefixItems": [string, integer], "items": False, "minItems": 2},
    ]  # fmt: skip
    person = obj(name=string, age=small, city=uni)
    nested = [
        person, obj(person=person), obj(people={"type": "array", "items": person, "minItems": 1, "maxItems": 2}),
        obj(a=obj(b=obj(c=obj(d=colour)))),
        {"type": "array", "items": {"type": "array", "items": boolean, "maxItems": 2}, "maxItems": 3},
        {"type": "object", "properties": {"a": integer, "b": string, "c": boolean}, "additionalProperties": False},
        {"type": "object", "additionalProperties": small}, {"type": "object"},
        {"$ref": "#/$defs/n", "$defs": {
            "n": obj(v=small, kids={"type": "array", "items": {"$ref": "#/$defs/n"}, "maxItems": 2})}},
        {"oneOf": [obj(shape={"const": "circle"}, r=small), obj(shape={"const": "box"}, w=small, h=small)]},
    ]  # fmt: skip
    pairs = itertools.combinations([string, small, boolean, colour, uni], 2)
    return plain + nested + [
        shape for a, b in pairs for shape in (
            obj(first=a, second=b), obj(list={"type": "array", "items": obj(x=a), "maxItems": 2}, more=b))
    ]  # fmt: skip


def strings(value: Any) -> list[str]:
    """All texts in a value, keys left out."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in inner for text in strings(item)]


class Count:
    """Sums over answers of one way of decoding."""

    def __init__(self) -> None:
        self.outputs = self.valid = self.strings = self.empty = self.tokens = self.calls = self.given = 0
        self.right = self.values = 0
        self.seconds = 0.0

    def add(self, reply: mz.Reply, schema: dict[str, Any], seconds: float) -> Any:
        """The value that was written, None where it is none."""
        kind = jsonschema.Draft202012Validator
        try:
            value = json.loads(reply.text)
        except ValueError:
            value = None
        self.outputs += 1
        self.valid += value is not None and kind(schema, format_checker=kind.FORMAT_CHECKER).is_valid(value)
        self.strings += len(found := strings(value))
        self.empty += found.count("")
        self.tokens += reply.trace.num_tokens
        self.calls += reply.trace.num_calls
        self.given += sum(frame.status[: frame.committed].count(0) for frame in reply.trace.frames)
        self.seconds += seconds
        return value

    def row(self, way: str) -> str:
        empty = f"{self.empty}/{self.strings}" if self.strings else "-"
        right = f"{self.right}/{self.values}" if self.values else "-"
        return (
            f"| {way} | {self.valid}/{self.outputs} | {right} | {empty} | {self.tokens} | {self.calls} | {self.given} "
            f"| {self.tokens / max(1, self.calls):.2f} | {self.seconds:.0f} |"
        )


HEAD = """| way | valid | values right | empty strings | tokens | calls | given | tokens/call | seconds |
|---|---|---|---|---|---|---|---|---|"""


def validity(engine: mz.Engine, outputs: int, temperature: float, ways: Sequence[str]) -> dict[str, Count]:
    counts = {way: Count() for way in ways}
    listed = schemas()
    for number in range(outputs):
        schema, way = listed[number % len(listed)], ways[(number + number // len(listed)) % len(ways)]
        prompt = f"Mia has a cat. As JSON, example {number}:"
        began = time.perf_counter()
        (reply,) = engine.generate(mz.Request(
            prompt, raw=engine.tokenizer.chat_template is None, max_tokens=96, temperature=temperature, seed=number,
            format=mz.JsonSchema(schema), **WAYS[way],
        ))  # fmt: skip
        counts[way].add(reply, schema, time.perf_counter() - began)
        told(number, outputs, counts)
    return counts


def told(number: int, count: int, counts: dict[str, Count]) -> None:
    if number % 10 == 9:
        print(
            f"{number + 1} of {count}",
            *(count.row(way) for way, count in counts.items()),
            sep="\n",
            file=sys.stderr,
            flush=True,
        )


def extraction(engine: mz.Engine, prompts: int, ways: Sequence[str]) -> dict[str, Count]:
    schema = obj(
        name={"type": "string"}, age={"type": "integer", "minimum": 0, "maximum": 150}, city={"type": "string"}
    )
    counts = {way: Count() for way in ways}
    for number in range(prompts):
        true = {
            "name": NAMES[number % 10],
            "age": 11 + 7 * number % 80,
            "city": CITIES[(3 * number + number // 10) % 10],
        }
        said = SENTENCES[number % len(SENTENCES)].format(**true)
        prompt = f"Give the name, the age and the city as JSON.\n{said}"
        for way in ways:
            began = time.perf_counter()
            (reply,) = engine.generate(mz.Request(
                prompt, raw=engine.tokenizer.chat_template is None, max_tokens=64, format=mz.JsonSchema(schema), **WAYS[way]
            ))  # fmt: skip
            value = counts[way].add(reply, schema, time.perf_counter() - began)
            counts[way].values += len(true)
            counts[way].right += sum(value is not None and value[key] == true[key] for key in true)
        told(number, prompts, counts)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--adapter", default=None)
    parser.add_argument("--compute", default="auto", choices=("auto", "float32", "int8"))
    parser.add_argument(
        "--ways", nargs="+", default=[way for way in WAYS if way != "diffusion, fast"], choices=list(WAYS)
    )
    parser.add_argument("--outputs", type=int, default=500, help="0: none")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--extraction", type=int, default=0, help="prompts whose values are compared")
    parser.add_argument(
        "--decisions", action="store_true", help="100 typed decisions, and how well calibrated they are"
    )
    parser.add_argument("--name", default=None, help="of the results' file, in place of structured-MODEL")
    asked = parser.parse_args()
    ways = asked.ways
    engine = mz.Engine(mz.load(asked.model, asked.adapter), compute=asked.compute)
    lines: list[str] = []
    if asked.outputs:
        lines += [f"{asked.outputs} outputs on {len(schemas())} schemas, temperature {asked.temperature:g}", "", HEAD]
        lines += [count.row(way) for way, count in validity(engine, asked.outputs, asked.temperature, ways).items()]
    if asked.extraction:
        lines += ["", f"{asked.extraction} extraction prompts, temperature 0", "", HEAD]
        lines += [count.row(way) for way, count in extraction(engine, asked.extraction, ways).items()]
    if asked.decisions:
        lines += ["", *decisions.measured(engine)]
    report.write(asked.name or f"structured-{asked.model}", f"Structured output, {asked.model}", lines)


if __name__ == "__main__":
    main()
