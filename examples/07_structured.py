"""Answers of a fixed form: a JSON object and a pattern, and how much of the text needed no call."""

import json

import mezzotint as mz

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "pet": {"enum": ["cat", "dog", "horse"]},
    },
    "required": ["name", "age", "pet"],
}


def main() -> None:
    engine = mz.Engine(mz.load("tiny"))
    for decode in ("ar", "diffusion"):
        asked = mz.Request("Mia is 7 years old.", raw=True, decode=decode, max_tokens=48, format=mz.JsonSchema(SCHEMA))
        (reply,) = engine.generate(asked)
        given = sum(frame.status[: frame.committed].count(0) for frame in reply.trace.frames)
        print(
            decode,
            json.loads(reply.text),
            f"{reply.trace.num_tokens} tokens, {given} given, {reply.trace.num_calls} calls",
        )
    (reply,) = engine.generate(
        mz.Request("Mia has a", raw=True, max_tokens=8, format=mz.Regex(" (red|blue) (cat|dog)"))
    )
    print(reply.text)


if __name__ == "__main__":
    main()
