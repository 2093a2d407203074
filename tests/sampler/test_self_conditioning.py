"""A self-conditioned network hears what it said last of the same canvas, in every row of a batch as if it were alone."""

import dataclasses

import pytest
import torch

from mezzotint.draws import Draws
from mezzotint.model.adapter import AdapterConfig
from mezzotint.model.config import ModelConfig
from mezzotint.model.denoiser import Denoiser
from mezzotint.noise import Absorbing
from mezzotint.sampler.blocks import block_frames
from mezzotint.sampler.canvas import Canvas
from mezzotint.sampler.decoding import Decoding, fixed_steps
from mezzotint.sampler.loop import Sampler

V, MASK = 41, 40
PROMPTS = [[1, 2, 3], [5], [7, 8, 9, 10, 11, 12]]
DECODING = Decoding(accept=fixed_steps(), temperature=1.0, num_steps=4, canvas_length=8)


class Noted(Denoiser):
    """It notes what it was given to hear, and what it said."""

    def denoise(self, tokens, positions, valid, cache, condition=None, feedback=None):
        logits = super().denoise(tokens, positions, valid, cache, condition, feedback)
        self.heard.append((feedback, logits))
        return logits


def network(self_conditioning=True, shift=0):
    g = torch.Generator().manual_seed(0)
    model = Noted(ModelConfig(V, 32, 2, 4, 2, 8, 48, 256), shift).requires_grad_(False)
    model.load([(n, torch.randn(t.shape, generator=g) * 0.3 + ("norm" in n)) for n, t in model.slots().items()])
    model.adapt(AdapterConfig(4, self_conditioning=self_conditioning)).requires_grad_(False)
    model.adapter.load([(n, torch.randn(t.shape, generator=g) * 0.3) for n, t in model.adapter.tensors().items()])
    model.heard = []
    return model


def texts(model, prompts, decoding=DECODING, seeds=None):
    draws = Draws.of(seeds or list(range(len(prompts))))
    frames = list(block_frames(Sampler(model, Absorbing(MASK, V), decoding), model, prompts, 16, draws))
    found = [[] for _ in prompts]
    for frame in frames:
        if frame.kind == "commit":
            found[frame.row] += frame.tokens
    return found


@pytest.mark.parametrize("shift", [0, 1])
def test_each_step_hears_the_one_before_and_a_new_block_hears_nothing(shift):
    model = network(shift=shift)
    texts(model, PROMPTS)
    assert len(model.heard) == 8 and [heard is None for heard, _ in model.heard] == [True, False, False, False] * 2
    for (_, said), (heard, _) in zip(model.heard[:3], model.heard[1:4], strict=True):
        legal = said.double()
        legal[..., MASK] = -torch.inf
        assert torch.equal(heard, model.encode_feedback(legal))


def test_what_is_heard_matters():
    model = network()
    cache = model.new_cache(1, 20)
    model.read(torch.tensor([[1, 2, 3]]), torch.tensor([3]), cache)
    draws = Draws.of([0])
    canvas = Canvas.blank(Absorbing(MASK, V), cache.lengths, 8, draws)
    seen = []
    for _ in Sampler(model, Absorbing(MASK, V), dataclasses.replace(DECODING, num_steps=2)).steps(canvas, cache, draws):
        seen.append(canvas.tokens.clone())
    (_, first), (heard, second) = model.heard
    deaf = Denoiser.denoise(model, seen[0], canvas.positions, canvas.valid, cache)
    assert (deaf - second).abs().max() > 1e-2 and torch.equal(
        Denoiser.denoise(model, seen[0], canvas.positions, canvas.valid, cache, feedback=heard), second
    )
    assert not torch.equal(first, second)


def test_a_row_hears_itself_alone():
    together = texts(network(), PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        assert texts(network(), [prompt], seeds=[row]) == [together[row]]


def test_without_it_nothing_is_heard():
    model = network(self_conditioning=False)
    texts(model, PROMPTS)
    assert all(heard is None for heard, _ in model.heard)
