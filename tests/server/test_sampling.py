"""What a request may ask of sampling, through a real socket: every text is the engine's own for the same request."""

import time
from dataclasses import replace

import httpx
import live
import openai
import pytest
import torch

import mezzotint as mz
from mezzotint.model.condition import Condition
from mezzotint.model.config import Conditioning
from mezzotint.model.denoiser import Denoiser
from mezzotint.sampler.lens import Tilt

TOLD = {"model": "tiny", "prompt": "Mia has", "seed": 3, "max_tokens": 12}
ASK = mz.Request("Mia has", raw=True, max_tokens=12, seed=3)


@pytest.fixture(scope="module")
def client(base):
    return openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)


def own(engine, **ask):
    return engine.generate(replace(ASK, **ask))[0]


ASKS = {
    "penalties": ({"presence_penalty": 1.0, "frequency_penalty": 0.5}, {}, Tilt(presence=1.0, frequency=0.5)),
    "bias": ({"logit_bias": {"10": 4, "266": -100}}, {}, Tilt({10: 4.0, 266: -100.0})),
    "repetition": ({}, {"repetition_penalty": 1.5}, Tilt(repetition=1.5)),
    "truncation": ({"top_p": 0.8}, {"top_k": 7, "min_p": 0.01}, Tilt(top_k=7, top_p=0.8, min_p=0.01)),
}


@pytest.mark.parametrize("decode", ["verified", "diffusion"])
@pytest.mark.parametrize(("fields", "extra", "tilt"), ASKS.values(), ids=ASKS)
def test_logits_are_tilted_as_asked(client, engine, decode, fields, extra, tilt):
    told = {**TOLD, **fields, "max_tokens": 24, "temperature": 0.9, "extra_body": {**extra, "decode": decode}}
    wanted = own(engine, decode=decode, temperature=0.9, tilt=tilt, max_tokens=24).text
    assert client.completions.create(**told).choices[0].text == wanted
    chunks = client.completions.create(**told, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == wanted
    assert wanted != own(engine, decode=decode, temperature=0.9, max_tokens=24).text


@pytest.mark.parametrize("decode", ["ar", "verified", "diffusion"])
@pytest.mark.parametrize("at", ["commit", "final", "causal"])
def test_logprobs_are_the_engines_in_both_forms(client, engine, decode, at):
    extra = {"decode": decode, "logprobs_at": at}
    wanted = own(engine, decode=decode, logprobs=at, top_logprobs=2)
    answer = client.completions.create(**TOLD, logprobs=2, extra_body=extra)
    (choice,) = answer.choices
    assert choice.text == wanted.text == "".join(choice.logprobs.tokens)
    assert choice.logprobs.token_logprobs == pytest.approx([one.nats for one in wanted.scores], abs=1e-5)
    assert [len(top) for top in choice.logprobs.top_logprobs] == [2] * len(wanted.ids)
    starts = [len("".join(choice.logprobs.tokens[:i])) for i in range(len(wanted.ids))]
    assert choice.logprobs.text_offset == starts
    further = sum(f.kind == "commit" for f in wanted.trace.frames) if decode == "diffusion" and at != "commit" else 0
    assert answer.usage.diffusion["calls"] == wanted.trace.num_calls + further
    nats = []
    for chunk in client.completions.create(**TOLD, logprobs=2, extra_body=extra, stream=True):
        nats += chunk.choices[0].logprobs.token_logprobs if chunk.choices[0].logprobs else []
    assert nats == choice.logprobs.token_logprobs


def test_logprobs_of_a_chat_and_of_a_text_that_was_cut(client, engine):
    whole = own(engine, decode="verified", logprobs="commit").text
    told = {k: v for k, v in TOLD.items() if k != "prompt"} | {"messages": [{"role": "user", "content": "Mia has"}]}
    stop = whole[8:11]
    answer = client.chat.completions.create(**told, logprobs=True, top_logprobs=1, stop=stop)
    (choice,) = answer.choices
    assert choice.message.content == whole[: whole.find(stop)]
    tokens = choice.logprobs.content
    text = b"".join(bytes(token.bytes) for token in tokens).decode()
    assert text.startswith(choice.message.content) and not text.removesuffix(tokens[-1].token).startswith(text)
    assert len(text.removesuffix(tokens[-1].token)) < len(choice.message.content)
    assert all(len(token.top_logprobs) == 1 and token.logprob <= 0 for token in tokens)


def test_guidance_and_a_prompt_as_a_condition(client, engine):
    told = {**TOLD, "temperature": 0.8}
    extra = {"guidance": 2.0, "condition": {"prompt": "The dog ran. "}}
    wanted = own(
        engine, decode="diffusion", temperature=0.8, guidance=2.0, condition=Condition(prompt="The dog ran. ")
    ).text
    assert client.completions.create(**told, extra_body=extra).choices[0].text == wanted
    assert wanted != own(engine, decode="diffusion", temperature=0.8).text
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(**told, extra_body={"guidance": 2.0, "decode": "ar"})
    assert error.value.param == "guidance"


def conditioned(engine):
    """The tiny model with a conditioner of random weights."""
    torch.manual_seed(1)
    config = replace(engine.denoiser.config, condition=Conditioning(classes=3, embedding=2, length=2))
    model = Denoiser(config, engine.denoiser.shift).requires_grad_(False).eval()
    known = engine.denoiser.slots()
    model.load([(name, known.get(name, torch.randn_like(slot) * 0.5)) for name, slot in model.slots().items()])
    other = live.Held(engine)
    other.denoiser = model
    return other


def test_classes_and_embeddings_are_followed(engine):
    told = conditioned(engine)
    with live.running(told) as (base, _):
        texts = set()
        for given, condition in (
            (None, None), ({"class_label": 2}, Condition(class_label=2)),
            ({"embedding": [3, -2.5]}, Condition(embedding=(3, -2.5))),
        ):  # fmt: skip
            body = {"prompt": "Mia has", "seed": 3, "max_tokens": 12, "condition": given, "temperature": 1.0}
            answer = httpx.post(f"{base}/v1/completions", json={**body, "decode": "diffusion"}, timeout=60).json()
            assert (
                answer["choices"][0]["text"] == own(told, decode="diffusion", temperature=1.0, condition=condition).text
            )
            texts.add(answer["choices"][0]["text"])
        assert len(texts) == 3
        wrong = ({"class_label": 3}, {"embedding": [1]}, {"class_label": 1, "embedding": [1, 2]})
        for given in wrong:
            answer = httpx.post(f"{base}/v1/completions", json={"prompt": "a", "condition": given})
            assert answer.status_code == 400 and answer.json()["error"]["param"] == "condition"


@pytest.mark.parametrize("decode", ["verified", "diffusion"])
def test_a_deadline_brings_the_best_text_in_time(base, engine, decode):
    body = {"prompt": "Mia has", "max_tokens": 480, "decode": decode, "seed": 3}
    whole = httpx.post(f"{base}/v1/completions", json=body, timeout=60).json()
    assert "ended_by" not in whole["usage"]["diffusion"]
    began = time.monotonic()
    slow = live.slowed(engine, 0.02)
    with slow:
        answer = httpx.post(f"{base}/v1/completions", json={**body, "deadline_ms": 400}, timeout=60)
    took, (choice,) = time.monotonic() - began, answer.json()["choices"]
    assert answer.status_code == 200 and took < 5  # 480 tokens take ten seconds and more
    assert choice["finish_reason"] == "length" and answer.json()["usage"]["diffusion"]["ended_by"] == "deadline"
    assert 0 < len(choice["text"]) < len(whole["choices"][0]["text"])
    assert "░" not in choice["text"] and "\ufffd" not in choice["text"]


def test_a_deadline_that_passes_in_the_queue_is_refused(engine):
    engine.go.clear()
    try:
        with live.running(engine) as (base, _):
            answer = httpx.post(f"{base}/v1/completions", json={"prompt": "Mia has", "deadline_ms": 50}, timeout=30)
            assert answer.status_code == 504 and answer.json()["error"]["code"] == "deadline_exceeded"
            engine.go.set()
    finally:
        engine.go.set()


def test_frames_are_shown_when_asked_for(client, engine):
    told = {**TOLD, "stream": True, "extra_body": {"decode": "diffusion", "policy": "llada-random"}}
    plain = "".join(c.choices[0].text for c in client.completions.create(**told))
    chunks = list(client.completions.create(**told, stream_options={"include_diffusion": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks) == plain
    frames = [chunk.diffusion for chunk in chunks if hasattr(chunk, "diffusion")]
    wanted = [f for f in own(engine, decode="diffusion", policy="llada-random").trace.frames if f.kind != "read"]
    assert [f["kind"] for f in frames] == [f.kind for f in wanted] and [f["seq"] for f in frames] == list(
        range(len(frames))
    )
    assert not any(chunk.choices[0].text for chunk in chunks if hasattr(chunk, "diffusion"))
    start, places = None, {}
    for shown, frame in zip(frames, wanted, strict=True):
        if shown["keyframe"] or shown["start"] != start:
            places = {}
        start = shown["start"]
        places |= {i: (text, state) for i, text, state in shown["edits"]}
        assert len(places) == shown["length"] == len(frame.tokens)
        for i, (token, status) in enumerate(zip(frame.tokens, frame.status, strict=True)):
            hidden = status == 1 and token == engine.checkpoint.facts.mask_id
            assert places[i][0] == (None if hidden else engine.tokenizer.decode([token]))
    assert frames[-1]["calls"] == sum(f.calls for f in wanted)


def test_a_trace_can_be_fetched_and_replayed(client, base, engine, tmp_path):
    answer = client.completions.create(**TOLD, n=2, extra_body={"trace": True, "decode": "diffusion"})
    for choice in answer.choices:
        told = httpx.get(f"{base}/v1/traces/{answer.id}", params={"choice": choice.index})
        assert told.status_code == 200 and told.headers["content-type"].startswith("application/x-ndjson")
        path = tmp_path / "trace.jsonl"
        path.write_bytes(told.content)
        trace = mz.Trace.load(path)
        wanted = own(engine, decode="diffusion", choice=choice.index)
        assert trace.replay() == wanted.trace.replay() and engine.tokenizer.decode(trace.replay()) == choice.text
    for path, status in ((f"{answer.id}?choice=2", 404), ("cmpl-1", 404), (f"{answer.id}?choice=-1", 400)):
        assert httpx.get(f"{base}/v1/traces/{path}").status_code == status
    untraced = client.completions.create(**TOLD)
    assert httpx.get(f"{base}/v1/traces/{untraced.id}").status_code == 404
    streamed = list(client.completions.create(**TOLD, stream=True, extra_body={"trace": True}))
    live.wait(lambda: httpx.get(f"{base}/v1/traces/{streamed[0].id}").status_code == 200)


def test_only_the_latest_traces_are_kept():
    from mezzotint.sampler.trace import Frame
    from mezzotint.server.errors import ApiError
    from mezzotint.server.settings import MOST_FRAMES, MOST_TRACES
    from mezzotint.server.traces import Kept, Traces

    traces = Traces()
    for number in range(MOST_TRACES + 1):
        traces.keep(str(number), Kept([mz.Trace({}, [])]))
    with pytest.raises(ApiError):
        traces.lines("0", 0)
    assert traces.lines("1", 0)
    traces.keep("long", Kept([mz.Trace({}, [Frame("read", 0, 0, 0, 0, [], [], 0, 0, 0)] * MOST_FRAMES)]))
    traces.keep("last", Kept([mz.Trace({}, [Frame("read", 0, 0, 0, 0, [], [], 0, 0, 0)])]))
    with pytest.raises(ApiError):
        traces.lines("long", 0)
    assert traces.lines("last", 0)
