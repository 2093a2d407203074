"""Clients that leave, queues that fill, deadlines, failures, the end: work is freed within a step, and everyone is told."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import httpx
import live
import openai
import pytest

from mezzotint.server.settings import Settings

LONG = {"prompt": "Mia has", "max_tokens": 400, "decode": "ar", "seed": 1}
SHORT = {"prompt": "Mia has", "max_tokens": 2}


@pytest.fixture
def held(engine):
    """An engine that stands still until `go` is set."""
    engine.go.clear()
    yield engine
    engine.go.set()


def ask(base, body, path="/v1/completions", **more):
    return httpx.post(base + path, json=body, timeout=30, **more)


def asked(base, body, path="/v1/completions"):
    """The same in the background; the answer is in the list once it is there."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(ask(base, body, path)), daemon=True)
    thread.start()
    return answers


def cancelled(base):
    return live.metric(base, "request_cancelled_total")


def test_work_whose_client_leaves_is_freed_within_a_step(base, engine, full):
    """S2: streams and whole answers in turn; a step here takes far less than the 250 ms."""
    before, ended, times, most = cancelled(base), engine.closed, 500 if full else 5, 0.25 if full else 2.0
    took = []
    for number in range(times):
        begun = engine.steps
        if number % 2:
            with httpx.stream("POST", f"{base}/v1/completions", json={**LONG, "stream": True}) as response:
                next(response.iter_lines())
        else:
            with live.connected(base) as link:
                link.sendall(live.request("/v1/completions", LONG))
                live.wait(lambda begun=begun: engine.steps > begun)
        left, steps = time.monotonic(), engine.steps
        live.wait(lambda number=number: engine.closed == ended + number + 1)
        took.append(time.monotonic() - left)
        assert engine.steps - steps < 100  # of 400: other tests measure to the step
    assert max(took) < most, sorted(took)[-5:]
    live.wait(lambda: cancelled(base) == before + times)
    assert live.metric(base, "num_requests_running") == 0


def test_no_step_is_made_for_a_client_that_left_before_the_first(base, held):
    before, steps = cancelled(base), held.steps
    chat = {"messages": [{"role": "user", "content": "Mia has"}]}
    for stream in (True, False):
        for path, body in (("/v1/completions", LONG), ("/v1/chat/completions", chat)):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(base + path, json={**body, "stream": stream}, timeout=0.3)
    live.wait(lambda: cancelled(base) == before + 4)
    assert live.metric(base, "num_requests_waiting") == 0
    held.go.set()
    live.wait(lambda: live.metric(base, "num_requests_running") == 0)
    assert held.steps <= steps + 1  # the one that was being made


def test_an_edit_whose_client_left_ends(base, engine, monkeypatch):
    from mezzotint.server import orders

    ended = []

    def endless(engine, text, ask, where, way, report):
        try:
            while True:
                time.sleep(0.01)
                report("revising", 0, 1)
        finally:
            ended.append(True)

    monkeypatch.setattr(orders, "edit", endless)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{base}/v1/instant-edit", json={"document": "Mia has."}, timeout=0.3)
    live.wait(lambda: ended)


def test_a_full_queue_says_when_to_come_back(held):
    with live.running(held, queue=2) as (base, _):
        first = asked(base, SHORT)
        live.wait(lambda: live.metric(base, "num_requests_running") == 1)
        waiting = [asked(base, SHORT) for _ in range(2)]
        live.wait(lambda: live.metric(base, "num_requests_waiting") == 2)
        began = time.monotonic()
        for body in (SHORT, {**SHORT, "stream": True}):
            answer = ask(base, body)
            assert answer.status_code == 429 and 1 <= int(answer.headers["retry-after"]) <= 60
            assert (
                answer.json()["error"]["code"] == "queue_full" and answer.json()["error"]["type"] == "rate_limit_error"
            )
        assert time.monotonic() - began < 1
        with pytest.raises(openai.RateLimitError):
            openai.OpenAI(base_url=f"{base}/v1", api_key="-", max_retries=0).completions.create(
                model="tiny", prompt="a"
            )
        held.go.set()
        live.wait(lambda: first and all(waiting))
        assert [a[0].status_code for a in (first, *waiting)] == [200] * 3
        assert ask(base, SHORT).status_code == 200


def test_a_deadline_ends_a_request_whole_or_streamed(held):
    with live.running(held, deadline=0.3) as (base, _):
        answer = ask(base, LONG)
        assert answer.status_code == 504 and answer.json()["error"]["code"] == "deadline_exceeded"
        assert answer.headers["x-should-retry"] == "false"
        text = ask(base, {**LONG, "stream": True}).text
        assert "deadline_exceeded" in text and "[DONE]" not in text and '"finish_reason":"' not in text
        held.go.set()
        live.wait(lambda: live.metric(base, "num_requests_running") == 0)


class Panic(BaseException):
    """What the tokenizer's library raises."""


def test_a_failure_in_the_middle_of_a_stream_is_told_and_never_looks_finished(base, engine, monkeypatch, capfd):
    def fails(error):
        def stream(requests):
            for number, event in enumerate(live.Held.stream(engine, requests)):
                if number == 20:
                    raise error
                yield event

        return stream

    monkeypatch.setattr(engine, "stream", fails(RuntimeError("Mia's secret")), raising=False)
    client = openai.OpenAI(base_url=f"{base}/v1", api_key="-", max_retries=0)
    with pytest.raises(openai.APIError, match="failed at this request"):
        for _ in client.completions.create(model="tiny", prompt="Mia has", max_tokens=99, stream=True):
            pass
    text = ask(base, {**LONG, "stream": True}).text
    assert text.endswith("\n\n") and '"internal_error"' in text and "[DONE]" not in text
    answer = ask(base, LONG)
    assert answer.status_code == 500 and answer.json()["error"]["type"] == "server_error"
    monkeypatch.setattr(engine, "stream", fails(MemoryError()), raising=False)
    answer = ask(base, LONG)
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    monkeypatch.setattr(engine, "stream", fails(Panic()), raising=False)
    assert ask(base, LONG).status_code == 500
    monkeypatch.undo()
    assert ask(base, SHORT).status_code == 200  # the worker lives
    logs = capfd.readouterr().err
    assert "RuntimeError" in logs and "secret" not in logs + text + answer.text
    assert all(json.loads(line) for line in logs.splitlines())


def test_before_the_model_is_loaded(engine):
    go = threading.Event()

    class Late(live.Held):
        def __new__(cls, *args):
            go.wait(10)
            return engine

    from mezzotint.server.keeper import listen, url
    from mezzotint.server.run import serving

    settings = Settings(port=0, name="tiny")
    with listen(settings) as bound:
        server = serving(lambda: Late(), settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        base = url(bound).removesuffix("/v1")
        for path in ("/health", "/ready", "/v1/models"):
            answer = httpx.get(base + path)
            assert answer.status_code == 503 and answer.headers["retry-after"] and answer.json()["error"]["code"]
        assert ask(base, SHORT).status_code == 503 and httpx.get(f"{base}/metrics").status_code == 200
        go.set()
        live.wait(lambda: httpx.get(f"{base}/ready").status_code == 200)
        server.should_exit = True
        thread.join(10)


def test_the_end_lets_answers_out_and_tells_the_rest(held):
    with live.running(held, grace=1.0) as (base, server):
        running = asked(base, {**LONG, "stream": True})
        live.wait(lambda: live.metric(base, "num_requests_running") == 1)
        waiting = asked(base, SHORT)
        live.wait(lambda: live.metric(base, "num_requests_waiting") == 1)
        server.should_exit = True
        live.wait(lambda: server.worker.draining)
        with pytest.raises(httpx.ConnectError):
            ask(base, SHORT)
        live.wait(lambda: running and waiting)
        assert "shutting_down" in running[0].text and "[DONE]" not in running[0].text
        assert waiting[0].status_code == 503 and waiting[0].json()["error"]["code"] == "shutting_down"
        held.go.set()


def start(*args, **env):
    """`mezzotint serve` in a process of its own."""
    command = [sys.executable, "-m", "mezzotint", "serve", "--model", "tiny", *args]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **env})


def test_the_command_serves_until_sigterm_and_exits_with_0(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("one\n\ntwo\n")
    process = start("--port", "0", "--api-keys", str(keys), "--name", "mine", MEZZOTINT_API_KEY="three")
    base = json.loads(process.stderr.readline())["url"]
    headers = {"authorization": "Bearer three"}
    live.wait(lambda: httpx.get(f"{base}/health").status_code == 200, 60)
    assert httpx.get(f"{base}/models", headers=headers).json()["data"][0]["id"] == "mine"
    with httpx.stream("POST", f"{base}/completions", json={**LONG, "stream": True}, headers=headers) as response:
        lines = response.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert process.wait(20) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{base}/health")
    process.stderr.close()


@pytest.mark.parametrize(
    ("args", "words"),
    [(["--host", "0.0.0.0"], "API keys"), (["--port", "99999"], "port is 99999"), (["--queue", "0"], "queue")],
)
def test_the_command_refuses(args, words):
    from typer.testing import CliRunner

    from mezzotint.cli import app

    done = CliRunner().invoke(app, ["serve", "--model", "tiny", *args])
    assert done.exit_code == 2 and words in done.stderr


def test_settings_are_checked():
    assert Settings(host="0.0.0.0", keys=("key",)).port == 8000
    for wrong in ({"keys": ("",)}, {"deadline": 0}, {"host": ""}):
        with pytest.raises(ValueError):
            Settings(**wrong)
