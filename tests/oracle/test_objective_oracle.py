"""Likelihoods against enumeration, and the identity of block size 1, always masked, with AR."""

import math

import pytest
import torch
from world import World

from mezzotint.draws import Draws
from mezzotint.model.config import ModelConfig
from mezzotint.model.denoiser import Denoiser
from mezzotint.noise import Absorbing, Hybrid, Schedule, Uniform, gidd
from mezzotint.objective import autoregressive_nll, legal, likelihood, two_stream, whole_text


def test_block_of_one_always_masked_is_ar_with_the_exact_denoiser():
    """With t = 1 in every block the cross-entropy at size 1 is -log p(x_i | x_<i): its expectation is the entropy."""
    world, process = World(4, 3, seed=2), Absorbing(4, 5)
    total = 0.0
    for text, p in zip(world.texts, world.joint, strict=True):
        for i in range(world.length):
            known = {j: int(text[j]) for j in range(i)}
            law = world.conditional(known, i)
            logs = torch.cat((law, torch.zeros(1, dtype=torch.float64))).clamp(min=1e-300).log()[None, None]
            mask, one = torch.tensor([[4]]), torch.ones(1, dtype=torch.float64)
            # one grid step from t = 1 to 0 is the always-masked bound
            total += float(p * process.nelbo(logs, text[i : i + 1][None], mask, one, 0 * one).sum())
    assert abs(total - world.entropy) < 1e-9


def test_two_stream_pass_of_size_one_always_masked_equals_ar_of_a_shifted_causal_twin():
    """On a network: canvases of size 1 see exactly what AR sees, so with an input that AR could see too the laws agree.

    A canvas position reads the clean text before it and itself; feeding it the *previous* token at its own place is not
    AR's computation, so equality is tested where it is exact: the clean half of the same pass, and locality.
    """
    torch.manual_seed(0)
    model = Denoiser(ModelConfig(11, 16, 2, 2, 1, 8, 24, 32)).requires_grad_(False)
    clean = torch.randint(0, 10, (2, 8))
    masked = torch.full_like(clean, 10)
    one = torch.ones(2, dtype=torch.float64)
    logits = two_stream(model, 1)(masked, clean, one)
    for i in range(8):  # a later token never reaches a block before it
        other = clean.clone()
        other[:, i] = (other[:, i] + 1) % 10
        changed = two_stream(model, 1)(masked, other, one)
        assert torch.allclose(changed[:, : i + 1], logits[:, : i + 1], atol=1e-6)
        assert i == 7 or not torch.allclose(changed[:, i + 1], logits[:, i + 1], atol=1e-6)


def test_autoregressive_nll_is_transformers_loss():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    ours = Denoiser(ModelConfig(31, 16, 2, 2, 1, 8, 24, 32)).requires_grad_(False)
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=31, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
            intermediate_size=24, max_position_embeddings=32, tie_word_embeddings=True, rms_norm_eps=1e-5,
        )
    ).eval()  # fmt: skip
    theirs.load_state_dict(ours.slots(), strict=False)
    tokens = torch.randint(0, 31, (2, 12))
    with torch.inference_mode():
        assert abs(float(theirs(tokens, labels=tokens).loss) - float(autoregressive_nll(ours, tokens).mean())) < 1e-5


def test_bounds_of_a_network_are_finite_and_repeat():
    torch.manual_seed(2)
    model = Denoiser(ModelConfig(11, 16, 2, 2, 1, 8, 24, 32)).requires_grad_(False)
    clean, editable = torch.randint(0, 10, (2, 8)), torch.ones(2, 8).bool()
    for schedule in (Schedule.linear(), Schedule.cosine()):
        process = Absorbing(10, 11, schedule)
        for predict, size in ((whole_text(model), None), (two_stream(model, 4), 4)):
            first, second = (
                likelihood(process, predict, clean, editable, 16, Draws.of([1, 2]), size=size) for _ in range(2)
            )
            assert torch.equal(first.nats, second.nats) and first.nats.isfinite().all()
            assert (first.nats > 0.5 * 8 * math.log(10)).all()  # random weights know nothing
    logits = legal(Absorbing(10, 11), torch.zeros(1, 1, 11))
    assert logits[0, 0, 10] == -torch.inf


NOISES = (Absorbing(4, 5), Uniform(4, 5), Hybrid(4, range(4), 5, 0.3), gidd(4, range(4), 5, 0.1))


@pytest.mark.parametrize("process", NOISES, ids=["absorbing", "uniform", "hybrid", "gidd"])
@pytest.mark.parametrize("steps", [None, 4])
def test_bounds_have_the_gradient_that_finite_differences_find(process, steps):
    """Of the integrand and of a grid's step, for the logits of every position that can be seen: right, wrong, masked."""
    x = torch.tensor([[0, 1, 2, 3]])
    z = torch.tensor([[0, 4 if process.mask_id is not None else 2, 3 if process.support else 4, 3]])
    t = torch.tensor([[0.75, 0.5, 0.75, 0.5]])
    s = None if steps is None else t - 1 / steps
    prediction = "leave_one_out" if process.support else "full"
    logits = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()

    def bound(logits):
        return process.nelbo(legal(process, logits).log_softmax(-1), x, z, t, s, prediction).sum()

    assert torch.autograd.gradcheck(bound, logits)
