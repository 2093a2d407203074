"""Bodies that chance has damaged: never a 500, and the server goes on."""

import json
import random

import httpx

BODIES = {
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": "Mia"}],
        "max_tokens": 1,
        "stop": ["a"],
        "n": 1,
        "seed": 1,
    },
    "/v1/completions": {"prompt": ["Mia"], "max_tokens": 1, "temperature": 0.5, "stream": False, "suffix": None},
    "/v1/instant-edit": {"document": "Mia", "locks": [[0, 3]], "budget": 0.5, "strength": 0.1, "seed": 1, "values": {}},
}
ODD = [
    None,
    True,
    -1,
    0,
    2**63,
    1.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "\ud800",
    "\0",
    [],
    {},
    [[]],
    {"a": 1},
    "x" * 1000,
    [0, 9],
]


def mutated(rng, value):
    """The same with one place changed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        return {**value, key: mutated(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.5:
        return [*value[:-1], mutated(rng, value[-1])]
    return rng.choice(ODD)


def damaged(rng, body):
    text = bytearray(json.dumps(mutated(rng, mutated(rng, body))).encode())
    if rng.random() < 0.3:
        for _ in range(rng.randrange(1, 4)):
            text[rng.randrange(len(text))] = rng.randrange(256)
    return bytes(text)


def test_damaged_bodies_are_answered(base, count):
    rng = random.Random(7)
    types = ["application/json"] * 9 + ["application/json; charset=utf-16", "text/plain", "multipart/form-data", ""]
    with httpx.Client(base_url=base, timeout=30) as client:
        for _ in range(count(4000)):
            path = rng.choice(list(BODIES))
            body = damaged(rng, BODIES[path])
            answer = client.post(path, content=body, headers={"content-type": rng.choice(types)})
            assert answer.status_code in (200, 400, 404), (path, body, answer.text)
            answer.content.decode()
        assert client.get("/health").status_code == 200
