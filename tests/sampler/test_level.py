"""Networks that are told the level: what they say against the law it stands for, for exact predictions in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mezzotint.model.variant import LevelInput
from mezzotint.noise import Absorbing, Hybrid, NoiseProcess, Schedule, Uniform
from mezzotint.sampler.level import clean_logits, log_scores, total_noise, tweedie

V = 6
SCORE = LevelInput(8, "score")
MASKS, EVEN = Absorbing(V - 1, V, Schedule.loglinear()), Uniform(V, schedule=Schedule.geometric())


def laws(process: NoiseProcess, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(leave-one-out laws of the clean token `[1, 3, V]`, a noisy text `[1, 3]`, masked or drawn)"""
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(1, 3, V, generator=generator, dtype=torch.float64)
    if process.mask_id is not None:
        p[..., process.mask_id] = 0
        return p / p.sum(-1, keepdim=True), torch.full((1, 3), process.mask_id)
    return p / p.sum(-1, keepdim=True), torch.tensor([[0, 4, 2]])


@pytest.mark.parametrize("process", [MASKS, EVEN], ids=["absorbing", "uniform"])
@pytest.mark.parametrize("level", [0.9, 0.4])
def test_exact_scores_are_the_reverse_process(process: NoiseProcess, level: float) -> None:
    p, noisy = laws(process)
    t, s = torch.tensor([level], dtype=torch.float64), torch.tensor([level / 3], dtype=torch.float64)
    noised = process.marginal(p, t)
    scores = (noised / noised.gather(-1, noisy[..., None])).log()
    logits = scores.scatter(-1, noisy[..., None], 5.0)  # what is said of the token that stands there means nothing
    full = process.to_full(p, noisy, t)
    assert torch.allclose(clean_logits(SCORE, process, logits, noisy, t).softmax(-1), full, atol=1e-9)
    found = tweedie(process, log_scores(SCORE, logits, noisy, total_noise(process, t)), noisy, s, t)
    expected = process.posterior(noisy, full, s, t)
    assert torch.allclose(found / found.sum(-1, keepdim=True), expected, atol=1e-9)
    assert torch.allclose(found.sum(-1), torch.ones(1, 3, dtype=torch.float64), atol=1e-9)


def test_scores_that_are_too_small_keep_the_mask_longer_but_not_at_the_end() -> None:
    p, noisy = laws(MASKS)
    t, s = torch.tensor([0.5], dtype=torch.float64), torch.tensor([0.2], dtype=torch.float64)
    scores = p.log() - 3
    stays = tweedie(MASKS, scores, noisy, s, t)[..., -1]
    assert bool((stays > MASKS.posterior(noisy, p, s, t)[..., -1]).all())
    end = tweedie(MASKS, scores, noisy, torch.zeros(1, dtype=torch.float64), t)
    assert bool((end[..., -1] == 0).all()) and torch.allclose(end / end.sum(-1, keepdim=True), p)
    visible = torch.tensor([[1, V - 1, 3]])
    law = tweedie(MASKS, scores, visible, s, t)
    assert law[0, 0].tolist() == [0, 1, 0, 0, 0, 0] and law[0, 2, 3] == 1
    sure = clean_logits(SCORE, MASKS, scores, visible, t).softmax(-1)
    assert sure[0, 0, 1] == 1 and torch.allclose(sure[0, 1], p[0, 1])


def test_scaled_scores_and_leave_one_out() -> None:
    p, noisy = laws(EVEN)
    t = torch.tensor([0.3], dtype=torch.float64)
    sigma = total_noise(MASKS, t)
    told = LevelInput(8, "score", scaled=True)
    logits = torch.zeros(1, 3, V, dtype=torch.float64)
    expected = -(torch.expm1(sigma) * (V - 1)).log()
    found = log_scores(told, logits, noisy, sigma)
    assert torch.allclose(found[0, 0, 1], expected[0]) and found[0, 0, 0] == 0
    loo = clean_logits(LevelInput(8, "leave_one_out"), EVEN, p.log(), noisy, t).softmax(-1)
    assert torch.allclose(EVEN.to_leave_one_out(loo, noisy, t), p)
    assert torch.equal(clean_logits(LevelInput(8), EVEN, p.log(), noisy, t), p.log())


def test_schedules_that_networks_are_told() -> None:
    assert float(MASKS.schedule.alpha(torch.tensor(1.0))) == pytest.approx(1e-3)
    assert float(Schedule.named("loglinear 0.01").alpha(torch.tensor(0.5))) == pytest.approx(1 - 0.99 / 2)
    geometric = Schedule.named("geometric 0.0001 20.0")
    half = torch.tensor([0.5], dtype=torch.float64)
    assert float(total_noise(Uniform(V, schedule=geometric), half)) == pytest.approx((1e-4 * 20) ** 0.5)
    assert float(geometric.level(geometric.alpha(half))) == pytest.approx(0.5)
    slope = (geometric.alpha(half + 1e-6) - geometric.alpha(half - 1e-6)) / 2e-6
    assert float(geometric.dalpha(half)) == pytest.approx(float(slope), rel=1e-5)
    for name in ("loglinear", "geometric 2 1", "sine", "", "linear 3"):
        with pytest.raises(
            ValueError, match=r"schedule is .*; allowed: linear, cosine, loglinear EPS, geometric LOW HIGH"
        ):
            Schedule.named(name)
    with pytest.raises(ValueError, match=r"alpha must go from 1 to 0$"):
        Schedule("short", lambda t: 1 - 0.9 * t, lambda t: torch.full_like(t, -0.9))


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ValueError, match="prediction is 'noise'; allowed: full, leave_one_out, score"):
        LevelInput(8, "noise")
    with pytest.raises(ValueError, match="only scores are scaled"):
        LevelInput(8, "full", scaled=True)
    hybrid = Hybrid(V - 1, range(V - 1), V, 0.2)
    zeros = torch.zeros(1, 1, V, dtype=torch.float64)
    half = torch.tensor([0.5], dtype=torch.float64)
    with pytest.raises(ValueError, match="this process is a hybrid"):
        tweedie(hybrid, zeros, torch.zeros(1, 1, dtype=torch.int64), half / 2, half)
