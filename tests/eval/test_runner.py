"""Runs that stop, go on, fail and are counted, with systems whose answers the test writes."""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import ClassVar

import pytest
from scripted import AIME, DATA, ROWS, Says, right

from mezzotint.eval.data import Data
from mezzotint.eval.judge import Judge
from mezzotint.eval.runner import Wanted, draw, run
from mezzotint.eval.scores import difference, read_store, splits
from mezzotint.eval.store import Store, whole_lines
from mezzotint.eval.systems import POSITIONS, Endpoint, EndpointGone, Local


def test_states(tmp_path):
    texts = {
        "p0": "\\boxed{1}",
        "p1": "\\boxed{7}",
        "p2": "hm",
        "p3": "I'm sorry, but I can't help with that.",
        "p4": "\\boxed{5}",
        "p5": "x",
    }
    reasons = {"p4": "length", "p5": "length", "p6": "context", "p7": "refused", "p8": "error"}
    system = Says(lambda i: texts.get(i.id, ""), lambda i: reasons.get(i.id, "stop"))
    with Store(tmp_path, system.about) as store:
        data = Data(ROWS[:9], "a" * 64, ("rows",))
        summary = run(AIME, data, system, store, Judge(), Wanted())
    assert dict(summary.states) == {
        "correct": 2,
        "wrong": 1,
        "no_answer": 1,
        "refused": 2,
        "truncated": 2,
        "infra_error": 1,
    }
    assert summary.failed
    result = read_store(tmp_path).tasks["aime2025"]
    assert result.context == 1 and result.states["truncated"] == 2 and len(result.items) == 8


def test_a_run_goes_on_and_judges_only_what_is_new(tmp_path):
    system = Says(right)
    with Store(tmp_path, system.about) as store:
        run(AIME, DATA, system, store, Judge(), Wanted(items=10))
        assert len(system.asked) == 10
        assert run(AIME, DATA, system, store, Judge(), Wanted(items=10)).asked == 0
        summary = run(AIME, DATA, system, store, Judge(), Wanted(samples=2))
    assert summary.asked == 70 and len(set(system.asked)) == len(system.asked) == 80
    assert summary.states == {"correct": 80, "infra_error": 0}


def test_answers_first_verdicts_later(tmp_path):
    system = Says(right)
    with Store(tmp_path, system.about) as store:
        assert not +run(AIME, DATA, system, store, None, Wanted()).states
        summary = run(AIME, DATA, system, store, Judge(), Wanted())
    assert summary.asked == 0 and summary.states["correct"] == 40


def test_draws_are_nested_and_fixed():
    items = AIME.load(ROWS, 0)
    small, large = draw(items, 5, 3), draw(items, 20, 3)
    assert len(small) == 5 and {i.id for i in small} < {i.id for i in large} and draw(items, 5, 4) != small
    assert draw(items, None, 0) == items == draw(items, 99, 0)


def test_what_a_store_refuses(tmp_path):
    system = Says(right)
    with Store(tmp_path, system.about) as store:
        run(AIME, DATA, system, store, Judge(), Wanted())
        with pytest.raises(ValueError, match="another run"):
            Store(tmp_path, system.about)
        with pytest.raises(ValueError, match="has changed"):
            run(AIME, Data(ROWS, "b" * 64, ("rows",)), system, store, Judge(), Wanted())
        with pytest.raises(ValueError, match="max-tokens"):
            run(AIME, DATA, system, store, Judge(), Wanted(max_tokens=7))
    with pytest.raises(ValueError, match="model was 'says' and is 'other'"):
        Store(tmp_path, {**system.about, "model": "other"})
    path = tmp_path / "aime2025.answers.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines)[:-30])
    with Store(tmp_path, system.about) as store:
        assert run(AIME, DATA, system, store, Judge(), Wanted()).asked == 1
    path.write_bytes(lines[0] + b"{broken\n" + lines[1])
    with Store(tmp_path, system.about) as store, pytest.raises(ValueError, match="line 2 is damaged"):
        store.answers("aime2025")
    (tmp_path / "run.json").write_text("[")
    with pytest.raises(ValueError, match=r"run.json is damaged"):
        Store(tmp_path, system.about)
    with pytest.raises(ValueError, match="holds no evaluation"):
        read_store(tmp_path / "none")


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from scripted import *
from mezzotint.eval.judge import Judge
from mezzotint.eval.runner import Wanted, run
from mezzotint.eval.store import Store
class Slow(Says):
    def ask(self, items, sample, max_tokens):
        time.sleep(0.02)
        return super().ask(items, sample, max_tokens)
with Store({folder!r}, Says(right).about) as store:
    run(AIME, DATA, Slow(right, size=2), store, Judge(), Wanted(samples=3))
"""


def test_killed_runs_lose_nothing(tmp_path, count):
    """SIGKILL at any moment: every answer that a run reported done is there, none is asked twice after it was stored."""
    code = KILLED.format(tests=os.path.dirname(__file__), folder=str(tmp_path))
    path = tmp_path / "aime2025.answers.jsonl"
    stored = 0
    for turn in range(count(20)):
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
        until = time.monotonic() + 60
        goal = stored + 5 + turn % 7
        while process.poll() is None and (len(whole_lines(path)) < goal) and time.monotonic() < until:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), errors.decode()
        assert len(whole_lines(path)) >= min(stored, 120)
        stored = len(whole_lines(path))
    system = Says(right)
    with Store(tmp_path, system.about) as store:
        summary = run(AIME, DATA, system, store, Judge(), Wanted(samples=3))
    assert summary.states["correct"] == 120 and summary.asked == 120 - stored
    keys = [(row["item"], row["sample"]) for row in whole_lines(path)]
    assert len(keys) == len(set(keys)) == 120


class Server(http.server.BaseHTTPRequestHandler):
    """Answers right, and otherwise as `script` says: a status, "cut" for a body that ends early, "filter", "nonsense"."""

    script: ClassVar = []
    keys: ClassVar = set()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.keys.add(self.headers.get("authorization"))
        step = self.script.pop(0) if self.script else None
        if isinstance(step, int):
            self.send_response(step)
            self.end_headers()
            self.wfile.write(b'{"error": {"message": "the context is too short"}}' if step == 400 else b"no")
            return
        n = int(body["messages"][-1]["content"].split()[2])
        choice = {
            "message": {"content": f"\\boxed{{{n + 1}}}"},
            "finish_reason": "content_filter" if step == "filter" else "stop",
        }
        told = json.dumps(
            {"choices": [choice], "usage": {"completion_tokens": 9, "diffusion": {"calls": 3, "positions": 12}}}
        ).encode()
        told = b"{}" if step == "nonsense" else told
        self.send_response(200)
        self.send_header("content-length", str(len(told)))
        self.end_headers()
        self.wfile.write(told[:9] if step == "cut" else told)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    Server.script, Server.keys = [], set()
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def test_an_endpoint(server, tmp_path):
    url = f"http://127.0.0.1:{server.server_port}/v1"
    system = Endpoint(url, "m", key="secret", size=1, tries=3, longest_wait=0.01)
    assert "secret" not in repr(system) and "secret" not in json.dumps(system.about)
    Server.script = [503, None, "cut", "nonsense", None, "filter", 400]
    with Store(tmp_path, system.about) as store:
        summary = run(AIME, Data(ROWS[:6], "a" * 64, ("rows",)), system, store, Judge(), Wanted())
        found = list(store.answers("aime2025").values())
    assert dict(+summary.states) == {"correct": 5, "truncated": 1} and Server.keys == {"Bearer secret"}
    assert found[0].calls == 3 and found[0].tokens == 9 and [a.reason for a in found].count("refused") == 1
    with pytest.raises(ValueError, match="http://"):
        Endpoint("localhost", "m")


def test_an_endpoint_that_stops_midway(server, tmp_path):
    url = f"http://127.0.0.1:{server.server_port}/v1"
    system = Endpoint(url, "m", size=4, tries=2, longest_wait=0.01)
    data = Data(ROWS[:16], "a" * 64, ("rows",))
    with Store(tmp_path, system.about) as store:
        Server.script = [None] * 8 + [500] * 100
        with pytest.raises(EndpointGone, match="8 answers are kept"):
            run(AIME, data, system, store, Judge(), Wanted())
        Server.script = [401] * 8
        with pytest.raises(EndpointGone, match="401"):
            run(AIME, data, system, store, Judge(), Wanted())
        Server.script = []
        summary = run(AIME, data, system, store, Judge(), Wanted())
    assert summary.states["correct"] == 16 and summary.asked == 8


def test_differences_and_splits(tmp_path):
    half = Says(lambda i: right(i) if int(i.id[1:]) % 2 else "\\boxed{0}", name="half")
    for name, system in (("all", Says(right)), ("half", half)):
        with Store(tmp_path / name, system.about) as store:
            run(AIME, DATA, system, store, Judge(), Wanted())
    first, second = read_store(tmp_path / "all").tasks["aime2025"], read_store(tmp_path / "half").tasks["aime2025"]
    assert first.score == 1 and second.score == 0.5 and second.error == pytest.approx((0.25 * 40 / 39 / 40) ** 0.5)
    found = difference(first, second)
    assert (
        found.items == 40
        and found.mean == -0.5
        and found.worse == 20
        and found.better == 0
        and found.low < -0.3 < 0 > found.high
    )
    shared, apart = splits(tmp_path / "all", tmp_path / "half")
    assert shared == 40 and len(apart) == 20


def test_long_prompts_make_smaller_batches():
    local = Local(None, None)
    groups = local._together({"a": 10, "b": POSITIONS + 1, "c": POSITIONS // 2 - 10, "d": POSITIONS // 2})
    assert list(groups) == [["a", "c"], ["d"], ["b"]] and list(local._together({})) == []
