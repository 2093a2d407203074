"""Guidance in enumerated worlds: two classes, their exact denoisers, and the law that the guided sampler must have."""

import itertools

import pytest
import torch
from test_noise_oracle import processes
from world import World, chi_square

from mezzotint.draws import Draws
from mezzotint.noise import Absorbing
from mezzotint.sampler.canvas import Canvas
from mezzotint.sampler.decoding import Decoding, ancestral, left_to_right
from mezzotint.sampler.loop import Sampler

ROWS = 20000
SHARES = (0.35, 0.65)  # of the two classes


def worlds(length):
    """p(x | class 0), and the mixture of both classes: what the null says."""
    told, other, mixed = (World(3, length, seed=seed, sharpness=1.0) for seed in (3, 4, 3))
    mixed.joint = SHARES[0] * told.joint + SHARES[1] * other.joint
    return told, mixed


class TwoOracles:
    """The exact denoisers of both branches; few canvases, many rows."""

    def __init__(self, pair, process):
        self.pair, self.process, self.canvas = pair, process, None

    def denoise(self, tokens, positions, valid, cache):
        return self.denoise_branches(tokens, positions, valid, cache)[0]

    def denoise_branches(self, tokens, positions, valid, cache):
        unique, inverse = tokens.unique(dim=0, return_inverse=True)
        level = self.canvas.level[:1].expand(len(unique))
        laws = [world.predict(self.process, unique, level) for world in self.pair]
        return tuple(law.clamp(min=1e-300).log()[inverse] for law in laws)


def drawn(pair, process, decoding):
    """How often each text was sampled."""
    world, draws = pair[0], Draws.of(7, ROWS)
    canvas = Canvas.blank(process, torch.zeros(ROWS, dtype=torch.int64), world.length, draws)
    oracles = TwoOracles(pair, process)
    oracles.canvas = canvas
    Sampler(oracles, process, decoding).run(canvas, None, draws)
    return torch.bincount(world.index(canvas.tokens), minlength=len(world.texts))


def sharpened(told, null, strength):
    """told^g null^(1 - g), normalised over the last axis; a token that neither allows stays impossible."""
    law = torch.where(told > 0, told**strength * null.clamp(min=1e-300) ** (1 - strength), 0.0)
    return law / law.sum(-1, keepdim=True)


@pytest.mark.parametrize("strength", [0.0, 0.5, 2.0, 3.0])
def test_one_token_has_the_closed_form(strength):
    told, mixed = pair = worlds(1)
    want = sharpened(told.joint, mixed.joint, strength)
    counts = drawn(pair, Absorbing(3, 4), Decoding(ancestral(), num_steps=4, temperature=1.0, guidance=strength))
    print(f"strength {strength}: plain {told.joint.numpy().round(3)}, guided {want.numpy().round(3)}")
    assert chi_square(counts, want) > 1e-3
    assert chi_square(counts, told.joint) < 1e-3


@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_a_token_a_call_has_the_product_of_guided_conditionals(strength):
    told, mixed = pair = worlds(3)
    want = torch.ones(len(told.texts), dtype=torch.float64)
    for row, text in enumerate(told.texts.tolist()):
        for i in range(3):
            known = dict(enumerate(text[:i]))
            want[row] *= sharpened(told.conditional(known, i), mixed.conditional(known, i), strength)[text[i]]
    assert abs(float(want.sum()) - 1) < 1e-9
    decoding = Decoding(left_to_right(), num_steps=3, temperature=1.0, guidance=strength)
    counts = drawn(pair, Absorbing(3, 4), decoding)
    assert chi_square(counts, want) > 1e-3
    assert chi_square(counts, told.joint) < 1e-3


@pytest.mark.parametrize("kind", range(3), ids=["absorbing", "uniform", "hybrid"])
@pytest.mark.parametrize("strength", [0.0, 0.5, 2.0])
def test_the_guided_reverse_process_is_the_enumerated_chain(kind, strength, steps=3):
    """Absorbing: clean laws are combined, then stepped back. With uniform noise: both are stepped back, then combined."""
    told, _mixed = pair = worlds(2)
    process = processes(3)[kind]
    states = told.noisy_texts()  # [16, 2], the mask included
    law = process.marginal(torch.full((1, 2, 4), 0.25), torch.ones(1))[0].gather(1, states.T).prod(0)
    grid = process.schedule.grid(steps)
    for t, s in itertools.pairwise(grid):
        here = [x.expand(len(states)) for x in (t, s)]
        clean = [world.predict(process, states, here[0]) for world in pair]
        if kind:
            back = sharpened(*(process.posterior(states, c, here[1], here[0]) for c in clean), strength)
        else:
            back = process.posterior(states, sharpened(*clean, strength), here[1], here[0])
        both = torch.stack([back[:, i][:, states[:, i]] for i in range(2)]).prod(0)  # [from, to]
        law = law @ both.nan_to_num()
    assert abs(float(law.sum()) - 1) < 1e-6
    whole = (states < 3).all(-1)
    counts = drawn(pair, process, Decoding(ancestral(), num_steps=steps, temperature=1.0, guidance=strength))
    assert chi_square(counts, law[whole]) > 1e-3
    plain = drawn(pair, process, Decoding(ancestral(), num_steps=steps, temperature=1.0))
    assert chi_square(plain, law[whole]) < 1e-3
