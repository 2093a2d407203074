"""What must not leave: keys and prompts in logs, time that tells of keys, objects that run when they are read."""

import ast
import json
import statistics
import time
from pathlib import Path

import httpx
import live

import mezzotint
from mezzotint.server.guard import Guard
from mezzotint.server.metrics import Metrics
from mezzotint.server.settings import Settings

UNSAFE = {"pickle", "cPickle", "dill", "marshal", "shelve", "cloudpickle", "joblib", "multiprocessing"}
CALLS = {"recv_pyobj", "send_pyobj", "eval", "exec"}


def test_nothing_of_the_server_reads_objects(count):
    """S19: no module that unpickles, no call that does."""
    for path in Path(mezzotint.__file__).parent.joinpath("server").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            elif isinstance(node, ast.Call):
                names = [getattr(node.func, "id", getattr(node.func, "attr", ""))]
                assert not (isinstance(node.func, ast.Attribute) and ast.unparse(node.func) == "torch.load"), path
                assert names[0] not in CALLS, (path, names)
            assert not {name.split(".")[0] for name in names} & UNSAFE, (path, names)


def test_logs_of_failures_hold_no_secrets(engine, count, capfd):
    """S27: keys, prompts, answers and query strings of requests that fail in every way."""
    key, prompt = "key-5up3rs3cr3t", "Mia\x1b[31m whispers swordfish\r\n"
    bodies = [
        {"prompt": prompt, "max_tokens": -1}, {"prompt": prompt, "model": "swordfish"}, {"prompt": [prompt] * 99},
        b"{" + prompt.encode(), {"prompt": prompt * 4000}, {"messages": prompt},
        {"prompt": prompt, "logit_bias": {"swordfish": 1}}, {prompt: 1},
        {"prompt": prompt, "decode": "swordfish"}, {"prompt": prompt, "stream": True, "max_tokens": 1},
    ]  # fmt: skip
    with live.running(engine, keys=(key,)) as (base, _), httpx.Client(base_url=base) as client:
        for number in range(count(1000)):
            body = bodies[number % len(bodies)]
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            given = key if number % 3 else key + "x"
            headers = {"authorization": f"Bearer {given}", "content-type": "application/json", "x-swordfish": "1"}
            path = ("/v1/completions?swordfish=1", "/v1/chat/completions", "/swordfish", "/v1/embeddings")[
                number // 10 % 4
            ]
            client.post(path, content=content, headers=headers)
    logs = capfd.readouterr().err
    lines = [json.loads(line) for line in logs.splitlines() if line.strip()]
    assert len(lines) >= count(1000) and {line["status"] for line in lines if "status" in line} >= {400, 401, 404}
    assert not any(secret in logs for secret in ("swordfish", "5up3r", "whispers", "\x1b", "\\u001b"))


def test_the_time_to_refuse_a_key_tells_nothing_of_it(full):
    """S12: the first byte wrong, or the last."""
    guard = Guard(None, Settings(keys=("a" * 40,)), Metrics("tiny"))
    first, last = "Bearer b" + "a" * 39, "Bearer " + "a" * 39 + "b"
    times = {first: [], last: []}
    for _ in range(20_000 if full else 2000):
        for key, took in times.items():
            began = time.perf_counter_ns()
            assert not guard._known(key)
            took.append(time.perf_counter_ns() - began)
    assert guard._known("Bearer " + "a" * 40)
    assert abs(statistics.median(times[first]) - statistics.median(times[last])) < (1000 if full else 5000)
