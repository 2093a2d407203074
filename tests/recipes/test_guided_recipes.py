"""Digits and templates: what goes in comes out again, what is held out stays out, the recipes run, the shipped digits draw."""

import random

import pytest
import torch
from forked import run

import mezzotint as mz
from mezzotint.checkpoints.load import KNOWN
from mezzotint.model.condition import NULL, Condition
from mezzotint.recipes import digits, templates


def pictures(count=40):
    generator = torch.Generator().manual_seed(0)
    return digits.Pictures(
        torch.randint(5, (count, 8, 8), generator=generator), torch.randint(10, (count,), generator=generator)
    )


def test_pictures_are_texts_of_eight_lines():
    shades = pictures().shades
    tokens = digits.to_tokens(shades)
    assert tokens.shape == (40, digits.LENGTH) and torch.equal(digits.to_shades(tokens), shades)
    lines = digits.tokenizer().decode(tokens[0].tolist()).split("\n")
    assert len(lines) == 8 and all(len(line) == 16 for line in lines)
    assert lines[0][:2] == digits.SHADES[int(shades[0, 0, 0])]


def test_real_digits_are_split_by_their_pixels():
    pytest.importorskip("sklearn")
    train, out = digits.load_pictures()
    assert len(train.labels) + len(out.labels) == 1797 and 250 < len(out.labels) < 450
    assert int(train.shades.max()) == 4 and set(out.labels.tolist()) == set(range(10))


@pytest.mark.parametrize("noise", digits.NOISE)
def test_a_batch_tells_labels_and_now_and_then_the_null(noise):
    batch = digits.make_batches(pictures(), noise, rows=400)(3)
    again = digits.make_batches(pictures(), noise, rows=400)(3)
    assert torch.equal(batch.tokens, again.tokens) and batch.condition == again.condition
    assert 15 < sum(condition == NULL for condition in batch.condition) < 75
    canvas, clean, weight = batch.tokens[:, 1:], batch.target[:, 1:], batch.weight[:, 1:]
    assert batch.weight[:, 0].sum() == 0
    if noise == "absorbing":
        assert torch.equal(weight > 0, canvas == digits.MASK_ID) and 0.4 < float(weight.mean()) < 0.6
    else:
        assert (weight == 1).all() and int(canvas.max()) < digits.MASK_ID and (canvas != clean).any()


def test_sentences_belong_to_one_template_and_labels_to_their_topic_mostly():
    found = templates.sentences()
    assert not {s.text for s in found.train} & {s.text for s in found.held_out} and len(found.held_out) > 20
    for sentence in [*found.train, *found.held_out]:
        assert templates.template_of(sentence.text) == sentence.template
    assert templates.template_of("the cold wind shakes the blind trees") is None
    chance, sentence = random.Random(0), found.train[0]
    share = sum(templates.label(sentence, chance) == sentence.topic for _ in range(4000)) / 4000
    assert abs(share - templates.HONEST) < 4 * (0.21 / 4000) ** 0.5


def test_the_nearest_template_of_a_noisy_embedding_is_mostly_its_own():
    found = templates.sentences()
    centres, chance = templates.centres(found.train), random.Random(0)
    hits = [
        templates.nearest(templates.embed(s.text, templates.SPREAD, chance), centres) == s.template
        for s in found.held_out
    ]
    assert sum(hits) > 0.95 * len(hits)
    with pytest.raises(ValueError, match="outside the templates"):
        templates.embed("the cat")


def test_the_guided_law_of_topics_is_what_its_docstring_says():
    assert templates.topic_law(0) == 0.25 and abs(templates.topic_law(1) - templates.HONEST) < 1e-12
    assert abs(templates.topic_law(2) - 0.49 / (0.49 + 3 * 0.01)) < 1e-12


@pytest.mark.parametrize("noise", templates.NOISE)
def test_both_recipes_run_and_what_they_make_can_be_asked(noise):
    ask = {"decode": "diffusion", "policy": "ancestral", "guidance": 1.5}
    sentence = templates.sentences().train[0].text
    engine = mz.Engine(templates.train(templates.sentences(), noise, None, 2, rows=4))
    told = [Condition(class_label=1), Condition(embedding=templates.embed(sentence))]
    replies = engine.generate([mz.Request(condition=c, **ask) for c in told])
    assert all(set(reply.text.split()) <= set(templates.WORDS) for reply in replies)
    engine = mz.Engine(digits.checkpoint(digits.train(pictures(), noise, None, 2, rows=4), noise))
    reply = engine.generate(mz.Request(condition=told[0], **ask))[0]
    assert len(reply.ids) == digits.LENGTH
    with pytest.raises(ValueError, match="noise is 'gauss'"):
        (digits if noise == "uniform" else templates).process("gauss")


def test_the_shipped_digits_follow_their_label():
    """What is asked for looks like the mean picture of that class, more than like any other's, more often than not."""
    pytest.importorskip("sklearn")
    checkpoint = mz.load("digits")
    assert checkpoint.config == digits.CONFIG and checkpoint.facts == digits.facts("absorbing")
    assert sum(weight.numel() for _, weight in checkpoint.weights()) == KNOWN["digits"].parameters
    real, _ = digits.load_pictures()
    means = torch.stack([real.shades[real.labels == c].double().mean(0).flatten() for c in range(10)])
    ask = {"decode": "diffusion", "policy": "ancestral", "guidance": 2.0}
    requests = [mz.Request(condition=Condition(class_label=c % 10), seed=c, **ask) for c in range(20)]
    drawn = digits.to_shades(torch.tensor([r.ids for r in mz.Engine(checkpoint).generate(requests)]))
    nearest = torch.cdist(drawn.flatten(1).double(), means).argmin(-1)
    assert (nearest == torch.arange(20) % 10).sum() >= 12


def test_the_command_line_draws_and_trains_digits(tmp_path):
    code, drawn, errors = run("generate", "--class", "3", "--guidance", "2", "--model", "digits")
    assert code == 0, errors
    lines = drawn.rstrip("\n").split("\n")
    assert len(lines) == 8 and all(len(line) == 16 and set(line) <= set("".join(digits.SHADES)) for line in lines)
    assert run("generate", "--class", "3", "--guidance", "2", "--model", "digits")[1] == drawn
    code, _, errors = run("generate", "--class", "13", "--model", "digits")
    assert code == 2 and "allowed: 0 to 9" in errors
    code, _, errors = run("generate")
    assert code == 2 and "the prompt is empty" in errors
    pytest.importorskip("sklearn")
    code, out, errors = run("train", "digits", "--steps", "2", "--out", str(tmp_path / "mine"), "--threads", "1")
    assert code == 0 and out.strip() == str(tmp_path / "mine"), errors
    assert mz.load(tmp_path / "mine").config == digits.CONFIG
