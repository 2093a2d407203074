"""The default base, end to end: equal to transformers, `verified` equal to `ar`, seeds that repeat."""

import os
from dataclasses import replace

import pytest
import torch
from prompts import PROMPTS

import mezzotint as mz
from mezzotint.draws import Draws
from mezzotint.model.denoiser import Denoiser
from mezzotint.sampler.verify import GivenText, PreviousIterate, RandomTokens, SmallerModel, Verified

TOKENS, NEAR_TIE = 64 if os.environ.get("MEZZOTINT_FULL") == "1" else 24, 1e-4
ROWS = 10  # prompts decoded together


@pytest.fixture(scope="module")
def engine(base_path):
    return mz.Engine(mz.load("default"))


@pytest.fixture(scope="module")
def theirs(engine):
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    path = engine.checkpoint.source  # read by transformers' own GGUF loader, not by ours
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def smaller(engine):
    """The first half of the base's layers: a smaller model over the same vocabulary, mostly wrong."""
    half = Denoiser(replace(engine.denoiser.config, num_layers=engine.denoiser.config.num_layers // 2)).eval()
    names = half.slots()
    return half.load((name, tensor) for name, tensor in engine.denoiser.slots().items() if name in names)


def ids(engine, number):
    return engine.tokenizer.chat([{"role": "user", "content": PROMPTS[number]}])


def first_difference(engine, prompt, one, other, temperature, seed):
    """None when equal; else how near a tie the two were where they part, by the uncached causal pass.

    Greedy: nats between the two best tokens. Sampled: how far the uniform number lies outside the further of the two
    tokens' parts of the CDF, which is a question of rounding where it is tiny.
    """
    if one == other:
        return None
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    text = torch.tensor([[*prompt, *one[:at]]])
    with torch.inference_mode():
        cache = engine.denoiser.new_cache(1, text.shape[1])
        engine.denoiser.read(text, torch.tensor([text.shape[1]]), cache)
    if not temperature:
        best = cache.ahead[0].topk(2).values
        return float(best[0] - best[1])
    cdf = torch.nn.functional.pad((cache.ahead[0].double() / temperature).softmax(-1).cumsum(-1), (1, 0))
    uniform = Draws.of([seed]).uniform("token", torch.tensor([[text.shape[1]]]))[0, 0]
    tokens = torch.tensor([one[at], other[at]])
    return float(torch.maximum(cdf[tokens] - uniform, uniform - cdf[tokens + 1]).max())


def test_logits_and_greedy_text_equal_transformers(engine, theirs, count):
    worst = 0.0
    for number in range(count(20)):
        prompt = ids(engine, number)
        with torch.inference_mode():
            tokens = torch.tensor([prompt])
            cache = engine.denoiser.new_cache(1, len(prompt))
            ours = engine.denoiser.read(tokens, torch.tensor([len(prompt)]), cache, every=True).logits
            worst = max(worst, float((ours - theirs(tokens).logits).abs().max()))
            out = theirs.generate(tokens, max_new_tokens=TOKENS, do_sample=False, eos_token_id=2, pad_token_id=0)
            run = Verified(engine.denoiser, stop_ids=engine.stop_ids).frames([prompt], TOKENS, Draws.of(0))
            text = [t for frame in run for t in frame.tokens[: frame.committed]]
        assert text == out[0, len(prompt) :].tolist(), PROMPTS[number]
    print(f"largest logit difference {worst:.2e}")
    assert worst < 2e-3


def drafters(engine, smaller, prompts, questions):
    vocab = engine.checkpoint.config.vocab_size
    given = engine.tokenizer.encode("Here is a simple answer to your question: " + " ".join(questions))
    lengths = [len(prompt) for prompt in prompts]
    yield "random", RandomTokens(vocab)
    yield "previous iterate", PreviousIterate(vocab)
    yield "given text", GivenText(given, lengths)
    yield "smaller model", SmallerModel(smaller, max(lengths) + 2 * TOKENS)
    yield (
        "the model itself",
        SmallerModel(engine.denoiser, max(lengths) + 2 * TOKENS),
    )  # always right: whole drafts stay


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_verified_equals_ar_for_every_draft_source(engine, smaller, count, temperature):
    ties = []
    total = count(50) if temperature == 0 else max(2, count(50) // 5)
    for first in range(0, total, ROWS):
        numbers = list(range(first, min(first + ROWS, total)))
        prompts = [ids(engine, number) for number in numbers]

        def decode(drafter, prompts=prompts, numbers=numbers):
            run = Verified(engine.denoiser, drafter, 4 if drafter else 0, temperature, stop_ids=engine.stop_ids)
            texts = [[] for _ in prompts]
            with torch.inference_mode():
                for frame in run.frames(prompts, TOKENS, Draws.of(numbers)):
                    texts[frame.row] += frame.tokens[: frame.committed]
            return texts

        ar = decode(None)
        for name, drafter in drafters(engine, smaller, prompts, [PROMPTS[number] for number in numbers]):
            for number, prompt, one, other in zip(numbers, prompts, ar, decode(drafter), strict=True):
                gap = first_difference(engine, prompt, one, other, temperature, number)
                if gap is not None:
                    ties.append((PROMPTS[number], name, gap))
    print(f"temperature {temperature}: {len(ties)} near ties: {ties}")
    assert all(gap < (1e-5 if temperature else NEAR_TIE) for _, _, gap in ties)


def test_a_batch_of_seven_equals_seven_of_one_and_seeds_repeat(engine, count):
    requests = [mz.Request(p, max_tokens=24, seed=i, decode="ar", temperature=0.7) for i, p in enumerate(PROMPTS[:7])]
    together = engine.generate(requests)
    for request, reply in list(zip(requests, together, strict=True))[: count(7)]:
        alone = engine.generate(request)[0]
        if alone.ids != reply.ids:
            print("differs in a batch:", request.prompt)
        assert alone.ids == reply.ids
        assert engine.generate(request)[0].text == alone.text


def test_locked_text_stands_in_the_answer(engine):
    request = mz.Request("Name three colours.", max_tokens=16, locks={0: "Well, I like"})
    reply = engine.generate(request)[0]
    assert reply.text.startswith("Well, I like")
    assert (
        engine.generate(mz.Request("Name three colours.", max_tokens=16, locks={0: "Well, I like"}, decode="ar"))[0].ids
        == reply.ids
    )


def test_diffusion_on_untrained_weights_runs_and_keeps_its_locks(engine):
    request = mz.Request("Name three colours.", max_tokens=20, decode="diffusion", policy="entropy", locks={3: " red"})
    reply = engine.generate(request)[0]
    assert reply.trace.replay()[3] == engine.tokenizer.encode(" red")[0]
    assert engine.checkpoint.facts.mask_id not in reply.ids


def test_editing_fixes_repairs_and_respects_locks(engine):
    fixed = mz.revise(engine, "She dont like apples.", "fix the grammar")
    assert fixed.after == "She don't like apples." and "don't" in fixed.diff()
    start = "She dont like apples.".index("dont")
    locked = mz.revise(engine, "She dont like apples.", "fix the grammar", locks=[(start, start + 4)])
    assert "dont" in locked.after
    clean = mz.revise(engine, "The weather is nice today.", "fix the grammar")
    assert clean.after == clean.before and clean.diff() == "" and clean.hunks == []


def test_the_default_drafts_its_own_text_in_fewer_calls(engine):
    """The adapter that is shipped: the same text as AR, several tokens a call; canvas and causal law look for errors."""
    assert engine.checkpoint.adapter is not None and engine.checkpoint.adapter.base.sha256 == mz.load("base").sha256
    ask = mz.Request("Write a Python function that reverses a string.", max_tokens=40)
    ar, drafted = (engine.generate(replace(ask, decode=decode))[0] for decode in ("ar", "verified"))
    assert drafted.text == ar.text and ar.trace.num_calls >= 39 and drafted.trace.num_calls < 30
    found = mz.repair(engine, "The cat sat on the mat and looked at their bowl the food.", threshold=0.5)
    assert found.way == "repair" and found.num_calls >= 2
