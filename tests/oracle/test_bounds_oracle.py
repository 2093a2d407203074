"""Every bound and estimator against enumeration: written formulas, quadrature, Monte Carlo, honest standard errors."""

import itertools
import math

import pytest
import torch
from test_noise_oracle import level, quadrature
from world import World

from mezzotint.draws import Draws
from mezzotint.model.config import ModelConfig
from mezzotint.model.denoiser import Denoiser
from mezzotint.model.visibility import CLEAN, Places, context_causal
from mezzotint.noise import Absorbing, Hybrid, NoiseProcess, Schedule, Uniform, gidd
from mezzotint.objective import (
    by_count,
    by_level,
    by_level_summed,
    by_step,
    levels,
    likelihood,
    two_stream,
    whole_text,
)  # fmt: skip

WORLD = World(3, 3, seed=1)
PROCESSES = {
    "absorbing": Absorbing(3, 4),
    "cosine": Absorbing(3, 4, Schedule.cosine()),
    "uniform": Uniform(range(3), 4),
    "hybrid": Hybrid(3, range(3), 4, 0.3),
    "gidd": gidd(3, range(3), 4, 0.2),
}


def exact(world: World, process: NoiseProcess, size: int | None = None, leave_one_out: bool = False):
    """The exact denoiser that sees its noisy block and the clean text before it (size None: one block)."""

    def predict(noisy, clean, t):
        size_ = world.length if size is None else size
        table = world.likelihoods(process, noisy, t)  # [B, X, L]
        same = (world.texts[None] == clean[:, None]).double()
        out = torch.zeros(*noisy.shape, world.vocab, dtype=torch.float64)
        for i in range(world.length):
            start = i // size_ * size_
            inside = [j for j in range(start, min(start + size_, world.length)) if j != i or not leave_one_out]
            weight = world.joint * same[:, :, :start].prod(-1) * table[:, :, inside].prod(-1)
            for v in range(world.tokens):
                out[:, i, v] = weight[:, world.texts[:, i] == v].sum(-1)
        return (out / out.sum(-1, keepdim=True)).clamp(min=1e-300).log()

    return predict


def every_text(world: World, copies: int, seed: int = 0):
    """Each text of the world `copies` times: texts, all editable, draws, and the true -log p of each."""
    texts = world.texts.repeat(copies, 1)
    truth = -world.joint.log().repeat(copies)
    return texts, torch.ones_like(texts).bool(), Draws.of(seed, len(texts)), truth


def average(world: World, bound):
    """Mean over the world's law, with its standard error."""
    copies = len(bound.nats) // len(world.texts)
    weight = world.joint.repeat(copies) / copies
    return float((weight * bound.nats).sum()), float((weight**2 * bound.standard_error**2).sum().sqrt())


# -- the integrand is the papers' formula --------------------------------------------------------------------------


def random_places(tokens: int, rows: int = 200, seed: int = 0):
    """A leave-one-out prediction, clean and noisy tokens, and levels, one position a row."""
    generator = torch.Generator().manual_seed(seed)
    p = (3 * torch.randn(rows, 1, tokens, generator=generator, dtype=torch.float64)).softmax(-1)
    x, z = torch.randint(0, tokens, (2, rows, 1), generator=generator)
    z = torch.where(torch.arange(rows)[:, None] % 3 == 0, x, z)
    return p, x, z, 0.01 + 0.98 * torch.rand(rows, 1, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("tokens", [3, 50])
def test_uniform_integrand_is_udlm_and_duo_value_by_value(tokens):
    """So Duo's 'Rao-Blackwellised' form (arXiv 2506.10892, eq. 19) is UDLM's (arXiv 2412.10193, eq. 18), rearranged."""
    p, x, z, t = random_places(tokens)
    alpha, n = 1 - t, tokens
    one_hot = torch.nn.functional.one_hot(x, n).double()
    x_bar, p_bar = (n * alpha[..., None] * law + 1 - alpha[..., None] for law in (one_hot, p))
    x_z, p_z, p_x = (b.gather(-1, i[..., None])[..., 0] for b, i in ((x_bar, z), (p_bar, z), (p_bar, x)))

    logs = (p_z[..., None] * x_bar / (p_bar * x_z[..., None])).log()
    udlm = -1 / (n * alpha) * (n / x_z - n / p_z - (x_bar / x_z[..., None] * logs).sum(-1))

    kept, zeta = (x == z).double(), (1 - alpha) / (n * alpha + 1 - alpha)
    spread = (zeta * kept + 1 - kept) * (p_z.log()[..., None] - p_bar.log()).sum(-1)
    own = n * alpha / (1 - alpha) * (p_z / p_x).log() * (1 - kept)
    constant = ((n - 1) * zeta * kept - (1 - kept) / zeta) * zeta.log()
    duo = -1 / (n * alpha) * (n / x_z - n / p_z - spread - own - constant)

    ours = Uniform(n).nelbo(p.log(), x, z, t, prediction="leave_one_out")
    for formula in (udlm, duo):
        assert ((ours - formula).abs() / (1 + formula.abs())).max() < 1e-9


def test_gidd_weights_are_their_closed_forms():
    tokens, p_uniform = 5, 0.2
    process = gidd(tokens, range(tokens), tokens + 1, p_uniform)
    p, x, z, t = random_places(tokens)
    z = torch.where(torch.arange(len(z))[:, None] % 3 == 1, tokens, z)  # masks too
    p = torch.cat((p, torch.zeros_like(p[..., :1])), -1)
    c = 2 * p_uniform / (1 - p_uniform) * (t * (1 - t)).sqrt()
    pi = torch.tensor([[0.0] * tokens + [1.0], [1 / tokens] * tokens + [0.0]], dtype=torch.float64)
    noise = t[..., None] * pi[0] + c[..., None] * pi[1]
    q_x, q_p = (
        ((1 - t)[..., None] * law + noise) / (1 + c)[..., None]
        for law in (torch.nn.functional.one_hot(x, tokens + 1).double(), p)
    )
    r = (q_x / q_p).gather(-1, z[..., None])[..., 0]
    kept = c / (2 * t * tokens * (1 - t) * (1 - t + c / tokens))
    weight = torch.where(z == tokens, 1 / (t * (1 - t)), torch.where(z == x, kept, 1 / (2 * t * (1 - t))))
    formula = weight * ((q_x * (q_x / q_p).log()).sum(-1) + r - r.log() - 1)
    ours = process.nelbo(p.log(), x, z, t, prediction="leave_one_out")
    assert ((ours - formula).abs() / (1 + formula.abs())).max() < 1e-9
    assert {bool(b) for b in (z == tokens)} == {True, False} and bool((z == x).any())


@pytest.mark.parametrize("kind", ["uniform", "hybrid", "gidd"])
def test_own_noise_summed_is_the_mean_over_the_own_noise(kind):
    process = PROCESSES[kind]
    p, x, _, t = random_places(3)
    p = torch.cat((p, torch.zeros_like(p[..., :1])), -1)
    law = process.marginal(torch.nn.functional.one_hot(x, 4), t)
    mean = sum(
        law[..., v] * process.nelbo(p.log(), x, torch.full_like(x, v), t, prediction="leave_one_out") for v in range(4)
    )
    summed = process.nelbo_own_noise_summed(p.log(), x, x, t, "leave_one_out")
    assert ((summed - mean).abs() / (1 + mean)).max() < 1e-9
    full = process.to_full(p, x, t).log()  # what a network with the full posterior would say where it sees x
    assert torch.allclose(process.nelbo_own_noise_summed(full, x, x, t), summed)


# -- each bound is the entropy under the exact denoiser ------------------------------------------------------------


def block_quadrature(world: World, process: NoiseProcess, size: int, points: int) -> float:
    """The block bound with the exact denoiser, everything enumerated: all blocks share the level, which changes no mean."""
    canvases, total = world.noisy_texts(), 0.0
    for t, w in zip(*quadrature(points), strict=True):
        likelihood_ = world.likelihoods(process, canvases, level(t, len(canvases))).prod(-1)
        z, x = (likelihood_ > 0).nonzero(as_tuple=True)
        log_probs = exact(world, process, size)(canvases[z], world.texts[x], level(t, len(z)))
        nelbo = process.nelbo(log_probs, world.texts[x], canvases[z], level(t, len(z))).sum(-1)
        total += w * float((world.joint[x] * likelihood_[z, x] * nelbo).sum())
    return total


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("kind", ["absorbing", "uniform", "gidd"])
def test_block_bound_is_the_entropy_at_every_size_by_quadrature(kind, size):
    value = block_quadrature(WORLD, PROCESSES[kind], size, 24 if kind != "gidd" else 48)
    print(f"{kind}, size {size}: {value:.6f}, entropy {WORLD.entropy:.6f}")
    assert abs(value - WORLD.entropy) < 1e-3


CASES = [
    *((kind, by_level(), None) for kind in PROCESSES),
    *((kind, by_level_summed(), None) for kind in ("uniform", "hybrid", "gidd")),
    ("absorbing", by_count(), None),
    *((kind, by_level(), size) for kind in ("absorbing", "uniform", "gidd") for size in (1, 2)),
    ("uniform", by_level_summed(), 2),
    ("absorbing", by_count(), 2),
]


@pytest.mark.parametrize("kind, estimator, size", CASES, ids=lambda v: getattr(v, "name", str(v)))
def test_likelihood_is_exact_for_every_text_within_its_error(kind, estimator, size, count):
    """With the exact denoiser the bound is -log p(x), text by text, not only on average."""
    process = PROCESSES[kind]
    texts, editable, draws, truth = every_text(WORLD, count(160))
    bound = likelihood(
        process, exact(WORLD, process, size), texts, editable, 64, draws, estimator=estimator, size=size,
        rows_at_once=4096,
    )  # fmt: skip
    mean, error = average(WORLD, bound)
    print(f"{kind}, {bound.estimator}: {mean:.4f} +- {error:.4f}, entropy {WORLD.entropy:.4f}")
    assert abs(mean - WORLD.entropy) < 4 * error and error < 0.12
    copies, texts_ = len(texts) // len(WORLD.texts), len(WORLD.texts)
    error_by_text = bound.standard_error.square().reshape(copies, texts_).mean(0).sqrt() / copies**0.5
    assert ((bound.nats - truth).reshape(copies, texts_).mean(0).abs() < 5 * error_by_text).all()


def test_leave_one_out_predictions_need_to_be_named():
    process = PROCESSES["uniform"]
    texts, editable, draws, _ = every_text(WORLD, 4)
    predict = exact(WORLD, process, leave_one_out=True)
    right, wrong = (
        average(WORLD, likelihood(process, predict, texts, editable, 64, draws, prediction=how, rows_at_once=4096))
        for how in ("leave_one_out", "full")
    )
    assert abs(right[0] - WORLD.entropy) < 4 * right[1]
    assert wrong[0] > WORLD.entropy + 4 * wrong[1]


def test_a_peeking_prediction_shows_that_summing_its_own_noise_is_no_bound():
    """A prediction that leans to the token it sees beats the entropy under `by_level_summed`: the docstring's warning."""
    process = PROCESSES["uniform"]
    texts, editable, draws, _ = every_text(WORLD, 8)

    def peek(noisy, clean, t):
        return 3 * torch.nn.functional.one_hot(noisy, 4).double()

    (drawn, error), (summed, summed_error) = (
        average(
            WORLD, likelihood(process, peek, texts, editable, 128, draws, estimator=e, prediction="leave_one_out",
            rows_at_once=8192),
        )
        for e in (by_level(), by_level_summed())
    )  # fmt: skip
    print(f"peeking: drawn {drawn:.3f}, own noise summed {summed:.3f}, entropy {WORLD.entropy:.3f}")
    assert drawn > WORLD.entropy + 4 * error
    assert summed < WORLD.entropy - 4 * summed_error


# -- steps and sizes -----------------------------------------------------------------------------------------------


def conditional_entropies(world: World, size: int) -> float:
    """sum_i H(x_i | the clean text before its block)."""
    total = 0.0
    for text, p in zip(world.texts, world.joint, strict=True):
        for i in range(world.length):
            law = world.conditional({j: int(text[j]) for j in range(i // size * size)}, i)
            total -= float(p * law[text[i]].log())
    return total


def test_always_masked_bound_rises_with_the_size_from_ar():
    """Size 1 is AR, exactly and without noise; size s is sum_i H(x_i | before its block); the whole is all marginals."""
    world, process = World(3, 4, seed=4), Absorbing(3, 4)
    texts, editable, draws, truth = every_text(world, 1)
    values = []
    for size in (1, 2, 4):
        bound = likelihood(
            process, exact(world, process, size), texts, editable, 2, draws, estimator=by_step(1), size=size,
            rows_at_once=4096,
        )  # fmt: skip
        assert bound.standard_error.abs().max() < 1e-9  # one step masks everything: nothing is left to chance
        values.append(float((world.joint * bound.nats).sum()))
        assert abs(values[-1] - conditional_entropies(world, size)) < 1e-9
        assert size > 1 or torch.allclose(bound.nats, truth)
    print(f"always masked, sizes 1, 2, 4: {values}; entropy {world.entropy:.4f}")
    assert abs(values[0] - world.entropy) < 1e-9 and values[0] < values[1] - 0.01 < values[2] - 0.02


def test_fewer_steps_lie_between_one_step_and_the_entropy():
    world, process = World(3, 4, seed=4), Absorbing(3, 4)
    texts, editable, draws, _ = every_text(world, 4)
    values = [
        average(
            world,
            likelihood(
                process, exact(world, process), texts, editable, 64, draws, estimator=by_step(n), rows_at_once=9999
            ),
        )
        for n in (1, 2, 8, 64)
    ]
    print(f"1, 2, 8, 64 steps: {values}; entropy {world.entropy:.4f}")
    assert all(a[0] > b[0] for a, b in itertools.pairwise(values))
    assert world.entropy - 4 * values[-1][1] < values[-1][0] < world.entropy + 0.05


# -- levels, variance and the standard error -----------------------------------------------------------------------


def test_levels_are_even_and_unbiased():
    u = levels(Draws.of(3, 4000), 8, 3)  # [B, strata, blocks]
    strata = (u * 8).floor().sort(1).values
    assert torch.equal(strata, torch.arange(8.0).double()[None, :, None].expand_as(strata))  # each block, each stratum
    gaps = u.flatten(1).sort(-1).values.diff(dim=-1)
    assert torch.allclose(gaps, torch.full_like(gaps, 1 / 24))  # all of a row's levels are evenly spaced
    for cell in u.flatten(1).T:  # every place is uniform
        d = (cell.sort().values - (torch.arange(4000) + 0.5) / 4000).abs().max()
        assert d < 2.2 / 4000**0.5
    first, second = u[:, 0, 0], u[:, 0, 1]
    assert abs(float(torch.corrcoef(torch.stack((first, second)))[0, 1])) < 0.06  # strata are permuted block by block


def spread(process, texts, estimator, groups, copies, count=32, size=None):
    """Variance of the estimate over repetitions, averaged over texts; and the mean square standard error."""
    rows = texts.repeat(copies, 1)
    bound = likelihood(
        process, exact(WORLD, process, size), rows, torch.ones_like(rows).bool(), count, Draws.of(5, len(rows)),
        estimator=estimator, groups=groups, size=size, rows_at_once=8192,
    )  # fmt: skip
    return float(bound.nats.reshape(copies, -1).var(0).mean()), float(bound.standard_error.square().mean())


@pytest.mark.parametrize("kind", ["uniform", "hybrid", "gidd"])
def test_summing_the_own_noise_varies_less(kind):
    process, texts = PROCESSES[kind], WORLD.texts
    drawn, summed = (spread(process, texts, e, 4, 40)[0] for e in (by_level(), by_level_summed()))
    print(f"{kind}: variance with own noise summed / drawn = {summed / drawn:.4f}")
    assert summed < 0.5 * drawn


def test_counting_masks_and_the_warp_vary_less_than_straight_levels():
    process, texts = PROCESSES["absorbing"], WORLD.texts
    plain, warped, counted = (spread(process, texts, e, 4, 40)[0] for e in (by_level(1), by_level(), by_count()))
    print(f"absorbing: variance power 1 {plain:.4f}, power 3 {warped:.4f}, mask counts {counted:.4f}")
    assert counted < warped < plain


def coverage(bound, truth):
    """Checks how often Student's 80% and 95% intervals hold the truth; a standard error half as large would fail."""
    from scipy.stats import t as student

    z = (bound.nats - truth).abs() / bound.standard_error
    for confidence in (0.8, 0.95):
        covered = float((z < student.ppf((1 + confidence) / 2, bound.groups - 1)).double().mean())
        print(f"{bound.estimator}: {confidence:.0%} interval covers {covered:.1%} of {len(z)}")
        assert abs(covered - confidence) < 0.03 + 3 * (confidence * (1 - confidence) / len(z)) ** 0.5


@pytest.mark.parametrize(
    "kind, estimator", [("absorbing", by_level()), ("absorbing", by_count()), ("uniform", by_level_summed())],
    ids=lambda v: getattr(v, "name", v),
)  # fmt: skip
def test_standard_error_covers_the_truth_of_three_tokens(kind, estimator, count):
    texts, editable, draws, truth = every_text(WORLD, count(600), seed=11)
    predict = exact(WORLD, PROCESSES[kind])
    coverage(
        likelihood(PROCESSES[kind], predict, texts, editable, 64, draws, estimator=estimator, rows_at_once=8192), truth
    )


@pytest.mark.parametrize("kind", ["absorbing", "uniform", "gidd"])
def test_longer_texts_stratified_levels_vary_less_and_their_standard_error_covers(kind, count):
    """24 tokens, eight independent worlds side by side: the exact denoiser works part by part."""
    process, parts, rows = PROCESSES[kind], 8, max(200, count(2000))
    generator = torch.Generator().manual_seed(3)
    pick = torch.multinomial(WORLD.joint, rows * parts, True, generator=generator).reshape(rows, parts)
    texts, truth = WORLD.texts[pick].reshape(rows, -1), -WORLD.joint.log()[pick].sum(-1)

    def predict(noisy, clean, t):
        part = exact(WORLD, process)(*(value.reshape(-1, WORLD.length) for value in (noisy, clean, t)))
        return part.reshape(*noisy.shape, -1)

    independent, stratified = (
        likelihood(
            process, predict, texts, torch.ones_like(texts).bool(), 64, Draws.of(1, rows), groups=g, rows_at_once=2048
        )
        for g in (64, 8)
    )
    ratio = float((stratified.nats - truth).var() / (independent.nats - truth).var())
    print(f"{kind}: variance with 8 groups of 8 strata / independent levels = {ratio:.3f}")
    assert ratio < 0.8
    coverage(independent, truth)
    coverage(stratified, truth)


# -- a network, batches, errors ------------------------------------------------------------------------------------


def test_rows_at_once_changes_calls_and_nothing_else():
    torch.manual_seed(0)
    model = Denoiser(ModelConfig(11, 16, 2, 2, 1, 8, 24, 32)).requires_grad_(False)
    clean, editable = torch.randint(0, 10, (3, 8)), torch.rand(3, 8) < 0.7
    for process, size, predict in (
        (Absorbing(10, 11), None, whole_text(model)),
        (Absorbing(10, 11, Schedule.cosine()), 4, two_stream(model, 4)),
        (Hybrid(10, range(10), 11, 0.3), 3, two_stream(model, 3)),
    ):
        calls = []

        def counted(noisy, clean_, t, predict=predict, calls=calls):
            calls.append(len(noisy))
            return predict(noisy, clean_, t)

        results = []
        for at_once in (1, 7, 48):
            calls.clear()
            results.append(
                likelihood(process, counted, clean, editable, 16, Draws.of(1, 3), size=size, rows_at_once=at_once)
            )
            assert len(calls) == math.ceil(48 / at_once) and max(calls) <= at_once
        for other in results[1:]:
            assert torch.allclose(results[0].nats, other.nats, rtol=1e-5)
            assert torch.allclose(results[0].standard_error, other.standard_error, rtol=1e-3)
        alone = likelihood(
            process, predict, clean[1:2], editable[1:2], 16, Draws.of(1, 3).rows(torch.tensor([1])), size=size
        )
        assert torch.allclose(alone.nats, results[0].nats[1:2], rtol=1e-5)  # a row's estimate is its own


def test_given_positions_are_never_noised_nor_scored():
    process, seen = Absorbing(3, 4), []

    def predict(noisy, clean, t):
        seen.append((noisy != clean).any(0))
        return torch.zeros(*noisy.shape, 4)

    clean, editable = torch.tensor([[0, 1, 2, 0]]), torch.tensor([[False, True, False, False]])
    for estimator in (by_level(), by_count(), by_step(4)):
        likelihood(process, predict, clean, editable, 16, Draws.of(0, 1), estimator=estimator)
        assert not torch.stack(seen)[:, [0, 2, 3]].any() and torch.stack(seen)[:, 1].any()
        seen.clear()
    one = likelihood(process, predict, clean, editable, 2, Draws.of(0, 1), estimator=by_count())
    assert abs(float(one.nats) - math.log(3)) < 1e-12 and float(one.standard_error) < 1e-12  # one position: exact
    none = likelihood(process, predict, clean, editable & False, 4, Draws.of(0, 1))
    assert float(none.nats) == 0


def test_bad_calls_are_named():
    process, clean = Absorbing(3, 4), torch.zeros(2, 3, dtype=torch.int64)
    editable, draws = torch.ones_like(clean).bool(), Draws.of(0, 2)

    def predict(noisy, clean, t):
        return torch.zeros(*noisy.shape, 4)

    for message, arguments in {
        "count 1 in 1 groups": {"count": 1},
        "count 10 in 4 groups": {"count": 10, "groups": 4},
        "count 8 in 1 groups": {"count": 8, "groups": 1},
        "draws are for 3 rows": {"count": 8, "draws": Draws.of(0, 3)},
        r"editable has shape \(2, 1\)": {"count": 8, "editable": editable[:, :1]},
        "rows_at_once is 0": {"count": 8, "rows_at_once": 0},
        "size is 0": {"count": 8, "size": 0},
    }.items():
        with pytest.raises(ValueError, match=message):
            likelihood(process, predict, clean, **{"editable": editable, "draws": draws, **arguments})
    with pytest.raises(ValueError, match="needs uniform noise"):
        likelihood(process, predict, clean, editable, 8, draws, estimator=by_level_summed())
    with pytest.raises(ValueError, match="needs absorbing noise"):
        likelihood(Uniform(4), predict, clean, editable, 8, draws, estimator=by_count())
    with pytest.raises(ValueError, match="num_steps is 0"):
        by_step(0)
    with pytest.raises(ValueError, match="power is"):
        by_level(0.5)
    with pytest.raises(ValueError, match="strata is 0"):
        levels(draws, 0)


def test_canvases_of_one_are_the_ar_law_where_weights_are_shifted():
    torch.manual_seed(3)
    network = Denoiser(ModelConfig(9, 16, 2, 2, 2, 8, 24, 32), shift=1).eval()
    text = torch.randint(7, (2, 8))
    editable = torch.arange(8).expand(2, -1) > 0
    draws = Draws.of([0, 1])
    bound = likelihood(Absorbing(8, 9), two_stream(network, 1), text, editable, 4, draws, estimator=by_step(1), size=1)
    with torch.no_grad():
        logits = network(text[:, :-1], _clean(7), context_causal()).logits.double()
    logits[..., 8] = -torch.inf
    exact = -logits.log_softmax(-1).gather(-1, text[:, 1:, None])[..., 0].sum(-1)
    assert torch.allclose(bound.nats, exact, atol=1e-5)


def _clean(length):
    position = torch.arange(length).expand(2, -1)
    return Places.of(position, torch.full_like(position, CLEAN))
