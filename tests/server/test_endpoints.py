"""Every endpoint through a real socket: texts are the engine's own at the same seed, in one piece and as a stream."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import openai
import pytest

import mezzotint as mz

ASKS = {
    "verified": {"decode": "verified"},
    "ar": {"decode": "ar", "temperature": 0.8},
    "diffusion": {"decode": "diffusion", "temperature": 0.8},
    "policy": {"policy": "entropy"},
    "quality": {"quality": "best"},
}
CHATML = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"


@pytest.fixture(scope="module")
def client(base):
    return openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)


def own(engine, prompt, raw=True, choice=0, **ask):
    """What the engine writes itself."""
    from mezzotint.sampler.quality import QUALITY

    quality = ask.pop("quality", None)
    decode = ask.pop("decode", "diffusion")
    if quality:
        ask["policy"] = QUALITY[quality]()
    return engine.generate(mz.Request(prompt, raw, decode, choice=choice, **ask))[0]


def deltas(chunks):
    """Texts of the choices of a stream, by index."""
    texts = {}
    for chunk in chunks:
        for choice in chunk.choices:
            piece = choice.delta.content if hasattr(choice, "delta") else choice.text
            texts[choice.index] = texts.get(choice.index, "") + (piece or "")
    return texts


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_chat_is_the_engines_text(client, engine, ask):
    messages = [{"role": "system", "content": "Mia"}, {"role": "user", "content": [{"type": "text", "text": "has"}]}]
    extra = {key: value for key, value in ask.items() if key != "temperature"}
    told = {"model": "tiny", "messages": messages, "seed": 3, "max_tokens": 24, "extra_body": extra}
    told |= {"temperature": ask["temperature"]} if "temperature" in ask else {}
    wanted = own(engine, "Mia\nhas", seed=3, max_tokens=24, **ask)
    whole = client.chat.completions.create(**told)
    assert whole.choices[0].message.content == wanted.text and whole.choices[0].finish_reason == wanted.reason
    assert whole.object == "chat.completion" and whole.choices[0].message.role == "assistant"
    commits = sum(frame.calls for frame in wanted.trace.frames if frame.kind == "commit")  # the server's are no calls
    assert whole.usage.completion_tokens == len(wanted.ids)
    assert whole.usage.diffusion["calls"] == wanted.trace.num_calls - commits
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + len(wanted.ids)
    assert "no chat template" in whole.warning
    chunks = list(client.chat.completions.create(**told, stream=True))
    assert deltas(chunks) == {0: wanted.text}
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].choices[0].delta.content == ""
    assert all(chunk.choices[0].delta.role is None for chunk in chunks[1:])
    assert [c.choices[0].finish_reason for c in chunks] == [None] * (len(chunks) - 1) + [wanted.reason]
    assert (
        len({(c.id, c.created, c.model, c.object) for c in chunks}) == 1 and chunks[0].object == "chat.completion.chunk"
    )
    assert all(chunk.usage is None for chunk in chunks)


def test_a_chat_template_is_used(client, engine, monkeypatch):
    monkeypatch.setattr(engine.tokenizer, "chat_template", CHATML)
    messages = [{"role": "user", "content": "Mia has"}]
    told = client.chat.completions.create(model="tiny", messages=messages, max_completion_tokens=9, seed=1)
    assert told.choices[0].message.content == own(engine, messages, False, decode="verified", max_tokens=9, seed=1).text
    assert not hasattr(told, "warning")


def test_the_wire_format_of_a_stream(base):
    body = {"messages": [{"role": "user", "content": "Mia has"}], "stream": True, "max_tokens": 8}
    body["stream_options"] = {"include_usage": True}
    with httpx.stream("POST", f"{base}/v1/chat/completions", json=body) as response:
        text = response.read().decode()
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache" and response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-request-id"]
    lines = text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""] and all(
        line.startswith("data: ") and "\n" not in line for line in lines[:-1]
    )
    chunks = [json.loads(line[6:]) for line in lines[:-2]]
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == 8
    assert all(set(c["choices"][0]) == {"index", "delta", "finish_reason", "logprobs"} for c in chunks[:-1])
    assert [c["choices"][0]["delta"] for c in chunks[:-1]][-1] == {} and "usage" not in chunks[0]


@pytest.mark.parametrize("stream", [False, True])
def test_choices_and_prompts_are_rows_of_their_own(client, engine, stream):
    told = {"model": "tiny", "prompt": ["Mia has", "The blue"], "n": 2, "seed": 5, "temperature": 0.9, "max_tokens": 10}
    answer = client.completions.create(**told, extra_body={"decode": "diffusion"}, stream=stream)
    texts = deltas(answer) if stream else {choice.index: choice.text for choice in answer.choices}
    ask = {"decode": "diffusion", "seed": 5, "temperature": 0.9, "max_tokens": 10}
    rows = [own(engine, prompt, choice=choice, **ask).text for prompt in told["prompt"] for choice in (0, 1)]
    assert texts == dict(enumerate(rows)) and rows[0] != rows[1]


def test_many_at_once_get_the_text_that_each_gets_alone(client, engine):
    told = {"model": "tiny", "max_tokens": 12, "temperature": 0.9}
    asks = [(prompt, seed) for prompt in ("Mia has", "The blue") for seed in range(4)]
    with ThreadPoolExecutor(len(asks)) as threads:
        answers = threads.map(lambda ask: client.completions.create(prompt=ask[0], seed=ask[1], **told), asks)
        texts = [answer.choices[0].text for answer in answers]
    ask = {"decode": "verified", "max_tokens": 12, "temperature": 0.9}
    assert texts == [own(engine, prompt, seed=seed, **ask).text for prompt, seed in asks] and len(set(texts)) == len(
        asks
    )


def test_a_seed_that_was_not_given_can_be_asked_for_again(client):
    told = {"model": "tiny", "prompt": "Mia has", "temperature": 1.0}
    first = client.completions.create(**told)
    assert client.completions.create(**told, seed=first.seed).choices[0].text == first.choices[0].text


@pytest.mark.parametrize("decode", ["ar", "verified", "diffusion"])
@pytest.mark.parametrize("places", [(9, 13), (20, 21), (30, 45)])
def test_stop_strings_cut_the_text_in_both_forms(client, engine, decode, places):
    whole = own(engine, "Mia has", decode=decode, max_tokens=40, seed=1).text
    stop = whole[slice(*places)]
    told = {"model": "tiny", "prompt": "Mia has", "max_tokens": 40, "seed": 1, "extra_body": {"decode": decode}}
    told["stop"] = stop if places[0] == 9 else ["no such text", stop]
    answer = client.completions.create(**told)
    assert answer.choices[0].text == whole[: whole.find(stop)] and answer.choices[0].finish_reason == "stop"
    chunks = list(client.completions.create(**told, stream=True))
    assert deltas(chunks)[0] == answer.choices[0].text and chunks[-1].choices[0].finish_reason == "stop"


def test_suffix_is_infilled(client, engine):
    wanted = mz.infill(engine, "Mia has [[ ]] ball.", seed=2, max_length=6).holes[0]
    told = {"model": "tiny", "prompt": "Mia has ", "suffix": " ball.", "seed": 2, "max_tokens": 6}
    answer = client.completions.create(**told)
    assert answer.choices[0].text == wanted.text and answer.usage.completion_tokens == wanted.length
    assert deltas(client.completions.create(**told, stream=True)) == {0: wanted.text}


def test_suffix_needs_weights_that_denoise(client, engine, monkeypatch):
    facts = replace(engine.checkpoint.facts, trained_canvas=False)
    monkeypatch.setattr(engine, "checkpoint", replace(engine.checkpoint, facts=facts))
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model="tiny", prompt="Mia has ", suffix=" ball.")
    assert error.value.param == "suffix" and "denoise" in error.value.message


def test_snapshots_replace_each_other(client, engine):
    told = {"model": "tiny", "messages": [{"role": "user", "content": "Mia has"}], "max_tokens": 40, "seed": 1}
    extra = {"diffusing": True, "decode": "diffusion", "policy": "llada-random"}
    whole = own(engine, "Mia has", decode="diffusion", policy="llada-random", max_tokens=40, seed=1)
    shown = [c.choices[0].delta.content for c in client.chat.completions.create(**told, stream=True, extra_body=extra)]
    shown = [text for text in shown if text]
    assert shown[-1] == whole.text and any("░" in text for text in shown) and len(shown) > 10
    with pytest.raises(openai.BadRequestError, match="n out"):
        client.chat.completions.create(**told, n=2, extra_body=extra)


def test_models_health_and_metrics(client, base):
    (model,) = client.models.list().data
    assert model.id == "tiny" and model.context_length == 512 and model.diffusion["noise"] == "hybrid"
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("../etc/passwd")
    assert error.value.code == "model_not_found" and "passwd" not in str(error.value)
    for path in ("/health", "/v1/health", "/ready"):
        assert httpx.get(base + path).status_code == 200
    client.completions.create(model="tiny", prompt="Mia has", max_tokens=4)
    metrics = httpx.get(f"{base}/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    for name in (
        "num_requests_running", "num_requests_waiting", "prompt_tokens_total", "generation_tokens_total", "calls_total",
        'request_success_total{finished_reason="length"', "time_to_first_token_seconds_bucket", "tokens_per_call_bucket",
        "e2e_request_latency_seconds_count", "request_queue_time_seconds_sum",
    ):  # fmt: skip
        assert f"mezzotint:{name}" in metrics.text
    assert 'model_name="tiny"' in metrics.text
    paths = httpx.get(f"{base}/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/v1/completions", "/v1/instant-edit", "/v1/models", "/health", "/metrics"} <= set(
        paths
    )


def test_an_instant_edit_is_the_editors(base, engine):
    text = "The blue horses wait in seven garden.\r\n"
    body = {"document": text, "instruction": "fix the grammar", "budget": 0.25, "seed": 1}
    told = httpx.post(f"{base}/v1/instant-edit", json=body).json()
    wanted = mz.revise(engine, text, budget=0.25, seed=1)
    assert told["text"] == wanted.after != text and told["calls"] == wanted.num_calls > 0
    hunks = wanted.to_json()["hunks"]
    sure, own = ([hunk.pop("confidence") for hunk in found] for found in (told["hunks"], hunks))
    assert told["hunks"] == hunks and sure == pytest.approx(own, rel=1e-4) and 0 < sure[0] <= 1
    assert told["object"] == "instant_edit" and told["model"] == "tiny" and told["seed"] == 1
    locked = httpx.post(f"{base}/v1/instant-edit", json={**body, "locks": [[24, 29]]}).json()
    assert locked["text"] == text and not locked["changed"]
    named = httpx.post(
        f"{base}/v1/instant-edit", json={"document": text, "preset": "grammar", "seed": 1, "x": 1}
    ).json()
    assert named["text"] == wanted.after and named["problems"] == [] and named["warning"] == "ignored: x"
    strong = httpx.post(f"{base}/v1/instant-edit", json={**body, "strength": 0.4, "budget": 1}).json()
    assert strong["text"] == mz.revise(engine, text, strength=0.4, seed=1).after


@pytest.mark.parametrize(
    ("more", "param", "words"),
    [
        ({"document": " "}, "document", "empty"), ({"locks": [[0, 999]]}, None, "outside"), ({"locks": [[1]]}, "locks[0]", "2"),
        ({"preset": "audience"}, "values", "audience"), ({"preset": "free"}, "instruction", "instruction"),
        ({"preset": "../x"}, None, "unknown preset"), ({"budget": 2}, "budget", "1"), ({"strength": True}, "strength", "number"),
        ({"lines": "9"}, None, "lines"), ({"way": "verified"}, None, "cannot edit by"), ({"document": 5}, "document", "string"),
    ],
)  # fmt: skip
def test_an_edit_that_cannot_be_is_refused(base, more, param, words):
    answer = httpx.post(f"{base}/v1/instant-edit", json={"document": "Mia has a hat.", **more})
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == param and words in error["message"]
