"""Remote models: our own server through `Remote`, and every way in which a server can fail."""

import asyncio
import base64
import json
import logging
import shutil
import socket
import ssl
import subprocess
import threading
import time

import httpx
import live
import pytest
import typer.testing
from scripted_server import delta, scripted, status, stream

import mezzotint as mz
from mezzotint.cli import app
from mezzotint.constraint.formats import JsonSchema, Regex
from mezzotint.engine.remote import Ended, Remote, RemoteError, Snapshot, Usage
from mezzotint.engine.request import Text
from mezzotint.model.condition import Condition
from mezzotint.sampler.lens import Tilt

KEY = "sk-secret-0123456789"
ASKED = mz.Request("Mia has", max_tokens=24, decode="diffusion", policy="llada-random")
GOOD = stream(delta("Hel"), delta("lo"), delta("", "stop", usage={"prompt_tokens": 3, "completion_tokens": 2}))


@pytest.fixture(autouse=True)
def no_surroundings(monkeypatch):
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "MERCURY_BASE_URL", "INCEPTION_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def own(base):
    return Remote.of("openai:tiny", f"{base}/v1")


def call(*arguments, text=None):
    result = typer.testing.CliRunner().invoke(app, [str(a) for a in arguments], input=text)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def fails(remote, request=mz.Request("Hi")):  # noqa: B008  # it is frozen
    began = time.monotonic()
    with pytest.raises(RemoteError) as error:
        list(remote.stream(request))
    assert KEY not in str(error.value) and time.monotonic() - began < 10
    return error.value


# -- our own server ----------------------------------------------------------------------------------------------------


def test_answers_are_the_engines_own(own, engine, count):
    seeds = range(count(40))
    requests = [mz.Request("Mia has", decode="diffusion", max_tokens=24, seed=s, temperature=0.8) for s in seeds]
    replies = own.generate(requests)
    raw = engine.tokenizer.chat_template is None
    for request, reply in zip(requests, replies, strict=True):
        local = engine.generate(mz.Request(request.prompt, raw, "diffusion", 24, 0.8, request.seed))[0]
        assert reply.text == local.text and reply.reason == local.reason
        assert 0 < reply.usage.calls <= local.trace.num_calls
        assert reply.usage.completion == local.trace.num_tokens - (
            local.reason == "stop"
        )  # an end token is none of the text's
    assert len({reply.text for reply in replies}) > 1


def test_stream_comes_in_pieces_and_ends_once(own):
    events = list(own.stream(ASKED))
    assert sum(isinstance(e, Ended) for e in events) == 1 and isinstance(events[-1], Ended)
    assert sum(isinstance(e, Text) for e in events) > 1
    assert "".join(e.piece for e in events[:-1]) == own.generate([ASKED])[0].text


def test_snapshots_replace_each_other(base, own):
    remote = Remote.of("mercury:tiny", f"{base}/v1", diffusing=True, more={"seed": 0})
    events = list(remote.stream(ASKED))
    drafts = [e.text for e in events if isinstance(e, Snapshot)]
    assert len(drafts) > 5 and any("░" in text for text in drafts)
    assert [e.piece for e in events if isinstance(e, Text)] == [drafts[-1]] == [own.generate([ASKED])[0].text]
    assert "temperatures from 0.5" in events[-1].notes[0]


def test_raw_prompts_json_and_messages(own):
    reply = own.generate([mz.Request("Mia has", raw=True, max_tokens=8)])[0]
    assert reply.text and reply.usage.completion <= 8
    schema = {"type": "object", "properties": {"a": {"enum": [True, False]}}, "required": ["a"]}
    shaped = own.generate([mz.Request("Mia", decode="diffusion", max_tokens=24, format=JsonSchema(schema))])[0]
    assert json.loads(shaped.text)["a"] in (True, False)
    talk = [{"role": "user", "content": "Mia"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
    assert own.generate([mz.Request(talk, max_tokens=4)])[0].usage.prompt > reply.usage.prompt


def test_fim_in_three_ways(base):
    told = [
        Remote.of(f"{kind}:tiny", f"{base}/v1", more={"seed": 0}).fim("Mia has a red ", " in the garden.", 6, way=way)
        for kind, way in (("mercury", None), ("openai", None), ("openai", "infill"))
    ]
    assert told[0].text and told[0].text == told[1].text == told[2].text
    with pytest.raises(ValueError, match="allowed: mercury, suffix, infill"):
        Remote.of("openai:x", base).fim("a", "b", way="other")


def test_edits_and_applies(base):
    remote = Remote.of("mercury:tiny", f"{base}/v1", more={"seed": 3})
    region = "The blue horses wait in seven garden."
    done = remote.edit("a\n", region, "\nb\n", path="x.txt", cursor=4, history=["- x\n+ y"])
    assert done.text.startswith("The blue horses") and "```" not in done.text and done.usage.calls
    assert remote.apply("def f():\n    return 1\n", "def f():\n    return 2\n").text.strip() == "def f():\n    return 2"
    with pytest.raises(ValueError, match="cursor is 99"):
        remote.edit("", "ab", "", cursor=99)
    with pytest.raises(ValueError, match="code_to_edit"):
        remote.edit("", "a <|code_to_edit|>", "")
    with pytest.raises(ValueError, match="mercury:tiny"):
        Remote.of("openai:tiny", base).edit("", "a", "")


def test_deadline_gives_what_there_is(base, engine):
    with live.slowed(engine, 0.1):
        remote = Remote.of("openai:tiny", f"{base}/v1")
        request = mz.Request("Mia has", max_tokens=200, decode="ar", deadline=time.monotonic() + 1.2)
        began = time.monotonic()
        reply = remote.generate([request])[0]
    assert reply.reason == "deadline" and reply.text and time.monotonic() - began < 4


def test_leaving_a_stream_frees_the_server(base, own, engine):
    closed = engine.closed
    with live.slowed(engine, 0.02):
        events = own.stream(mz.Request("Mia has", max_tokens=400, decode="ar"))
        next(events)
        events.close()
        live.wait(lambda: engine.closed > closed)


def test_a_model_that_is_not_there_names_those_that_are(base):
    error = fails(Remote.of("openai:gpt-9", f"{base}/v1"))
    assert error.status == 404 and error.code == "model_not_found" and "it has tiny" in str(error)
    assert Remote.of("openai:tiny", f"{base}/v1").models() == ["tiny"]


def test_keys(engine):
    with live.running(engine, keys=(KEY,)) as (base, _):
        good = Remote.of("openai:tiny", f"{base}/v1", KEY)
        assert good.generate([mz.Request("Mia", max_tokens=2)])[0].text is not None and KEY not in repr(good)
        error = fails(Remote.of("openai:tiny", f"{base}/v1", KEY + "x"))
        assert error.status == 401 and "the key is refused by" in str(error) and "OPENAI_API_KEY" in str(error)
        assert "a key is wanted by" in str(fails(Remote.of("mercury:tiny", f"{base}/v1")))


# -- what cannot be ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, named",
    [
        ({"locks": {0: "a"}}, "locks"),
        ({"condition": Condition(class_label=1)}, "condition"),
        ({"decode": "diffusion", "guidance": 2.0}, "guidance"),
        ({"draft": "self"}, "drafts"),
        ({"decode": "diffusion", "blocks_in_flight": 2}, "blocks"),
        ({"logprobs": "final"}, "logprobs"),
        ({"tilt": Tilt(bias={1: 1.0})}, "bias"),
        ({"tilt": Tilt(top_k=3)}, "top_k"),
        ({"format": Regex("a+")}, "JSON schema"),
    ],
)
def test_what_needs_weights_is_refused_before_anything_is_sent(change, named):
    with pytest.raises(ValueError, match=named):
        next(Remote.of("openai:m", "http://127.0.0.1:1/v1").stream(mz.Request("Hi", **change)))


@pytest.mark.parametrize(
    "name, settings, said",
    [
        ("openai:", {}, "openai:MODEL or mercury:MODEL"),
        ("gemini:x", {}, "openai:MODEL"),
        ("openai:x", {}, "set OPENAI_API_KEY; for another server.*OPENAI_BASE_URL"),
        ("mercury:x", {}, "INCEPTION_API_KEY"),
        ("openai:x", {"url": "localhost:8080"}, "http://"),
        ("openai:x", {"url": "http://a:b@localhost/v1"}, "user name or a password"),
        ("openai:x", {"url": "http://localhost/v1", "key": "a\r\nx: y"}, "characters that no key has"),
        ("openai:x", {"url": "http://localhost/v1", "diffusing": True}, "mercury:"),
        ("openai:x", {"url": "http://localhost/v1", "tries": 0}, "tries is 0"),
        ("openai:x", {"url": "http://localhost/v1", "silence": 0}, "silence is 0"),
    ],
)
def test_bad_names_and_settings(name, settings, said):
    with pytest.raises(ValueError, match=said) as error:
        Remote.of(name, **settings)
    assert "a:b" not in str(error.value) and "x: y" not in str(error.value)


def test_the_environment_and_options(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://one/v1/")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made = Remote.of("openai:a/b:c")
    assert (made.url, made.key, made.model, made.host) == ("http://one/v1", KEY, "a/b:c", "one")
    assert Remote.of("openai:x", "http://two/v1", "other").key == "other"


def test_weights_are_refused_by_name():
    for name in ("openai:gpt", "mercury:mercury-2"):
        with pytest.raises(ValueError, match="lies on a server"):
            mz.load(name)
    code, _, said = call("edit", "-m", "openai:gpt", text="a")
    assert code == 2 and "its weights are not here" in said


# -- servers that fail ---------------------------------------------------------------------------------------------------


def of(server, **settings):
    return Remote.of("openai:m", server.url, KEY, **settings)


def test_what_is_sent():
    with scripted(GOOD) as server:
        request = mz.Request("Hi", temperature=0.5, seed=7, tilt=Tilt(top_p=0.5, presence=1.0))
        events = list(of(server, more={"effort": "low"}).stream(request))
    assert [e.piece for e in events[:-1]] == ["Hel", "lo"] and events[-1] == Ended(0, "stop", Usage(3, 2))
    assert server.bodies == [{
        "model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 128, "temperature": 0.5, "seed": 7,
        "top_p": 0.5, "presence_penalty": 1.0, "stream": True, "stream_options": {"include_usage": True}, "effort": "low",
    }]  # fmt: skip
    assert f"authorization: Bearer {KEY}" in server.heads[0] and server.heads[0].startswith(
        "POST /v1/chat/completions "
    )


def test_mercurys_drafts_as_it_sends_them():
    drafts = [
        delta("", diffusion_meta={"diffusion_content": "a#", "diffusion_progress": 0.5}),
        delta("ab", diffusion_meta={}),
    ]
    last = delta("", "stop", usage={"prompt_tokens": 1, "completion_tokens": 2, "reasoning_tokens": 9}, warning="reset")
    with scripted(stream(*drafts, last)) as server:
        made = Remote.of("mercury:m", server.url, KEY, diffusing=True)
        events = list(made.stream(mz.Request("Hi", temperature=0.7)))
    assert events == [
        Snapshot(0, "a#", 0.5), Snapshot(0, "ab", None), Text(0, "ab"),
        Ended(0, "stop", Usage(1, 2, 9), ("reset",)),
    ]  # fmt: skip
    assert server.bodies[0]["diffusing"] is True and "seed" not in server.bodies[0]


def test_too_many_requests_are_waited_for():
    busy = status(429, {"error": {"message": "slow down"}}, retry_after="0.3")
    dated = status(503, {"error": {"message": "starting"}}, retry_after="Wed, 21 Oct 2015 07:28:00 GMT")
    with scripted(busy, dated, GOOD) as server:
        began = time.monotonic()
        reply = of(server).generate([mz.Request("Hi")])[0]
    assert reply.text == "Hello" and len(server.bodies) == 3 and 0.3 <= time.monotonic() - began < 3


def test_too_many_requests_for_too_long():
    with scripted(status(429, {"error": {"message": f"no {KEY}"}}, retry_after="900")) as server:
        error = fails(of(server))
        assert error.status == 429 and "come back in 900 s" in str(error) and "***" in str(error)
    with scripted(status(429, {"error": {"message": "pay", "code": "insufficient_quota"}})) as server:
        assert fails(of(server)).code == "insufficient_quota" and len(server.bodies) == 1
    with scripted(*[status(500, b"<html><b>broken</b>\x1b[31m")] * 2) as server:
        error = fails(of(server, tries=2, longest_wait=0.01))
        assert (
            "broken" in str(error)
            and "asked 2 times" in str(error)
            and "\x1b" not in str(error)
            and "<" not in str(error)
        )


def test_cut_streams():
    for reply in (
        stream(delta("Hel"), whole=False, done=False),
        stream(delta("Hel"), chunked=False, done=False),
        stream(delta("Hel"), done=False) [:-3] + b"5\r\nda",
    ):  # fmt: skip
        with scripted(reply) as server:
            assert "broke off after 3 characters" in str(fails(of(server))) and len(server.bodies) == 1
    with scripted(stream(done=False, whole=False), b"", GOOD) as server:  # nothing was given: asked again
        assert of(server, longest_wait=0.01).generate([mz.Request("Hi")])[0].text == "Hello"


def test_errors_inside_a_stream():
    with scripted(stream(delta("Hel"), {"error": {"message": "out of memory", "code": "oom"}})) as server:
        error = fails(of(server))
        assert error.code == "oom" and "out of memory" in str(error)
    with scripted(stream({"choices": [{"delta": 3}]})) as server:
        assert "another form" in str(fails(of(server)))


def test_servers_that_say_nothing_or_are_not_there():
    with scripted(None) as server:
        assert "nothing was heard for 0.2 s" in str(fails(of(server, silence=0.2)))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    error = fails(Remote.of("openai:m", f"http://127.0.0.1:{port}/v1"))
    assert "nothing listens at" in str(error) and "is the server running?" in str(error)
    assert "cannot be reached" in str(fails(Remote.of("openai:m", "http://no-such-host.invalid/v1")))


def test_answers_that_are_none():
    with scripted(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n<html>hello</html>") as server:
        assert "no answer of OpenAI's API: '<html>hello</html>'" in str(fails(of(server)))
    with scripted(status(302, b"", location="http://elsewhere/")) as server:
        assert "not followed" in str(fails(of(server))) and len(server.bodies) == 1
    with scripted(b"SSH-2.0-OpenSSH\r\n\r\n") as server:
        assert "broke off" in str(fails(of(server, tries=1)))
    with scripted(status(404, {"detail": "Not Found"}), status(404, {})) as server:
        assert f"is {server.url} the base URL? It mostly ends in /v1" in str(fails(of(server)))


def test_an_answer_that_is_not_streamed_is_read_too():
    whole = {
        "choices": [{"message": {"content": "Hello"}, "finish_reason": "length"}],
        "usage": {"completion_tokens": 1},
    }
    with scripted(status(200, whole)) as server:
        reply = of(server).generate([mz.Request("Hi")])[0]
    assert (reply.text, reply.reason, reply.usage.completion) == ("Hello", "length", 1)


def test_fields_that_a_server_does_not_know():
    """OpenAI's words for reasoning models, and Gemini's for a seed."""
    tokens = (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    )
    gemini = [
        {"error": {"code": 400, "message": 'Invalid JSON payload received. Unknown name "seed": Cannot find field.'}}
    ]
    with scripted(
        status(400, {"error": {"message": tokens, "param": "max_tokens"}}), status(400, gemini), GOOD
    ) as server:
        reply = of(server).generate([mz.Request("Hi", max_tokens=9)])[0]
    assert reply.text == "Hello" and reply.notes == ("the server does not take seed",)
    assert "seed" not in server.bodies[2] and server.bodies[2]["max_completion_tokens"] == 9
    with scripted(status(400, {"error": {"message": "bad temperature", "param": "temperature"}})) as server:
        assert "bad temperature" in str(fails(of(server)))


def test_inside_an_event_loop():
    async def main():
        with scripted(GOOD) as server:
            with pytest.raises(RuntimeError, match="await remote"):
                of(server).generate([mz.Request("Hi")])
            return await of(server).answer(mz.Request("Hi"))

    assert asyncio.run(main()).text == "Hello"


def test_keys_are_in_no_log(caplog):
    with (
        caplog.at_level(logging.DEBUG),
        scripted(GOOD, status(401, {"error": {"message": f"bad key {KEY}"}})) as server,
    ):
        of(server).generate([mz.Request("Hi")])
        fails(of(server))
    assert KEY not in caplog.text


# -- the race ------------------------------------------------------------------------------------------------------------


def test_remote_models_of_the_playground(base, own, engine, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", f"{base}/v1")
    monkeypatch.setenv("MERCURY_BASE_URL", f"{base}/v1")
    with live.running(engine, remotes=("openai:tiny", "mercury:tiny", "openai:gone"), name="other") as (racing, _):
        assert httpx.get(f"{racing}/playground/info").json()["remotes"] == [
            "openai:tiny",
            "mercury:tiny",
            "openai:gone",
        ]

        def race(remote):
            body = {"remote": remote, "prompt": "Mia has", "max_tokens": 12}
            answer = httpx.post(f"{racing}/playground/remote", json=body, timeout=60)
            return answer, [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")]

        answer, events = race("openai:tiny")
        assert (
            "".join(e.get("text", "") for e in events) == own.generate([mz.Request("Mia has", max_tokens=12)])[0].text
        )
        assert (
            events[-1]["done"] == "length"
            and events[-1]["tokens"] == 12
            and events[-1]["calls"]
            and answer.text.endswith("]\n\n")
        )
        _, events = race("mercury:tiny")
        assert any(e.get("cells") for e in events[:-1]) and events[-1]["tokens"] == 12
        assert "no model 'gone'" in race("openai:gone")[1][-1]["error"]["message"]
        assert race("openai:secret")[0].status_code == 404
    code, _, said = call("serve", "--model", "tiny", "--remote", "openai:")
    assert code == 2 and "openai:MODEL" in said


# -- proxies ---------------------------------------------------------------------------------------------------------------


def test_a_plain_proxy_is_asked_for_the_whole_address(monkeypatch):
    with scripted(GOOD) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("://", "://me:p%40ss@").removesuffix("/v1"))
        reply = Remote.of("openai:m", "http://model.test/v1", KEY).generate([mz.Request("Hi")])[0]
    assert reply.text == "Hello"
    assert proxy.heads[0].startswith("POST http://model.test:80/v1/chat/completions ")
    assert f"proxy-authorization: Basic {base64.b64encode(b'me:p@ss').decode()}" in proxy.heads[0]


@pytest.fixture
def certificate(tmp_path, monkeypatch):
    """Of model.test, made now, and trusted."""
    if shutil.which("openssl") is None:
        pytest.skip("a certificate is made with openssl, which is not here")
    path = tmp_path / "model.test.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=model.test", "-addext",
         "subjectAltName=DNS:model.test", "-keyout", path, "-out", tmp_path / "made.pem"], check=True, capture_output=True,
    )  # fmt: skip
    with path.open("ab") as file:
        file.write((tmp_path / "made.pem").read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    return path


def test_tls_goes_through_the_proxy_untouched(certificate, monkeypatch):
    """The proxy sees where to, and bytes; the certificate is the server's own, and checked."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    listener, seen = socket.create_server(("127.0.0.1", 0)), []

    def tunnel():
        for _ in range(2):
            connection, _ = listener.accept()
            seen.append(connection.recv(65536).decode())
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            try:
                with context.wrap_socket(connection, server_side=True) as inner:
                    seen.append(inner.recv(65536).decode())
                    inner.sendall(GOOD)
            except OSError:
                connection.close()

    thread = threading.Thread(target=tunnel)
    thread.start()
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{listener.getsockname()[1]}")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://model.test/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    code, out, said = call("generate", "Hi", "-m", "openai:m")
    assert (code, out) == (0, "Hello\n"), said
    assert seen[0].startswith("CONNECT model.test:443 HTTP/1.1\r\n") and KEY not in seen[0]
    assert seen[1].startswith("POST /v1/chat/completions ") and f"authorization: Bearer {KEY}" in seen[1]
    assert "TLS failed" in str(fails(Remote.of("openai:m", "https://other.test/v1", KEY)))
    thread.join(10)
    listener.close()


def test_proxies_that_fail(monkeypatch):
    remote = "https://model.test/v1"
    with scripted(b"HTTP/1.1 407 no\r\n\r\n", b"SSH-2.0\r\n\r\n") as proxy:
        where = proxy.url.removeprefix("http://").removesuffix("/v1")
        monkeypatch.setenv("https_proxy", f"http://me:secret@{where}")
        for said in ("answered 407", "gave no answer of HTTP"):
            error = str(fails(Remote.of("openai:m", remote)))
            assert f"model.test cannot be reached: the proxy {where} {said}" in error and "secret" not in error
    assert f"no connection to the proxy {where}" in str(fails(Remote.of("openai:m", remote)))
    monkeypatch.setenv("no_proxy", "model.test")
    assert "proxy" not in str(fails(Remote.of("openai:m", remote)))
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(ValueError, match="of the kind 'socks5'; only http:// proxies"):
        Remote.of("openai:m", remote)


def test_this_machine_is_never_asked_for_through_a_proxy(own, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:1")
    assert own.generate([mz.Request("Mia", max_tokens=2)])[0].usage.completion


# -- the command line ----------------------------------------------------------------------------------------------------


def test_generate_chat_and_infill(base, own, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", f"{base}/v1")
    monkeypatch.setenv("MERCURY_BASE_URL", f"{base}/v1")
    code, out, said = call("generate", "Mia has", "-m", "openai:tiny", "--max-tokens", 8, "--decode", "ar", "--summary")
    text = own.generate([mz.Request("Mia has", max_tokens=8, decode="ar")])[0].text
    assert (code, out) == (0, text + "\n") and "openai:tiny at 127.0.0.1" in said and " calls" in said
    code, out, _ = call("generate", "Mia has", "-m", "mercury:tiny", "--max-tokens", 8, "--json")
    told = json.loads(out)
    assert code == 0 and told["tokens"] <= 8 and told["model"] == "mercury:tiny"
    code, out, _ = call("chat", "-m", "openai:tiny", "--max-tokens", 6, text="Mia has\nAnd Tom?\n")
    assert code == 0 and len(out.splitlines()) >= 2
    code, out, _ = call("infill", "Mia has a red [[ ]] in the garden.", "-m", "mercury:tiny")
    assert code == 0 and out.startswith("Mia has a red ") and out.endswith(" in the garden.\n")


@pytest.mark.parametrize(
    "arguments, exit_code, said",
    [
        (("generate", "a", "-m", "openai:x"), 2, "set OPENAI_API_KEY"),
        (("generate", "a", "-m", "mercury:x", "--trace", "t"), 2, "--trace needs weights"),
        (("generate", "a", "-m", "mercury:x", "--decode", "auto"), 2, "measures this machine"),
        (("infill", "a [[ ]] b [[ ]]", "-m", "openai:x"), 2, "OPENAI_API_KEY"),
        (("watch", "a", "-m", "openai:x"), 2, "lies on a server"),
    ],
)
def test_commands_refuse_in_a_sentence(arguments, exit_code, said):
    code, _, error = call(*arguments)
    assert code == exit_code and said in error and "Traceback" not in error


def test_eval_asks_a_remote_model(base, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", f"{base}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    code, out, said = call(
        "eval", "gpqa", "-m", "openai:tiny", "--fixtures", "--data", tmp_path, "--items", 2, "--max-tokens", 8,
        "--out", tmp_path / "store",
    )  # fmt: skip
    assert code == 0 and "gpqa" in out, said
    written = "".join(path.read_text() for path in (tmp_path / "store").rglob("*") if path.is_file())
    assert '"endpoint"' in written and KEY not in written
