"""One Request to three kinds of server: one that behaves like Gemini's OpenAI endpoint, one like Mercury's, llama.cpp's own.

llama.cpp's server is the real one (the xllamacpp wheel), on the base weights. The two others are written from the services'
documents; no request was made to the services themselves.
"""

import http.server
import json
import threading
from contextlib import contextmanager

import pytest
import typer.testing

import mezzotint as mz
from mezzotint.cli import app
from mezzotint.constraint.formats import JsonSchema
from mezzotint.engine.remote import Ended, Remote, RemoteError, Snapshot
from mezzotint.engine.request import Text

KEY = "sk-secret-0123456789"
REQUEST = mz.Request("Name three colours.", max_tokens=24, temperature=0.5, seed=3)
WORDS = ["Red", ", ", "green", ", ", "blue", "."]
GEMINI_FIELDS = {  # of its CreateChatCompletionRequest: no seed, none of ours
    "model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "n", "stop", "stream", "tools",
    "stream_options", "response_format", "reasoning_effort", "tool_choice", "frequency_penalty", "presence_penalty",
}  # fmt: skip


class Behaves(http.server.BaseHTTPRequestHandler):
    """Checks what it is sent as the service does, and answers in its form. seen: bodies."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.seen.append(body)
        told = self.server.answer(self, body)
        if isinstance(told, tuple):
            code, refusal = told
            data = json.dumps(refusal).encode()
            self.send_response(code)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for chunk in [*map(json.dumps, told), "[DONE]"]:
            line = f"data: {chunk}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_):
        pass


def gemini(request, body):
    if request.headers.get("authorization") != f"Bearer {KEY}":
        return 400, [{"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}]
    if unknown := sorted(set(body) - GEMINI_FIELDS):
        message = f'Invalid JSON payload received. Unknown name "{unknown[0]}": Cannot find field.'
        return 400, [{"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}]
    made = [{"index": 0, "delta": {"role": "assistant", "content": word}} for word in WORDS]
    made[-1]["finish_reason"] = "stop"
    usage = {"prompt_tokens": 5, "completion_tokens": len(WORDS), "total_tokens": 5 + len(WORDS)}
    return [{"object": "chat.completion.chunk", "model": body["model"], "choices": [c], "usage": usage} for c in made]


def mercury(request, body):
    if request.headers.get("authorization") != f"Bearer {KEY}":
        return 401, {"error": {"message": "Incorrect API key provided", "type": "invalid_request_error", "code": "x"}}
    if "seed" in body:
        return 422, {"detail": "extra fields not permitted: seed"}
    usage = {"prompt_tokens": 5, "completion_tokens": len(WORDS), "reasoning_tokens": 0}
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage}
    if body.get("diffusing"):
        drafts = ["R#d, #####, b##e#", "Red, gr#en, blue#", "".join(WORDS)]
        return [{"choices": [{"index": 0, "delta": {"content": draft}, "finish_reason": None}]} for draft in drafts] + [
            last
        ]
    return [{"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]} for word in WORDS] + [last]


@contextmanager
def behaving(answer):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Behaves)
    server.answer, server.seen, server.daemon_threads = answer, [], True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


@pytest.fixture(scope="module")
def llama(base_path):
    """The address of llama.cpp's own server."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="llama.cpp's server comes with xllamacpp (mezzotint[llama])")
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.port, params.warmup = str(base_path), 512, 1, 0, False
    params.model_alias = {"smol"}
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1"
    del server


def contract(remote, request=REQUEST):
    """What holds of any server: pieces, then an end with what it took; the same again in one piece. -> (text, end)"""
    events = list(remote.stream(request))
    assert all(isinstance(event, Text) for event in events[:-1]) and isinstance(events[-1], Ended)
    text = "".join(event.piece for event in events[:-1])
    assert text and events[-1].reason in ("stop", "length") and 0 < events[-1].usage.completion <= request.max_tokens
    assert remote.generate([request])[0].text == text
    return text, events[-1]


def test_a_server_like_geminis():
    with behaving(gemini) as (server, url):
        remote = Remote.of("openai:gemini-2.5-flash-lite", url, KEY)
        text, end = contract(remote)
        assert text == "Red, green, blue." and end.notes == ("the server does not take seed",)
        assert [set(body) <= GEMINI_FIELDS for body in server.seen] == [False, True, False, True]
        with pytest.raises(RemoteError, match="API key not valid"):
            list(Remote.of("openai:gemini-2.5-flash-lite", url, "wrong").stream(REQUEST))


def test_a_server_like_mercurys():
    with behaving(mercury) as (server, url):
        text, _ = contract(Remote.of("mercury:mercury-2", url, KEY))
        assert text == "Red, green, blue." and all(body["temperature"] == 0.5 for body in server.seen)
        events = list(Remote.of("mercury:mercury-2", url, KEY, diffusing=True).stream(REQUEST))
        drafts = [event.text for event in events if isinstance(event, Snapshot)]
        assert drafts[0] == "R#d, #####, b##e#" and drafts[-1] == text
        assert "".join(event.piece for event in events if isinstance(event, Text)) == text
        with pytest.raises(RemoteError, match="the key is refused by"):
            list(Remote.of("mercury:mercury-2", url, "wrong").stream(REQUEST))


def test_llama_cpps_own_server(llama, base_path):
    remote = Remote.of("openai:smol", llama)
    _, end = contract(remote)
    checkpoint = mz.load("base")
    told = [{"role": "user", "content": REQUEST.prompt}]
    assert end.usage.prompt == len(checkpoint.tokenizer.chat(told))  # its chat template and its tokenizer are ours
    assert remote.models() == ["smol"]


def test_what_else_llama_cpps_server_is_asked(llama):
    remote = Remote.of("openai:smol", llama)
    raw = remote.generate([mz.Request("The colours of the flag are red, white and", raw=True, max_tokens=3)])[0]
    assert raw.text.strip() == "blue" or raw.text.startswith(" blue")
    schema = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}
    shaped = remote.generate([mz.Request("A colour, as JSON.", max_tokens=24, format=JsonSchema(schema))])[0]
    assert json.loads(shaped.text)["colour"] in ("red", "blue")
    with pytest.raises(RemoteError, match=r"400.*context"):
        remote.generate([mz.Request("word " * 600, max_tokens=4)])
    with pytest.raises(
        RemoteError, match=r"127\.0\.0\.1"
    ):  # these weights have no tokens for infilling, and it says so
        remote.fim("def add(a, b):\n", "\nprint(add(1, 2))", 4, way="infill")


def test_commands_ask_llama_cpps_server(llama, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_BASE_URL", llama)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def call(*arguments):
        return typer.testing.CliRunner().invoke(app, [str(a) for a in arguments])

    result = call("generate", "Name three colours.", "-m", "openai:smol", "--max-tokens", 6, "--summary")
    assert result.exit_code == 0 and result.stdout.strip() and "openai:smol at 127.0.0.1" in result.stderr
    result = call(
        "eval", "gpqa", "-m", "openai:smol", "--fixtures", "--data", tmp_path, "--items", 1, "--max-tokens", 4,
        "--out", tmp_path / "store",
    )  # fmt: skip
    assert result.exit_code == 0 and "gpqa" in result.stdout, result.stderr
    (stored,) = (tmp_path / "store").glob("*.answers.jsonl")
    answer = json.loads(stored.read_text().splitlines()[-1])
    assert answer["text"] and answer["tokens"] > 0
