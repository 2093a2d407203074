"""Live translation over HTTP and WebSocket, on a real socket."""

import base64
import json
import socket as socket_module
import threading
import time

import httpx
import live
import pytest

import mezzotint as mz
from mezzotint.live.translate import Live, Translator, Writer

client = pytest.importorskip("websockets.sync.client")
from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402  # not before it is known to be installed

SAID = ["Mia has", "Mia has a red", "Mia has a", "Mia has a red ball."]
KEEP = {"rev", "committed", "draft", "confidence", "erased", "final", "late", "calls"}


def of(base, **options):
    return client.connect(f"{base.replace('http', 'ws')}/v1/translate/live", **options)


def ask(socket, **message):
    socket.send(json.dumps(message))
    return json.loads(socket.recv(30))


def events(answer):
    lines = [line[6:] for line in answer.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def ours(engine):
    translator = Translator(Writer(mz.Engine(engine.checkpoint)), Live(max_replaced=30))
    return [translator.update(text, n == len(SAID)).to_json() for n, text in enumerate(SAID, 1)]


def test_a_list_of_hypotheses_is_answered_with_the_engines_updates(base, ours):
    body = {"hypotheses": SAID, "max_replaced": 30, "surprise": 1}
    found = events(httpx.post(f"{base}/v1/translate/stream", json=body, timeout=60))
    assert [{k: u[k] for k in KEEP} for u in found] == [{k: u[k] for k in KEEP} for u in ours]
    assert "ignored: surprise" in found[0]["warning"] and "warning" not in found[1]
    assert len({u["id"] for u in found}) == 1 and found[-1]["final"] and found[-1]["committed"]
    lines = "\n".join(
        [json.dumps({"max_replaced": 30}), json.dumps(SAID[0]), *(json.dumps({"source": s}) for s in SAID[1:])]
    )
    answer = httpx.post(
        f"{base}/v1/translate/stream", content=lines, headers={"content-type": "application/x-ndjson"}, timeout=60
    )
    assert [u["committed"] for u in events(answer)] == [u["committed"] for u in ours]


@pytest.mark.parametrize(
    ("body", "said", "param"),
    [
        ({}, "Field required", "hypotheses"),
        ({"hypotheses": []}, "at least 1 item", "hypotheses"),
        ({"hypotheses": ["a", 3]}, "valid string", "hypotheses[1]"),
        ({"hypotheses": ["a"], "rule": "best"}, "allowed: agreement, stability, probability", None),
        ({"hypotheses": ["a"], "max_erasure": -1}, "at least 0", None),
        ({"hypotheses": ["a"], "deadline_ms": 0}, "greater than or equal to 1", "deadline_ms"),
        ({"hypotheses": ["a"], "n": "2"}, "valid integer", "n"),
        ({"hypotheses": ["a"], "model": "other"}, "no such model", "model"),
        ([], "not a JSON object", None),
        ("{", "not JSON", None),
    ],
)
def test_what_cannot_be_is_told(base, body, said, param):
    content = body if isinstance(body, str) else json.dumps(body)
    answer = httpx.post(f"{base}/v1/translate/stream", content=content, headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert (
        answer.status_code == (404 if param == "model" else 400)
        and said in error["message"]
        and error["param"] == param
    )
    lines = {"content-type": "application/x-ndjson"}
    answer = httpx.post(f"{base}/v1/translate/stream", content='"a"\nb', headers=lines)
    assert answer.json()["error"]["message"] == "line 2 is not JSON"


def test_a_source_too_long_ends_its_stream_with_an_error(base):
    answer = httpx.post(f"{base}/v1/translate/stream", json={"hypotheses": ["Mia", "word " * 2000]}, timeout=60)
    last = json.loads(answer.text.split("\n\n")[-2][6:])
    assert "of this model's context" in last["error"]["message"] and "[DONE]" not in answer.text


def test_a_conversation_on_a_socket(base, ours):
    with of(base, subprotocols=["mezzotint"]) as socket:
        assert socket.subprotocol == "mezzotint"
        found = [
            ask(socket, source=text, final=n == len(SAID), rev=n, max_replaced=30) for n, text in enumerate(SAID, 1)
        ]
        assert [{k: u[k] for k in KEEP} for u in found] == [{k: u[k] for k in KEEP} for u in ours]
        assert [u["of"] for u in found] == [1, 2, 3, 4]
        another = ask(socket, source="Tom")
        assert another["rev"] == 1 and not another["final"], "after an end another text begins"
        assert "valid string" in ask(socket, source=3)["error"]["message"]
        socket.send("{")
        assert json.loads(socket.recv(30))["error"]["message"] == "a message is not JSON"
        socket.send(b"\x00")
        assert "bytes" in json.loads(socket.recv(30))["error"]["message"]
        assert ask(socket, source="Tom went", final=True)["rev"] == 2, "what was refused has changed nothing"
        assert "allowed: agreement" in ask(socket, source="Mia", rule="best", rev=9)["error"]["message"]
    assert httpx.get(f"{base}/v1/translate/live").json()["error"]["message"].startswith("this address is a WebSocket's")


def test_what_a_newer_hypothesis_has_overtaken_is_passed_over(engine):
    busy = threading.Event()

    def hold(engine, report):
        while not busy.is_set():
            report("waiting", 0, 1)
            time.sleep(0.005)

    with live.running(engine) as (base, server), of(base) as socket:
        assert ask(socket, source="Mia", rev=0)["of"] == 0
        work = server.worker.scheduler.call(hold)
        socket.send(json.dumps({"source": "Mia has", "rev": 1}))
        time.sleep(0.1)
        for n, text in enumerate(("Mia has a", "Mia has a red", "Mia has a red ball"), 2):
            socket.send(json.dumps({"source": text, "rev": n}))
        time.sleep(0.2)
        busy.set()
        list(work)
        answered = [json.loads(socket.recv(30))["of"]]
        while answered[-1] != 4:
            answered.append(json.loads(socket.recv(30))["of"])
        assert answered in ([1, 4], [1, 2, 4], [1, 3, 4])


def test_who_may_not_ask_gets_no_socket(engine):
    with live.running(engine, keys=("s+/cret",)) as (base, _):
        for told in (
            {},
            {"additional_headers": {"authorization": "Bearer wrong"}},
            {"subprotocols": ["mezzotint", "key.!!"]},
        ):
            with pytest.raises(InvalidStatus) as refused:
                of(base, **told)
            assert refused.value.response.status_code == 401
            assert json.loads(refused.value.response.body)["error"]["code"] == "invalid_api_key"
        key = base64.urlsafe_b64encode(b"s+/cret").decode().rstrip("=")
        for told in (
            {"additional_headers": {"authorization": "Bearer s+/cret"}},
            {"subprotocols": ["mezzotint", f"key.{key}"]},
        ):
            with of(base, **told) as socket:
                assert ask(socket, source="Mia")["rev"] == 1


def test_other_sites_and_too_many_get_no_socket(engine):
    with live.running(engine, queue=1, body_bytes=1000) as (base, server):
        with pytest.raises(InvalidStatus) as refused:
            of(base, origin="http://evil.example")
        assert refused.value.response.status_code == 403
        with pytest.raises(InvalidStatus) as refused:
            of(base, origin=f"http://localhost:{server.preview.port}")
        assert refused.value.response.status_code == 403
        with of(base) as socket:
            with pytest.raises(InvalidStatus) as refused:
                of(base)
            assert refused.value.response.status_code == 429
            socket.send(json.dumps({"source": "Mia " * 1000}))
            with pytest.raises(ConnectionClosed):
                socket.recv(30)
        live.wait(lambda: httpx.get(f"{base}/health").status_code == 200)


def test_a_client_that_leaves_ends_its_work(engine):
    """Also a socket that says nothing for too long is closed, and one opened slowly is not cut off by the head's limit."""
    with live.running(engine, deadline=0.6, receive=0.3) as (base, server):
        with of(base) as socket:
            time.sleep(0.4)  # longer than a head may take
            assert ask(socket, source="Mia")["rev"] == 1
            with pytest.raises(ConnectionClosed):
                socket.recv(5)
        with of(base) as leaving:
            leaving.send(json.dumps({"source": "Mia has a red ball and a hat"}))
            leaving.socket.shutdown(socket_module.SHUT_RDWR)
        live.wait(lambda: server.worker.num_running == 0 and server.worker.num_waiting == 0)


def test_a_server_that_ends_closes_its_sockets(engine):
    with live.running(engine) as (base, server), of(base) as socket:
        assert ask(socket, source="Mia")["rev"] == 1
        began = time.monotonic()
        server.should_exit = True
        with pytest.raises(ConnectionClosed):
            socket.recv(10)
        assert time.monotonic() - began < 5


def test_the_openapi_file_tells_of_both(base):
    paths = httpx.get(f"{base}/openapi.json").json()["paths"]
    told = paths["/v1/translate/stream"]["post"]["requestBody"]["content"]
    assert set(told) == {"application/json", "application/x-ndjson"}
    assert {"hypotheses", "rule", "max_erasure", "deadline_ms"} <= set(told["application/json"]["schema"]["properties"])
    assert "101" in paths["/v1/translate/live"]["get"]["responses"]
