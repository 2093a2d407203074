"""Muon in float32 against PyTorch's in bfloat16; computing in what the device has."""

import pytest
import torch
from campaign import CONFIG, make_batches

from mezzotint.train import optimizer, trainer
from mezzotint.train.optimizer import Muon, optimizers, orthogonal
from mezzotint.train.recipe import Optimizer, Recipe


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (8, 8)])
def test_singular_values_go_to_about_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    made = orthogonal(matrix)
    assert made.shape == matrix.shape
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.3 and values.max() < 1.3  # the iteration's own band
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert (made - left @ right).norm() < 0.45 * made.norm()


def test_muon_in_float32_steps_as_pytorchs_does(monkeypatch):
    paths = []
    for fast in (True, False):
        monkeypatch.setattr(optimizer, "bfloat16_is_fast", lambda device, fast=fast: fast)
        p = torch.nn.Parameter(torch.randn(12, 20, generator=torch.Generator().manual_seed(1)))
        moves, generator = Muon([p], 0.02, 0.1), torch.Generator().manual_seed(2)
        for _ in range(5):
            p.grad = torch.randn(p.shape, generator=generator)
            moves.step()
        paths.append((p.detach().clone(), moves.state[p]["momentum_buffer"]))
    (a, momentum_a), (b, momentum_b) = paths
    assert torch.allclose(a, b, atol=2e-3) and torch.allclose(momentum_a, momentum_b, atol=1e-6)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_every_weight_is_moved_once_and_embeddings_do_not_decay(name):
    weights = dict(trainer.initialise(CONFIG, 0).named_parameters())
    groups = [group for one in optimizers(weights, Optimizer(name)) for group in one.param_groups]
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(map(id, weights.values()))
    still = {id(p) for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    assert still == {id(p) for n, p in weights.items() if p.dim() != 2 or "embedding" in n}


@pytest.mark.parametrize("fast", [True, False])
def test_a_run_says_what_it_computed_in(monkeypatch, fast):
    monkeypatch.setattr(trainer, "bfloat16_is_fast", lambda device: fast)
    recipe = Recipe("precision", CONFIG, max_steps=1, bfloat16=True)
    made = trainer.Trainer(trainer.initialise(CONFIG, 0), recipe, make_batches())
    assert made.recipe.bfloat16 is fast
    seen = []
    made.denoiser.blocks[0].attention.qkv.register_forward_hook(lambda m, x, y: seen.append(y.dtype))
    made.step()
    assert set(seen) == {torch.bfloat16 if fast else torch.float32}
