"""What requests ask of logits, held to a decoder written here from `Denoiser.read` alone; and what tokens are worth."""

import itertools
import math
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import mezzotint as mz
from mezzotint.draws import Draws, categorical
from mezzotint.engine import overtime
from mezzotint.engine.request import Finished
from mezzotint.sampler.decoding import POLICIES
from mezzotint.sampler.lens import Tilt

ASK = mz.Request("Mia has", raw=True, max_tokens=24, seed=3)
TILTS = {
    "bias": Tilt({10: 4.0, 500: -100.0, 33: 2.5}),
    "penalties": Tilt(presence=1.0, frequency=0.5),
    "repetition": Tilt(repetition=1.7),
    "all": Tilt({10: 1.0}, 0.5, -0.5, 0.8),
    "top_k": Tilt(top_k=5),
    "top_p": Tilt(top_p=0.7),
    "min_p": Tilt(min_p=0.2),
    "cut": Tilt({10: 2.0}, frequency=1.0, top_k=9, top_p=0.9, min_p=0.05),
}


@pytest.fixture(scope="module")
def engine():
    return mz.Engine(mz.load("tiny"))


def law(tilt, logits, prompt, said, temperature):
    """The tilted logits of one place, written out id by id."""
    out = logits.to(torch.float64).clone()
    for token in {*prompt, *said}:
        out[token] = out[token] / tilt.repetition if out[token] > 0 else out[token] * tilt.repetition
        out[token] -= tilt.frequency * said.count(token) + tilt.presence * (token in said)
    for token, nats in tilt.bias.items():
        if token < len(out):
            out[token] += nats
    if temperature:
        chance = (out / temperature).softmax(-1)
        order, before = chance.argsort(descending=True, stable=True).tolist(), 0.0
        for rank, token in enumerate(order):
            likely = before < tilt.top_p and chance[token] >= tilt.min_p * chance[order[0]]
            before += float(chance[token])
            if rank and not (likely and (not tilt.top_k or rank < tilt.top_k)):
                out[token] = -torch.inf
    return out


@torch.inference_mode()
def ar(engine, request):
    """The same answer by reading the whole text anew for every token: ids, log-probabilities before any tilt."""
    prompt, said, nats = engine.prompt_ids(request), [], []
    draws = Draws.of(request.seed)
    while len(said) < request.max_tokens and not (said and said[-1] in engine.stop_ids):
        ids = torch.tensor([prompt + said])
        logits = engine.denoiser.read(ids, torch.tensor([ids.shape[1]]), engine.denoiser.new_cache(1, 99)).logits[0, 0]
        tilted = law(request.tilt, logits, prompt, said, request.temperature)
        if request.temperature:
            chances = (tilted.float().double() / request.temperature).softmax(-1)
            at = torch.tensor([[ids.shape[1]]])
            said.append(int(categorical(chances[None, None], draws.uniform("token", at))))
        else:
            said.append(int(tilted.argmax()))
        nats.append(float(logits.log_softmax(-1)[said[-1]]))
    return [token for token in said if token not in engine.stop_ids], nats


@pytest.mark.parametrize("decode", ["ar", "verified"])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("tilt", TILTS.values(), ids=TILTS)
def test_a_tilted_text_is_that_of_reading_token_by_token(engine, decode, temperature, tilt):
    request = replace(ASK, decode=decode, temperature=temperature, tilt=tilt, logprobs="commit")
    ids, nats = ar(engine, request)
    (reply,) = engine.generate(request)
    assert reply.ids == ids
    assert [scored.nats for scored in reply.scores] == pytest.approx(nats[: len(ids)], abs=1e-4)


def test_a_tilt_changes_the_text_and_rows_keep_their_own(engine):
    rows = [replace(ASK, tilt=tilt, temperature=0.9, decode="verified") for tilt in (Tilt(), *TILTS.values())]
    texts = [reply.text for reply in engine.generate(rows)]
    assert texts == [engine.generate(row)[0].text for row in rows]
    assert len(set(texts)) > 4


def test_a_bias_rules_on_canvases_too(engine):
    plain = replace(ASK, decode="diffusion")
    (first,) = engine.generate(plain)
    never = Tilt(dict.fromkeys(first.ids, -100.0))
    (other,) = engine.generate(replace(plain, tilt=never))
    assert other.ids and not set(other.ids) & set(first.ids)
    (always,) = engine.generate(replace(plain, tilt=Tilt({first.ids[0]: 100.0})))
    assert set(always.ids) == {first.ids[0]}
    (guided,) = engine.generate(replace(plain, tilt=Tilt({first.ids[0]: 100.0}), guidance=2.0))
    assert set(guided.ids) == {first.ids[0]}


def test_a_penalty_on_a_canvas_counts_what_stands_before_it(engine):
    asked = replace(ASK, decode="diffusion", max_tokens=48)
    (plain,), (punished,) = (engine.generate(replace(asked, tilt=Tilt(frequency=f))) for f in (0.0, 2.0))
    length = POLICIES["threshold"]().canvas_length
    assert plain.ids[:length] == punished.ids[:length] and plain.ids != punished.ids


@pytest.mark.parametrize("policy", ["threshold", "llada-random", "wino"])
def test_logprobs_do_not_change_the_text(engine, policy):
    asked = replace(ASK, decode="diffusion", policy=policy, temperature=0.7)
    (plain,), (scored,) = (engine.generate(replace(asked, logprobs=kind)) for kind in (None, "commit"))
    assert scored.ids == plain.ids == [one.token for one in scored.scores] and not plain.scores


def canvases(reply):
    """(start, ids) of every committed canvas."""
    return [(f.start, f.tokens[: f.committed]) for f in reply.trace.frames if f.kind == "commit"]


@torch.inference_mode()
def test_the_three_kinds_are_what_they_say(engine):
    asked = replace(ASK, decode="diffusion", max_tokens=40, top_logprobs=3)
    replies = {k: engine.generate(replace(asked, logprobs=k))[0] for k in ("commit", "final", "causal")}
    prompt = engine.prompt_ids(asked)
    text = prompt + replies["commit"].trace.replay()
    cache = engine.denoiser.new_cache(1, 99)
    read = (
        engine.denoiser.read(torch.tensor([text]), torch.tensor([len(text)]), cache, every=True)
        .logits[0]
        .log_softmax(-1)
    )
    n = len(replies["causal"].ids)
    wanted = [float(read[len(prompt) + i - 1, text[len(prompt) + i]]) for i in range(n)]
    assert [one.nats for one in replies["causal"].scores] == pytest.approx(wanted, abs=1e-3)
    final = []
    for start, ids in canvases(replies["final"]):
        cache = engine.denoiser.new_cache(1, 99)
        engine.denoiser.read(torch.tensor([text[:start]]), torch.tensor([start]), cache)
        row = torch.tensor([ids])
        at = start + torch.arange(len(ids))[None]
        seen = engine.denoiser.denoise(row, at, torch.ones_like(row, dtype=torch.bool), cache)[0].log_softmax(-1)
        final += [float(seen[i, token]) for i, token in enumerate(ids)]
    assert [one.nats for one in replies["final"].scores] == pytest.approx(final[:n], abs=1e-3)
    for reply in replies.values():
        assert reply.ids == replies["commit"].ids
        assert all(len(one.top) == 3 and one.nats <= one.top[0][1] + 1e-6 <= 1e-5 for one in reply.scores)
    assert all(one.nats == one.top[0][1] for one in replies["commit"].scores)  # at temperature 0 the likeliest is taken


def test_commit_is_what_was_said_when_a_token_was_written(engine):
    """The threshold policy writes nothing below 0.9 unless it is the best of its call, and the trace says which call it was."""
    (reply,) = engine.generate(replace(ASK, decode="diffusion", logprobs="commit", max_tokens=16))
    frames = [f for f in reply.trace.frames if f.kind == "denoise"]
    born = {}
    for frame in frames:
        for i, status in enumerate(frame.status):
            if status != 1:
                born.setdefault(i, frame.step)
    for step in set(born.values()):
        sure = sorted(math.exp(reply.scores[i].nats) for i in born if born[i] == step and i < len(reply.scores))
        assert all(chance > 0.9 for chance in sure[1:]) if len(sure) > 1 else True


def test_a_deadline_ends_the_answer_with_what_there_is(engine, monkeypatch):
    for decode in ("ar", "verified", "diffusion"):
        asked = replace(ASK, decode=decode, max_tokens=400)
        (whole,) = engine.generate(asked)
        ticks = itertools.count()
        with monkeypatch.context() as patched:  # a clock that goes on by one whenever it is asked
            patched.setattr(overtime, "time", SimpleNamespace(monotonic=lambda ticks=ticks: float(next(ticks))))
            events = list(engine.stream(replace(asked, deadline=8.0)))
        text = "".join(event.piece for event in events if isinstance(event, mz.Text))
        (end,) = [event for event in events if isinstance(event, Finished)]
        assert end.reason == "deadline" and text and len(text) < len(whole.text), decode
        assert text[:3] == whole.text[:3]
    late = list(engine.stream(replace(asked, deadline=time.monotonic() - 1)))
    assert late[-1] == Finished(0, "deadline")
    frames = [event for event in late if isinstance(event, type(whole.trace.frames[0]))]
    assert [f.kind for f in frames] == ["read", "denoise", "commit"] and 1 not in frames[
        -1
    ].status  # nothing is left open


def test_a_deadline_is_kept_by_the_clock(engine, full):
    if not full:
        pytest.skip("a latency bar: runs in make test-full")
    for decode in ("ar", "verified", "diffusion"):
        began = time.monotonic()
        list(engine.stream(replace(ASK, decode=decode, max_tokens=400, deadline=began + 0.15)))
        assert time.monotonic() - began < 1.5


@pytest.mark.parametrize(
    "wrong",
    [
        {"presence": 3.0}, {"frequency": -2.1}, {"repetition": 0.0}, {"top_k": -1}, {"top_p": 0.0}, {"min_p": 2.0},
        {"bias": {-1: 1.0}}, {"bias": {1: 101.0}},
    ],
)  # fmt: skip
def test_a_wrong_tilt_is_refused(wrong):
    with pytest.raises(ValueError):
        Tilt(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"logprobs": "late"}, {"top_logprobs": 21}, {"logprobs": "final", "decode": "diffusion", "guidance": 2.0},
        {"tilt": Tilt(presence=1.0), "draft": "self"}, {"logprobs": "commit", "decode": "diffusion", "blocks_in_flight": 2},
    ],
)  # fmt: skip
def test_requests_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError):
        replace(ASK, **wrong)
