"""What is refused, and how: OpenAI's envelope with the field at fault, whatever is sent; and the server goes on."""

import json
import re
import socket
import time
from contextlib import suppress

import httpx
import live
import openai
import pytest

CHAT = {"messages": [{"role": "user", "content": "Mia has"}], "max_tokens": 4}


def post(base, body, path="/v1/chat/completions", **more):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(base + path, content=content, headers={"content-type": "application/json", **more})


def refusal(answer, status):
    """The error of an answer, whose form is checked."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"] and answer.headers["x-request-id"]
    return error


WRONG = {
    "n": [0, -1, 9, 10**6, 2**63, True, "1", 1.5], "max_tokens": [0, -1, True, "1", 1.5], "temperature": [-1, 3, True, "1"],
    "seed": [2**63, 1.5, "1", True], "stop": ["", [""], ["a"] * 17, "a" * 257, 5, [None]], "stream": [1, "yes"],
    "messages": [None, [], "hi", 5], "decode": ["magic", 1], "quality": ["worst"], "policy": ["magic"], "top_p": [0, 1.1, "x"],
    "logprobs": [1, "yes"], "top_logprobs": [-1, 21], "top_k": [-2, 1.5], "min_p": [2], "presence_penalty": [2.5],
    "repetition_penalty": [0], "deadline_ms": [0, 1.5], "guidance": [-1, 101], "logprobs_at": ["late"], "trace": [1],
    "condition": [{"class_label": 1}, {"class": 1}, {"prompt": ""}, {"embedding": ["a"]}, 5],
    "response_format": [{"type": "xml"}], "tool_choice": ["required", {"type": "function"}],
    "logit_bias": [{"x": 5}, {"-1": 5}, {"999999": 5}, {"1": 101}, {"1": True}, 5], "frequency_penalty": [3, "1"],
    "stream_options": [5],
}  # fmt: skip


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values])
def test_a_wrong_value_names_its_field(base, field, value):
    error = refusal(post(base, {**CHAT, field: value}), 400)
    assert (
        re.split(r"[\[.]", error["param"])[0] == field
        and error["type"] == "invalid_request_error"
        and field in error["message"]
    )


NEUTRAL = {
    "n": None, "temperature": None, "stop": None, "seed": None, "stream": None, "top_p": 1.0, "logprobs": False, "top_k": -1,
    "presence_penalty": 0, "response_format": {"type": "text"}, "tool_choice": "auto", "logit_bias": None,
    "max_completion_tokens": None, "stream_options": None,
}  # fmt: skip


def test_values_that_ask_for_nothing_and_unknown_fields_are_let_through(base):
    plain = post(base, CHAT).json()
    assert post(base, {**CHAT, **NEUTRAL}).json()["choices"] == plain["choices"]
    tools = [{"type": "function", "function": {"name": "f"}}]
    told = post(base, {**CHAT, "store": True, "tools": tools, "user": "me", "metadata": None}).json()
    assert told["choices"] == plain["choices"] and "ignored: store, user" in told["warning"]
    assert "tools were left out" in told["warning"]


MALFORMED = {
    "nothing": b"", "no JSON": b"{", "half a string": b'{"a": "', "a list": b"[]", "a number": b"5", "not a number": b"NaN",
    "infinite": b'{"messages": [{"role": "user", "content": "a"}], "temperature": 1e400}',
    "huge": b'{"messages": [{"role": "user", "content": "a"}], "seed": ' + b"9" * 10**6 + b"}",
    "deep": b"[" * 100_000, "deep inside": b'{"messages": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    "bytes": b'{"messages": "\xff\xfe"}', "nul": b"\0" * 100,
    "surrogate": b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    "surrogate name": b'{"messages": [{"role": "user", "content": "a"}], "\\ud800": 1}',
    "picture": b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
    "role": b'{"messages": [{"role": "king", "content": "a"}]}',
}  # fmt: skip


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_malformed_bodies_are_refused(base, body):
    refusal(post(base, body), 400)


def test_a_body_of_another_type_is_told_so(base):
    answer = httpx.post(f"{base}/v1/completions", content=b'{"prompt": "a"}', headers={"content-type": "text/plain"})
    assert "application/json" in refusal(answer, 400)["message"]


def test_odd_characters_come_through(base):
    body = {"prompt": "Mia \0 \u2028 \U0001f600 has", "stop": ["\0"], "max_tokens": 4}
    assert post(base, body, "/v1/completions").status_code == 200


def test_addresses_and_methods(base):
    refusal(httpx.get(f"{base}/v2/nothing"), 404)
    refusal(httpx.get(f"{base}/v1/chat/completions"), 405)
    refusal(httpx.options(f"{base}/v1/completions"), 405)
    assert refusal(post(base, {**CHAT, "model": "../../etc"}), 404)["code"] == "model_not_found"
    assert "etc" not in post(base, {**CHAT, "model": "../../etc"}).text


def test_an_empty_prompt_too_many_prompts_and_token_ids(base):
    for prompt, field in (("", "prompt"), ([], "prompt"), (["a"] * 65, "prompt"), ([1, 2], "prompt"), (None, "prompt")):
        assert refusal(post(base, {"prompt": prompt}, "/v1/completions"), 400)["param"].startswith(field)
    assert refusal(post(base, {"prompt": ["a"] * 9, "n": 8}, "/v1/completions"), 400)["param"] == "n"


def test_a_prompt_beyond_the_context_and_an_answer_that_gets_what_is_left(base):
    for words in (600, 100_000):
        error = refusal(post(base, {"messages": [{"role": "user", "content": "Mia " * words}]}), 400)
        assert error["code"] == "context_length_exceeded"
    told = post(base, {"prompt": "Mia has " * 200, "max_tokens": 32_000}, "/v1/completions").json()
    assert told["usage"]["total_tokens"] <= 512


def test_bodies_are_limited_whether_they_say_their_length_or_not(base):
    body = json.dumps({**CHAT, "user": "x" * (2 << 20)}).encode()
    assert refusal(post(base, body), 413)["code"] == "request_too_large"
    headers = {"content-type": "application/json"}
    chunked = httpx.post(f"{base}/v1/chat/completions", content=iter([body[:1000]] * 2200), headers=headers)
    refusal(chunked, 413)


def test_foreign_hosts_and_pages_are_refused(base):
    assert refusal(post(base, CHAT, host="evil.example"), 421)["code"] == "unknown_host"
    assert refusal(post(base, CHAT, host="127.0.0.1.evil.example:80"), 421)
    assert refusal(post(base, CHAT, origin="https://evil.example"), 403)["code"] == "unknown_origin"
    assert refusal(post(base, CHAT, origin="null"), 403)
    assert post(base, CHAT, host="localhost:1", origin="http://127.0.0.1:3000").status_code == 200


def test_a_body_that_does_not_come_is_not_waited_for(engine):
    with (
        live.running(engine, receive=0.2) as (base, _),
        socket.create_connection(httpx.URL(base).netloc.split(b":")) as link,
    ):
        link.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n{")
        assert link.recv(100).startswith(b"HTTP/1.1 408")


def test_keys(engine, capfd):
    keys = ("first-key", "zw\u00f6lf")
    with live.running(engine, keys=keys) as (base, _):
        for given in (
            None,
            "Bearer first-ke",
            "Bearer first-keyy",
            "first-key",
            "Basic first-key",
            "Bearer",
            "Bearer \u00e9",
        ):
            headers = {} if given is None else {"authorization": given.encode()}
            error = refusal(httpx.get(f"{base}/v1/models", headers=headers), 401)
            assert error["code"] == "invalid_api_key" and error["type"] == "authentication_error"
        refusal(httpx.get(f"{base}/metrics?api_key=first-key"), 401)
        refusal(httpx.get(f"{base}/nothing"), 401)
        for key in keys:
            assert (
                httpx.get(f"{base}/v1/models", headers={"authorization": f"Bearer {key}".encode()}).status_code == 200
            )
        assert httpx.get(f"{base}/health").status_code == 200
        assert httpx.get(f"{base}/health", headers={"host": "models.example"}).status_code == 200
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{base}/v1", api_key="wrong", max_retries=0).models.list()
        client = openai.OpenAI(base_url=f"{base}/v1", api_key="first-key", max_retries=0)
        client.completions.create(model="tiny", prompt="Secret words", max_tokens=2)
    logs = capfd.readouterr().err
    assert "/v1/completions" in logs and '"status": 401' in logs
    assert not any(secret in logs for secret in ("first-ke", "zw", "Secret", "api_key=", "/nothing"))


def test_heads_that_do_not_come_are_not_waited_for(engine):
    with live.running(engine, receive=0.3) as (base, _):
        for sent in (b"", b"GET /health HTTP/1.1\r\nhost: loc", b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\nGET"):
            with socket.create_connection(httpx.URL(base).netloc.split(b":"), timeout=5) as link:
                link.sendall(sent)
                while link.recv(1000):
                    pass  # until it is closed
        with httpx.Client() as client:  # one that asks again in time keeps its connection
            for _ in range(4):
                assert client.get(f"{base}/health").status_code == 200
                time.sleep(0.15)


def test_long_heads_are_refused(base):
    with suppress(httpx.TransportError):  # it may be closed while it is being sent
        assert httpx.get(f"{base}/health", headers={"x": "y" * 200_000}).status_code == 400
    assert httpx.get(f"{base}/health", headers={f"x{i}": "y" for i in range(100)}).status_code == 200
