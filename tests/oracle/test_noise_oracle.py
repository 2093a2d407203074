"""The noise processes against enumeration: Bayes, composition, tight bounds, the joint law."""

import itertools
import math

import pytest
import torch
from world import World, chi_square

from mezzotint.draws import Draws, categorical
from mezzotint.noise import Absorbing, Hybrid, NoiseProcess, Schedule, Uniform, gidd

STEEP = Schedule.of(lambda t: (1 - t) ** 3, lambda t: -3 * (1 - t) ** 2, "cubic")
SCHEDULES = [Schedule.linear(), Schedule.cosine(), STEEP]


def processes(tokens: int, schedule: Schedule | None = None) -> list[NoiseProcess]:
    ids = range(tokens)
    made = [
        Absorbing(tokens, tokens + 1, schedule),
        Uniform(ids, tokens + 1, schedule),
        Hybrid(tokens, ids, tokens + 1, 0.3, schedule=schedule),
    ]
    return [*made, gidd(tokens, ids, tokens + 1, 0.2)] if schedule is None else made


def level(value: float, rows: int) -> torch.Tensor:
    return torch.full((rows,), value, dtype=torch.float64)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)
@pytest.mark.parametrize("kind", range(4), ids=["absorbing", "uniform", "hybrid", "gidd"])
def test_posterior_equals_bayes_rule_and_transitions_compose(kind, schedule):
    if kind == 3 and schedule.name != "linear":
        schedule = None  # gidd brings its own
    process = processes(4, None if kind == 3 else schedule)[kind]
    generator = torch.Generator().manual_seed(kind)
    for _ in range(20):
        s, t = sorted(torch.rand(2, generator=generator, dtype=torch.float64).tolist())
        to_s, step, to_t = process.transition(0, s), process.transition(s, t), process.transition(0, t)
        assert torch.allclose(to_s @ step, to_t, atol=1e-12)
        assert (step > -1e-12).all() and torch.allclose(step.sum(1), torch.ones(5, dtype=torch.float64))
        clean = torch.eye(5, dtype=torch.float64)[:4][None]
        assert torch.allclose(process.marginal(clean, level(t, 1))[0], to_t[:4], atol=1e-12)
        for z in range(5):
            law = torch.rand(5, generator=generator, dtype=torch.float64)
            law[4] = 0  # the mask is no clean token
            predicted = law * (to_t[:, z] > 1e-12)
            if not predicted.sum() > 0:
                continue
            predicted = predicted / predicted.sum()
            bayes = sum(
                predicted[x] * to_s[x] * step[:, z] / to_t[x, z] for x in range(4) if to_t[x, z] > 1e-12
            )  # q(z_s | z_t, x), mixed
            got = process.posterior(torch.tensor([[z]]), predicted[None, None], level(s, 1), level(t, 1))[0, 0]
            assert torch.allclose(got, bayes, atol=1e-10)


@pytest.mark.parametrize("kind", range(4), ids=["absorbing", "uniform", "hybrid", "gidd"])
def test_corrupt_has_the_marginal_law_and_spares_given_positions(kind):
    process, rows = processes(3)[kind], 20000
    clean = torch.tensor([[0, 1]]).expand(rows, -1)
    draws = Draws.of(7, rows)
    editable = torch.tensor([True, False]).expand(rows, -1)
    noisy = process.corrupt(clean, level(0.6, rows), editable, draws)
    assert (noisy[:, 1] == 1).all()
    law = process.marginal(torch.eye(4, dtype=torch.float64)[:1][None], level(0.6, 1))[0, 0]
    assert chi_square(torch.bincount(noisy[:, 0], minlength=4), law) > 1e-3
    prior = process.prior((rows, 1), draws)
    assert chi_square(torch.bincount(prior[:, 0], minlength=4), process.transition(0, 1)[0]) > 1e-3


def test_corrupting_twice_has_the_law_of_corrupting_once():
    """Sampled: x_0 -> x_s by corrupt, x_s -> x_t by the transition, against x_0 -> x_t."""
    rows = 20000
    for process in processes(3):
        at_s = process.corrupt(torch.zeros(rows, 1, dtype=torch.int64), level(0.3, rows), None, Draws.of(1, rows))
        step = process.transition(0.3, 0.7)[at_s[:, 0]][:, None].clamp(min=0)
        at_t = categorical(step, Draws.of(2, rows).uniform("t", torch.arange(1)))
        assert chi_square(torch.bincount(at_t[:, 0], minlength=4), process.transition(0, 0.7)[0]) > 1e-3


def exact_bound(world: World, process: NoiseProcess, levels, weights, steps=None, how="full", convert=True) -> float:
    """E over x, t and z of the integrand with the exact denoiser, everything enumerated; `steps`: the T-step bound."""
    canvases = world.noisy_texts()
    total = 0.0
    pairs = [(t, w, None) for t, w in zip(levels, weights, strict=True)]
    if steps is not None:
        pairs = [((i + 1) / steps, 1.0, i / steps) for i in range(steps)]
    for t, w, s in pairs:
        rows = len(canvases)
        tt = level(t, rows)
        likelihood = world.likelihoods(process, canvases, tt).prod(-1)  # [Z, X]
        predicted = world.predict(process, canvases, tt, leave_one_out=how == "leave_one_out")
        prediction = "leave_one_out" if how == "leave_one_out" or not convert else "full"
        seen = likelihood > 0
        z, x = seen.nonzero(as_tuple=True)  # every canvas with every text it may have come from
        logs, ss = predicted.clamp(min=1e-300).log()[z], None if s is None else level(s, len(z))
        nelbo = process.nelbo(logs, world.texts[x], canvases[z], level(t, len(z)), ss, prediction).sum(-1)
        total += w * float((world.joint[x] * likelihood[z, x] * nelbo).sum())
    return total


def quadrature(points: int) -> tuple[list[float], list[float]]:
    """Gauss-Legendre in a warped level t = sin^2(pi u / 2): the hybrid integrand has t^(-1/2) tails at both ends."""
    from numpy.polynomial.legendre import leggauss

    nodes, weights = leggauss(points)
    u = (nodes + 1) / 2
    t = [math.sin(math.pi * a / 2) ** 2 for a in u]
    w = [b / 2 * math.pi / 2 * math.sin(math.pi * a) for a, b in zip(u, weights, strict=True)]
    return t, w


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)
def test_masked_bound_is_the_entropy_for_every_schedule(schedule):
    world = World(3, 3, seed=1)
    process = Absorbing(3, 4, schedule)
    assert abs(exact_bound(world, process, *quadrature(24)) - world.entropy) < 1e-3


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["absorbing", "uniform", "hybrid"])
def test_grid_bound_falls_to_the_entropy(kind):
    world = World(3, 2, seed=2)
    process = processes(3)[kind]
    bounds = [exact_bound(world, process, [], [], steps=T) for T in (1, 4, 16, 64, 500, 1000)]
    assert all(a > b - 1e-9 for a, b in itertools.pairwise(bounds))
    assert 0 <= bounds[-1] - world.entropy < 2e-3 < bounds[0] - world.entropy
    print(f"T-step bounds {[f'{b:.5f}' for b in bounds]}, entropy {world.entropy:.5f}")


@pytest.mark.parametrize("kind", [1, 2, 3], ids=["uniform", "hybrid", "gidd"])
def test_uniform_and_hybrid_bounds_need_the_leave_one_out_posterior(kind):
    world = World(3, 2, seed=3)
    process = processes(3)[kind]
    levels = quadrature(60)
    leave_one_out = exact_bound(world, process, *levels, how="leave_one_out")
    converted = exact_bound(world, process, *levels, how="full")
    wrong = exact_bound(world, process, *levels, how="full", convert=False)
    print(
        f"entropy {world.entropy:.5f}, leave-one-out {leave_one_out:.5f}, converted {converted:.5f}, full {wrong:.5f}"
    )
    assert abs(leave_one_out - world.entropy) < 1e-3
    assert abs(converted - world.entropy) < 1e-3
    assert wrong > world.entropy + 0.05  # negative control
    grid_wrong = exact_bound(world, process, [], [], steps=64, how="full", convert=False)
    assert grid_wrong > exact_bound(world, process, [], [], steps=64) + 0.02


def test_hybrid_ends_are_absorbing_and_uniform_in_every_method():
    ids, rows = range(3), 50
    draws = Draws.of(5, rows)
    clean = torch.randint(0, 3, (rows, 4), generator=torch.Generator().manual_seed(0))
    s, t = level(0.3, rows), level(0.7, rows)
    for share, twin in ((0.0, Absorbing(3, 4)), (1.0, Uniform(ids, 4))):
        hybrid = Hybrid(3, ids, 4, share)
        noisy = twin.corrupt(clean, t, None, draws)
        assert torch.equal(hybrid.corrupt(clean, t, None, draws), noisy)
        assert torch.equal(hybrid.prior((rows, 4), draws), twin.prior((rows, 4), draws))
        where = clean == 1
        assert torch.equal(hybrid.renoise(clean, where, t, draws), twin.renoise(clean, where, t, draws))
        predicted = torch.rand(rows, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        predicted[..., 3] = 0
        predicted = predicted / predicted.sum(-1, keepdim=True)
        assert torch.allclose(hybrid.posterior(noisy, predicted, s, t), twin.posterior(noisy, predicted, s, t))
        logs = predicted.clamp(min=1e-300).log()
        for at in (None, s):
            assert torch.allclose(hybrid.nelbo(logs, clean, noisy, t, at), twin.nelbo(logs, clean, noisy, t, at))
        left, right = hybrid.looks_noisy(noisy), twin.looks_noisy(noisy)
        assert (left is None) == (right is None) and (left is None or torch.equal(left, right))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)
def test_schedules(schedule):
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    assert torch.allclose(schedule.level(schedule.alpha(t)), t, atol=1e-9)
    slope = (schedule.alpha(t + 1e-6) - schedule.alpha(t - 1e-6)) / 2e-6
    assert torch.allclose(schedule.dalpha(t), slope, atol=1e-6)
    assert schedule.grid(4).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_bad_noise_is_named():
    with pytest.raises(ValueError, match="mask_id 9 is outside"):
        Absorbing(9, 4)
    with pytest.raises(ValueError, match="uniform noise must not draw the mask"):
        Hybrid(3, range(4), 4, 0.5)
    with pytest.raises(ValueError, match="uniform share"):
        Hybrid(3, range(3), 4, 1.5)
    with pytest.raises(ValueError, match="alpha must go from 1 to 0"):
        Schedule.of(lambda t: 1 - t / 2, lambda t: -0.5 + 0 * t)
    with pytest.raises(ValueError, match="num_steps is 0"):
        Schedule.linear().grid(0)
    with pytest.raises(ValueError, match="above its t"):
        Absorbing(3, 4).posterior(
            torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1, 4), level(0.5, 1), level(0.4, 1)
        )
