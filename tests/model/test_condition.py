"""Conditions: told in two ways, remembered by the cache, kept apart in a batch, learnt, saved."""

from dataclasses import replace

import pytest
import torch

from mezzotint.checkpoints.errors import CheckpointError
from mezzotint.checkpoints.load import load
from mezzotint.draws import Draws
from mezzotint.model.condition import NULL, Condition, dropped
from mezzotint.model.config import Conditioning, ModelConfig
from mezzotint.model.denoiser import Denoiser
from mezzotint.model.visibility import CANVAS, CLEAN, Places, context_causal
from mezzotint.noise import Absorbing
from mezzotint.recipes import digits
from mezzotint.train.corruption import told_batch
from mezzotint.train.recipe import Optimizer
from mezzotint.train.trainer import Recipe, Trainer, initialise

PREFIX = ModelConfig(23, 32, 2, 4, 2, 8, 48, 64, condition=Conditioning(classes=5, embedding=3, length=2))
ADALN = replace(PREFIX, condition=Conditioning(classes=5, embedding=3, way="adaln"))
WAYS = {"prefix": PREFIX, "adaln": ADALN}
TOLD = [Condition(class_label=1), Condition(embedding=(0.5, -1, 2)), NULL, Condition(class_label=4)]


def random_weights(config, seed=0):
    torch.manual_seed(seed)
    model = Denoiser(config).requires_grad_(False).eval()
    return model.load([(n, torch.randn_like(s) * 0.2 + ("norm" in n)) for n, s in model.slots().items()])


def canvas_logits(model, told, prompt=3, width=6):
    """What the canvas says behind a prompt, read and denoised as the sampler does. `[B, width, V]`"""
    rows, generator = len(told), torch.Generator().manual_seed(5)
    ids = torch.randint(0, 23, (1, prompt + width), generator=generator).expand(rows, -1)
    start = model.config.prefix + prompt
    cache = model.following(told).new_cache(rows, start + width)
    before = torch.zeros(rows, model.config.prefix, dtype=torch.int64)
    model.read(torch.cat((before, ids[:, :prompt]), 1), torch.full((rows,), start), cache)
    positions = torch.arange(start, start + width).expand(rows, -1)
    return model.denoise(ids[:, prompt:], positions, torch.ones_like(positions, dtype=torch.bool), cache), cache


@pytest.mark.parametrize("way", WAYS)
def test_each_condition_says_something_else_and_rows_do_not_mix(way):
    model = random_weights(WAYS[way])
    together, cache = canvas_logits(model, TOLD)
    for row, condition in enumerate(TOLD):
        alone, _ = canvas_logits(model, [condition])
        assert torch.allclose(together[row], alone[0], atol=1e-5)
        assert all((together[row] - together[other]).abs().max() > 1e-2 for other in range(row))
    assert cache.fork([3, 0]).conditions == (TOLD[3], TOLD[0])


@pytest.mark.parametrize("way", WAYS)
def test_one_pass_over_everything_equals_the_cached_passes(way):
    model = random_weights(WAYS[way])
    want, _ = canvas_logits(model, TOLD)
    ids = torch.randint(0, 23, (1, 9), generator=torch.Generator().manual_seed(5)).expand(4, -1)
    start, total = model.config.prefix + 3, model.config.prefix + 9
    tokens = torch.cat((torch.full((4, model.config.prefix), 7), ids), 1)  # what a placeholder holds does not matter
    position = torch.arange(total).expand(4, -1)
    places = Places.of(position, torch.where(position < start, CLEAN, CANVAS))
    got = model(tokens, places, context_causal(), condition=TOLD).logits[:, start:]
    assert torch.allclose(got, want, atol=1e-5)
    assert torch.allclose(
        model(tokens, places, context_causal()).logits,
        model(tokens, places, context_causal(), condition=[NULL] * 4).logits,
    )


def test_fresh_modulation_changes_nothing():
    """A network that is given AdaLN says at first what it said without."""
    model = initialise(ADALN, seed=1).eval()
    plain = Denoiser(replace(ADALN, condition=None)).eval()
    plain.load([(name, tensor) for name, tensor in model.slots().items() if ".condition." not in name])
    assert torch.equal(canvas_logits(model, TOLD)[0], canvas_logits(plain, [NULL] * 4)[0])


def test_what_cannot_be_followed_is_refused():
    model = random_weights(PREFIX)
    for condition, message in (
        (Condition(class_label=5), "class_label is 5; allowed: 0 to 4"),
        (Condition(embedding=(1, 2)), "has 2 numbers; allowed: 3 numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            canvas_logits(model, [condition])
    position = torch.arange(4).expand(2, -1)
    places = Places.of(position, torch.full_like(position, CLEAN))
    with pytest.raises(ValueError, match="1 conditions for 2 rows"):
        model(position, places, context_causal(), condition=[NULL])
    with pytest.raises(ValueError, match="declares no condition"):
        random_weights(replace(PREFIX, condition=None))(position, places, context_causal(), condition=[NULL] * 2)
    with pytest.raises(ValueError, match="class_label and embedding; give one"):
        Condition(class_label=1, embedding=(1.0,))
    with pytest.raises(ValueError, match="prompt is empty"):
        Condition(prompt="")
    for wrong, message in (
        ({}, "both are 0"), ({"classes": -1}, "classes is -1"), ({"classes": 2, "way": "cross"}, "way is 'cross'"),
        ({"classes": 2, "way": "adaln", "length": 2}, "with adaln"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Conditioning(**wrong)


def test_a_share_of_the_conditions_is_dropped():
    told = [Condition(class_label=1)] * 4000
    share = sum(condition == NULL for condition in dropped(told, 0.1, seed=3)) / 4000
    assert abs(share - 0.1) < 4 * (0.09 / 4000) ** 0.5
    assert dropped(told, 0.1, 3) == dropped(told, 0.1, 3) != dropped(told, 0.1, 4)
    with pytest.raises(ValueError, match="share is 2"):
        dropped(told, 2, 0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["class", "embedding"])
def test_it_learns_to_follow_and_the_null_learns_the_mixture(way, kind):
    """The text is the class, three times: told it, the network is sure; told the null, it says one in four."""
    config = ModelConfig(6, 16, 1, 2, 2, 8, 32, 8, condition=Conditioning(classes=4, embedding=4, way=way))
    noise, unit = Absorbing(5, 6), torch.eye(4).tolist()
    told = [Condition(class_label=c) if kind == "class" else Condition(embedding=unit[c]) for c in range(4)]

    def batch(step):
        generator = torch.Generator().manual_seed(step)
        index = torch.randint(4, (32,), generator=generator)
        draws = Draws.of(list(range(32))).at(step=step)
        clean = index[:, None].expand(-1, 3)
        return told_batch(clean, [told[i] for i in index], noise, config.prefix, 0.2, draws, generator)

    model = initialise(config, 0)
    recipe = Recipe("told", config, max_steps=80, optimizer=Optimizer(learning_rate=2e-2, warmup=5), bfloat16=False)
    for _ in Trainer(model, recipe, batch).run():
        pass
    rows = config.prefix + 3
    tokens = torch.full((5, rows), 5)
    position = torch.arange(rows).expand(5, -1)
    places = Places.of(position, torch.where(position < config.prefix, CLEAN, CANVAS))
    law = model(tokens, places, context_causal(), condition=[*told, NULL]).logits[:, -1].softmax(-1)
    assert (law[range(4), range(4)] > 0.8).all()
    assert (law[4, :4] > 0.05).all() and (law[4, :4] < 0.7).all()


@pytest.mark.parametrize("way", WAYS)
def test_what_is_saved_comes_back(way, tmp_path):
    config = replace(digits.CONFIG, condition=Conditioning(classes=10, way=way))
    checkpoint = digits.checkpoint(random_weights(config))
    folder = checkpoint.save(tmp_path / "saved")
    back = load(folder)
    assert back.config == config and back.facts == checkpoint.facts and "10 classes" in back.card()
    for (name, want), (same, got) in zip(sorted(checkpoint.weights()), sorted(back.weights()), strict=True):
        assert name == same and torch.equal(want, got)
    text = (folder / "config.json").read_text()
    for old, new, message in (
        ('"classes": 10', '"classes": "x"', "condition"),
        (f'"{way}"', '"none"', "way is 'none'"),
    ):
        (folder / "config.json").write_text(text.replace(old, new))
        with pytest.raises(CheckpointError, match=message):
            load(folder)
