"""Guidance: the arithmetic, two branches in one batch, rows that do not mix, and requests that reach it."""

import pytest
import torch

import mezzotint as mz
from mezzotint.engine.request import Request
from mezzotint.model.condition import NULL, Condition
from mezzotint.model.config import Conditioning, ModelConfig
from mezzotint.model.denoiser import Denoiser
from mezzotint.noise import Absorbing
from mezzotint.recipes import digits, templates
from mezzotint.sampler.decoding import Decoding, above, ancestral, unconfirmed
from mezzotint.sampler.guidance import Branches, guided_logits
from mezzotint.sampler.loop import Sampler
from mezzotint.sampler.verify import pad

CONFIG = ModelConfig(23, 32, 2, 4, 2, 8, 48, 64, condition=Conditioning(classes=5))


def random_weights(config, seed=0, scale=0.25):
    torch.manual_seed(seed)
    model = Denoiser(config).requires_grad_(False).eval()
    return model.load([(n, torch.randn_like(s) * scale + ("norm" in n)) for n, s in model.slots().items()])


@pytest.fixture(scope="module")
def engine():
    return mz.Engine(digits.checkpoint(random_weights(digits.CONFIG, scale=0.4)))


def test_strength_0_is_the_null_and_1_the_condition():
    told, null = torch.randn(2, 2, 3, 7, dtype=torch.float64)
    told[..., 6] = null[..., 6] = -torch.inf
    told[0, 0, 2], null[1, 1, 3] = -torch.inf, -torch.inf  # one branch alone rules a token out
    assert torch.allclose(guided_logits(told, null, 0.0).exp(), null.softmax(-1))
    assert torch.allclose(guided_logits(told, null, 1.0).exp(), told.softmax(-1))
    for strength in (0.5, 2.0, 7.0):
        law = guided_logits(told, null, strength).exp()
        assert not law.isnan().any() and torch.allclose(law.sum(-1), torch.ones(2, 3, dtype=torch.float64))
        assert (law[..., 6] == 0).all() and law[0, 0, 2] < 1e-100
    want = told[0, 1].softmax(-1) ** 2 / null[0, 1].softmax(-1).clamp(min=1e-300)
    assert torch.allclose(guided_logits(told, null, 2.0)[0, 1].exp(), want.nan_to_num() / want.nan_to_num().sum())


def test_two_branches_are_two_passes_each_behind_its_own_prompt():
    model = random_weights(CONFIG)
    told, prompts, nulls = (
        [Condition(class_label=2), Condition(class_label=4)],
        [[0, 3, 9, 4], [0, 5]],
        [[0], [0, 7, 7, 8, 1]],
    )
    tokens, length = torch.randint(0, 23, (2, 5), generator=torch.Generator().manual_seed(1)), 5
    branches = Branches(model, told, nulls)
    cache = branches.new_cache(2, 20)
    branches.read(*pad(prompts), cache)
    assert cache.lengths.tolist() == [4, 2] and cache.gap.tolist() == [-3, 3]

    def alone(row, prompt, condition, ids=()):
        own = model.following([condition]).new_cache(1, 30)
        read = [*prompt, *ids]
        model.read(torch.tensor([read]), torch.tensor([len(read)]), own)
        positions = torch.arange(len(read), len(read) + length)[None]
        return model.denoise(tokens[row : row + 1], positions, torch.ones(1, length, dtype=torch.bool), own)[0]

    positions = cache.lengths[:, None] + torch.arange(length)
    both = branches.denoise_branches(tokens, positions, torch.ones_like(positions, dtype=torch.bool), cache)
    for row in range(2):
        assert torch.allclose(both[0][row], alone(row, prompts[row], told[row]), atol=1e-5)
        assert torch.allclose(both[1][row], alone(row, nulls[row], NULL), atol=1e-5)
    branches.read(torch.tensor([[6, 2], [8, 0]]), torch.tensor([2, 1]), cache)  # both go on with the same text
    cache = cache.fork([1])
    positions = cache.lengths[:, None] + torch.arange(length)
    both = branches.denoise_branches(tokens[1:], positions, torch.ones_like(positions, dtype=torch.bool), cache)
    assert torch.allclose(both[0][0], alone(1, prompts[1], told[1], [8]), atol=1e-5)
    assert torch.allclose(both[1][0], alone(1, nulls[1], NULL, [8]), atol=1e-5)


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("policy", ["ancestral", "threshold"])
def test_rows_of_different_conditions_equal_batches_of_one(engine, guidance, policy):
    requests = [
        Request(condition=Condition(class_label=label), guidance=guidance, decode="diffusion", policy=policy, seed=seed)
        for seed, label in enumerate((3, 8, 0))
    ] + [Request(condition=NULL, guidance=guidance, decode="diffusion", policy=policy, seed=9)]
    together = engine.generate(requests)
    for request, reply in zip(requests, together, strict=True):
        alone = engine.generate(request)[0]
        assert alone.text == reply.text and alone.ids == reply.ids and len(reply.ids) == digits.LENGTH
        steps = [frame for frame in reply.trace.frames if frame.kind == "denoise"]
        assert {frame.calls for frame in steps} == {1 if guidance == 1 else 2}
        assert {frame.positions for frame in steps} == {digits.LENGTH * (1 if guidance == 1 else 2)}
        assert reply.trace.header.get("guidance", 1) == guidance


def test_strength_0_writes_what_the_null_writes_and_others_do_not(engine):
    ask = {"decode": "diffusion", "policy": "ancestral", "seed": 4}
    three, null = Condition(class_label=3), NULL
    text = {g: engine.generate(Request(condition=three, guidance=g, **ask))[0].text for g in (0.0, 1.0, 2.0)}
    assert text[0.0] == engine.generate(Request(condition=null, **ask))[0].text
    assert len(set(text.values())) == 3


def test_uniform_noise_weighs_posteriors():
    """At strength 1 + 1e-9 the two branches are computed and must give what one gives."""
    checkpoint = templates.checkpoint(random_weights(templates.CONFIG), "uniform")
    engine = mz.Engine(checkpoint)
    ask = {"condition": Condition(class_label=1), "decode": "diffusion", "policy": "ancestral"}
    for seed in range(3):
        plain, guided, strong = (
            engine.generate(Request(guidance=g, seed=seed, **ask))[0] for g in (1.0, 1 + 1e-9, 3.0)
        )
        assert plain.text == guided.text != strong.text


def test_the_prompt_is_a_condition_too():
    """tiny knows no classes; its prompt is what guidance follows, and strength 0 forgets it."""
    engine = mz.Engine(mz.load("tiny"))
    ask = {"raw": True, "decode": "diffusion", "max_tokens": 12}
    say = {
        (prompt, g): engine.generate(Request(prompt, guidance=g, **ask))[0].text
        for prompt in ("Mia has a red", "The old dog is") for g in (0.0, 1.0, 2.0)
    }  # fmt: skip
    assert len(engine.tokenizer.encode("The old dog is")) == len(engine.tokenizer.encode("Mia has a red"))
    assert say["Mia has a red", 0.0] == say["The old dog is", 0.0]  # only as long: draws know positions
    assert say["Mia has a red", 1.0] != say["Mia has a red", 0.0] != say["Mia has a red", 2.0]
    before = Request(" has a red", condition=Condition(prompt="Mia"), **ask)
    assert engine.prompt_ids(before) == engine.prompt_ids(Request("Mia has a red", **ask))
    assert engine.null_ids(before) == engine.prompt_ids(Request(" has a red", **ask))
    with pytest.raises(ValueError, match="tiny follows no class_label"):
        engine.generate(Request(condition=Condition(class_label=3), **ask))


def test_what_cannot_be_guided_is_refused(engine):
    told = Condition(class_label=3)
    for wrong, message in (
        ({"decode": "ar"}, "guidance needs decode 'diffusion'"),
        ({"decode": "diffusion", "blocks_in_flight": 2}, "one block in flight"),
        ({"decode": "diffusion", "guidance": -1}, "guidance is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            Request(condition=told, **{"guidance": 2.0, **wrong})
    with pytest.raises(ValueError, match="the prompt is empty"):
        Request()
    with pytest.raises(ValueError, match="writes whole canvases"):
        engine.generate(Request(condition=told))
    for edit in (lambda: mz.infill(engine, "a [[1]]"), lambda: mz.revise(engine, "a b")):
        with pytest.raises(ValueError, match="cannot edit"):
            edit()
    with pytest.raises(ValueError, match="no token for anything in the prompt"):
        engine.generate(Request("three", raw=True, condition=told, decode="diffusion"))
    with pytest.raises(ValueError, match="allowed: 0 to 9"):
        engine.generate(Request(condition=Condition(class_label=10), decode="diffusion"))
    with pytest.raises(ValueError, match="shadow pass do not go together"):
        Decoding(above(0.6), renoise=unconfirmed(0.9), guidance=2.0)
    with pytest.raises(ValueError, match="guidance is -1"):
        Decoding(guidance=-1)
    with pytest.raises(ValueError, match="needs two branches, which Denoiser"):
        Sampler(engine.denoiser, Absorbing(6, 7), Decoding(ancestral(), guidance=2.0))
