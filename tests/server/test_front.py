"""The front before replicas, with scripted ones: what a client reads when one of them dies."""

import asyncio
import json
import time

import httpx
import pytest

from mezzotint.server import chance
from mezzotint.server.call import beginning
from mezzotint.server.chance import Chance
from mezzotint.server.front import AGAIN, Front, Lost
from mezzotint.server.guard import Guard
from mezzotint.server.metrics import Metrics, joined
from mezzotint.server.settings import Settings
from mezzotint.server.sse import DONE, event

STREAM = [(b"content-type", b"text/event-stream")]


def piece(text, index=0):
    return event({"choices": [{"index": index, "text": text}]})


class Replicas:
    """Each answer is a list of what is sent, in order: event bytes, or Lost; the last one answers all further calls."""

    def __init__(self, *answers, headers=STREAM, pause=0.0):
        self.answers, self.headers, self.pause = list(answers), headers, pause
        self.calls, self.closed = [], 0

    async def ask(self, call):
        self.calls.append(call)
        answer = self.answers[min(len(self.calls), len(self.answers)) - 1]
        try:
            if answer[:1] == [Lost]:
                raise Lost
            yield {"type": "taken", "replica": str(len(self.calls))}
            yield {"type": "http.response.start", "status": 200, "headers": self.headers}
            for body in answer:
                await asyncio.sleep(self.pause)
                if body is Lost:
                    raise Lost
                yield {"type": "http.response.body", "body": body, "more_body": True}
            yield {"type": "http.response.body", "body": b""}
            yield {"type": "over", "route": "/v1/x", "log": {}}
        finally:
            self.closed += 1


def asked(replicas, path="/v1/completions", ready=2, keys=(), **body):
    settings = Settings(keys=keys)
    front = Front(replicas.ask, settings, Metrics("tiny"))
    front.ready_count = ready
    app = Guard(front, settings, front.metrics)

    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await client.post(path, json=body)

    return asyncio.run(ask())


def test_a_stream_is_told_again_without_what_went_out():
    events = [piece(text) for text in ("The", " cat", " sat", ".")] + [DONE]
    replicas = Replicas([*events[:2], Lost], [events[0], Lost], events)  # the second dies before it has caught up
    said = asked(replicas, prompt="x")
    assert said.status_code == 200 and said.content == b"".join(events)
    first, second, third = replicas.calls
    assert first == second == third and replicas.closed == 3


def test_choices_keep_their_own_order():
    a = [piece(text, 0) for text in "abc"]
    b = [piece(text, 1) for text in "xyz"]
    replicas = Replicas([a[0], b[0], b[1], Lost], [a[0], a[1], a[2], b[0], b[1], b[2], DONE])
    said = asked(replicas, prompt="x").content
    assert said == b"".join([a[0], b[0], b[1], a[1], a[2], b[2], DONE])


def test_a_second_telling_that_differs_ends_in_an_error():
    said = asked(Replicas([piece("The"), Lost], [piece("A"), piece(" cat"), DONE]), prompt="x")
    assert said.content.startswith(piece("The")) and b"replica_died" in said.content
    assert b"cat" not in said.content and DONE not in said.content


@pytest.mark.parametrize("begun", [True, False])
def test_where_nobody_takes_it_up_the_error_comes_within_a_second(begun):
    replicas = Replicas([piece("The"), Lost] if begun else [Lost], [Lost])
    began = time.monotonic()
    said = asked(replicas, prompt="x")
    assert AGAIN <= time.monotonic() - began < 1.0 and len(replicas.calls) > 2
    if begun:
        assert json.loads(said.content.split(b"data: ")[-1])["error"]["code"] == "replica_died"
    else:
        assert said.status_code == 503 and said.headers["retry-after"] == "1"


def test_a_whole_answer_is_asked_for_again():
    headers = [(b"content-type", b"application/json")]
    said = asked(Replicas([b'{"te', Lost], [b'{"text": "a"}'], headers=headers), prompt="x")
    assert said.json() == {"text": "a"}


def test_refusals():
    replicas = Replicas([DONE])
    assert asked(replicas, ready=0, prompt="x").json()["error"]["code"] == "model_not_ready"
    assert asked(replicas, keys=("k",), prompt="x").status_code == 401
    assert not replicas.calls


def test_keys_stay_at_the_front():
    replicas = Replicas([DONE])
    front = Front(replicas.ask, Settings(), Metrics("tiny"))
    front.ready_count = 1
    headers = [(b"authorization", b"Bearer k"), (b"accept", b"*/*")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/x",
        "query_string": b"",
        "headers": headers,
        "state": {"log": {}},
    }
    inbox = asyncio.Queue()
    inbox.put_nowait({"type": "http.request", "body": b"{}"})

    async def send(message):
        pass

    asyncio.run(front(scope, inbox.get, send))
    assert replicas.calls[0].headers == ((b"accept", b"*/*"),)


def test_a_client_that_leaves_ends_the_call():
    replicas = Replicas([piece("a")] * 100, pause=0.02)
    front = Front(replicas.ask, Settings(), Metrics("tiny"))
    front.ready_count = 1
    out = []

    async def run():
        inbox = asyncio.Queue()
        await inbox.put({"type": "http.request", "body": b"{}"})

        async def send(message):
            out.append(message)
            if len(out) == 3:
                await inbox.put({"type": "http.disconnect"})

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/x",
            "query_string": b"",
            "headers": [],
            "state": {"log": {}},
        }
        await front(scope, inbox.get, send)
        return scope["state"]["log"]["ended"]

    assert asyncio.run(run()) == "client left"
    assert replicas.closed == 1 and len(out) < 10


def test_a_server_that_ends_says_so_in_its_streams():
    replicas = Replicas([piece("a")] * 100, pause=0.02)
    front = Front(replicas.ask, Settings(), Metrics("tiny"))
    front.ready_count = 1
    out = []

    async def run():
        inbox = asyncio.Queue()
        await inbox.put({"type": "http.request", "body": b"{}"})

        async def send(message):
            out.append(message)
            if len(out) == 3:
                front.stop()

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/x",
            "query_string": b"",
            "headers": [],
            "state": {"log": {}},
        }
        await front(scope, inbox.get, send)

    asyncio.run(run())
    assert b"shutting_down" in out[-1]["body"] and replicas.closed == 1


def test_the_same_chance_gives_the_same_ids():
    def drawn():
        chance.given.set(Chance(7, 5))
        return chance.seed(), chance.digits(), chance.digits(), chance.created()

    async def twice():
        return [await asyncio.to_thread(drawn) for _ in range(2)]

    first, second = asyncio.run(twice())
    assert first == second and first[1] != first[2] and 0 <= first[0] < 2**53 and first[3] == 5
    assert chance.digits() != chance.digits()


def test_the_beginning_is_that_of_the_prompt():
    assert beginning(b'{"seed": 1, "prompt": "Mia has"}') == beginning(b'{"prompt": "Mia has"}') == "Mia has"
    long = [{"role": "system", "content": "You help. " * 99}]
    one, two = ({"messages": [*long, {"role": "user", "content": text}]} for text in "ab")
    assert beginning(json.dumps(one).encode()) == beginning(json.dumps(two).encode())
    assert beginning(b"not JSON \xff") == "not JSON \xff" and beginning(b"[" * 100_000) == "[" * 256


def test_metrics_of_replicas_are_told_apart():
    one, two = Metrics("tiny"), Metrics("tiny")
    one.worked(3, 0, 0, 0)
    two.worked(4, 8, 4, 9)
    lines = joined({"0": one.text(0, 0), "1": two.text(1, 0)}).splitlines()
    assert 'mezzotint:prompt_tokens_total{model_name="tiny",replica="0"} 3.0' in lines
    assert 'mezzotint:prompt_tokens_total{model_name="tiny",replica="1"} 4.0' in lines
    assert len([line for line in lines if line.startswith("# TYPE mezzotint:prompt_tokens_total")]) == 1
