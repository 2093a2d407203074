"""Every policy in the enumerated world: the joint law where theory says so, by how much not elsewhere; ReMDM's marginals."""

import dataclasses

import pytest
import torch
from test_sampling_oracle import distance
from world import World, chi_square

from mezzotint.draws import Draws
from mezzotint.noise import Absorbing, Hybrid, Schedule, Uniform
from mezzotint.sampler.canvas import Canvas
from mezzotint.sampler.decoding import (
    POLICIES,
    Decoding,
    Hold,
    Remasking,
    above,
    by_chance,
    capped,
    changed_mind,
    edits_settled,
    factor,
    fixed_steps,
    frechet,
    last_step,
    least_confident,
    never,
    origin,
    remdm,
    rescaled,
    unconfirmed,
    while_held,
)
from mezzotint.sampler.loop import Sampler


class Oracle:
    """The exact denoiser of a world, with its exact shadow, as a table over all canvases.

    level: what it believes the level to be (None: the canvas's own, row by row); absorbing noise makes no difference.
    """

    def __init__(self, world, process, canvas, level=None):
        self.world, self.process, self.canvas = world, process, canvas
        self.level = 0.5 if level is None and not process.support else level
        self.tables = {}

    def denoise(self, tokens, positions, valid, cache):
        return self._law(tokens, False)

    def denoise_with_shadow(self, tokens, positions, valid, cache, masks):
        return self._law(tokens, False), self._law(tokens, True)

    def _law(self, tokens, leave_one_out):
        codes = (tokens * self.world.vocab ** torch.arange(self.world.length - 1, -1, -1)).sum(-1)
        level = (
            self.canvas.level.clamp(max=1 - 1e-9)
            if self.level is None
            else torch.full_like(self.canvas.level, self.level)
        )
        out = torch.empty(*tokens.shape, self.world.vocab, dtype=torch.float64)
        for value in level.unique().tolist():
            if (value, leave_one_out) not in self.tables:
                every = self.world.noisy_texts()
                law = self.world.predict(self.process, every, torch.full((len(every),), value).double(), leave_one_out)
                self.tables[value, leave_one_out] = law.clamp(min=1e-300).log()
            here = level == value
            out[here] = self.tables[value, leave_one_out][codes[here]]
        return out


def sample(world, process, decoding, rows, seed=0, level=None):
    """-> counts over the world's texts, mean calls a row."""
    draws = Draws.of(seed, rows)
    canvas = Canvas.blank(process, torch.zeros(rows, dtype=torch.int64), world.length, draws)
    calls = 0
    for step in Sampler(Oracle(world, process, canvas, level), process, decoding).steps(canvas, None, draws):
        calls += int(step.running.sum())
    assert canvas.done().all()
    return torch.bincount(world.index(canvas.tokens), minlength=len(world.texts)), calls / rows


def noise_floor(world, rows):
    """The total variation expected of a sampler with the right law."""
    return float((world.joint * (1 - world.joint) / rows).sqrt().sum() * (2 / torch.pi) ** 0.5 / 2)


def pair(remasking, levels=None, schedule=None, num_steps=120):
    accept, renoise = remdm(remasking, schedule)
    return Decoding(accept, renoise, last_step(), temperature=1.0, num_steps=num_steps, levels=levels)


EXACT = {  # where theory promises the joint law: one position a call in an order that ignores the tokens, or many steps
    "llada-random, one a call": (3, Decoding(fixed_steps(by_chance()), num_steps=3, temperature=1.0)),
    "dream-origin": (2, Decoding(origin(), num_steps=120, temperature=1.0)),
    "remdm-cap": (2, pair(capped(0.05))),
    "remdm-rescale": (2, pair(rescaled(0.1))),
    "remdm-loop": (2, pair(while_held(0.02), Hold())),
}


@pytest.mark.parametrize("name", EXACT)
def test_the_joint_law_is_reproduced_where_theory_says_so(name):
    length, decoding = EXACT[name]
    world, rows = World(3, length, seed=6), 5000
    counts, calls = sample(world, Absorbing(3, 4), decoding, rows)
    print(
        f"{name}: total variation {distance(counts, world.joint):.4f} (noise {noise_floor(world, rows):.4f}), {calls} calls"
    )
    assert chi_square(counts, world.joint) > 1e-3


def test_every_policys_distance_from_the_joint_law():
    """The table: every policy with tokens drawn at temperature 1, on 3 positions. Parallel acceptance shows as distance."""
    world, rows = World(3, 3, seed=6), 6000
    floor = noise_floor(world, rows)
    far = {}
    for name, policy in POLICIES.items():
        decoding = dataclasses.replace(policy(), temperature=1.0)
        counts, calls = sample(world, Absorbing(3, 4), decoding, rows)
        far[name] = distance(counts, world.joint), chi_square(counts, world.joint)
        print(
            f"{name:16} total variation {far[name][0]:.3f} (noise {floor:.3f}), p {far[name][1]:.3f}, calls {calls:.2f}"
        )
    # left-to-right and by chance, one position a call; those that order by the whole distribution, not by the token drawn
    exact = {"left-to-right", "llada-random", "first-hitting", "entropy", "margin", "diffusion-gemma"}
    many_steps = {"dream-origin", "ancestral", "sedd", "remdm-cap", "remdm-rescale", "remdm-loop"}  # exact in the limit
    for name in exact | many_steps:
        assert far[name][0] < 2 * floor and (name in many_steps or far[name][1] > 1e-3), name
    # the others prefer confident tokens among those drawn, one position a call or not, or accept in parallel (dream)
    for name in POLICIES.keys() - exact - many_steps:
        assert far[name][0] > 2.5 * floor and far[name][1] < 1e-3, name


def test_acceptance_in_parallel_moves_away_from_the_joint_law():
    world, rows = World(3, 3, seed=6), 6000
    errors = []
    for steps in (3, 2, 1):
        decoding = Decoding(fixed_steps(by_chance()), num_steps=steps, temperature=1.0)
        counts, calls = sample(world, Absorbing(3, 4), decoding, rows)
        assert calls == steps
        errors.append(distance(counts, world.joint))
    print("total variation of 1, at most 2, 3 positions a call: " + ", ".join(f"{e:.3f}" for e in errors))
    assert errors[0] < 2 * noise_floor(world, rows) and errors[0] + 0.03 < errors[1] < errors[2] - 0.03


def test_bounded_parallel_argmax_is_the_joint_argmax_where_the_bound_holds():
    """factor(1) and frechet(1): a set accepted together from nothing is the most likely one together."""
    checked = {"factor": 0, "frechet": 0}
    for seed in range(60):
        world = World(3, 3, seed=seed, sharpness=5.0)
        process = Absorbing(3, 4)
        for name, rule in (("factor", factor()), ("frechet", frechet())):
            draws = Draws.of(0, 1)
            canvas = Canvas.blank(process, torch.tensor([0]), 3, draws)
            sampler = Sampler(Oracle(world, process, canvas), process, Decoding(rule))
            next(sampler.steps(canvas, None, draws))
            where = (~canvas.open[0]).nonzero()[:, 0].tolist()
            if len(where) < 2:
                continue
            checked[name] += 1
            codes = (world.texts[:, where] * 3 ** torch.arange(len(where))).sum(-1)
            joint = torch.zeros(3 ** len(where)).double().index_add_(0, codes, world.joint)
            taken = (canvas.tokens[0, where] * 3 ** torch.arange(len(where))).sum()
            assert int(joint.argmax()) == int(taken), (name, seed)
    print(f"worlds with more than one accepted in the first call: {checked}")
    assert checked["frechet"] > checked["factor"] >= 10


@pytest.mark.parametrize("noise", ["uniform", "hybrid"])
def test_diffusion_gemma_finds_likely_texts_under_uniform_noise(noise):
    """Its output is an argmax canvas, so not the joint law: the texts are likelier than the law's own, on average."""
    world = World(3, 3, seed=6, sharpness=3.0)
    process = Uniform(range(3), 4) if noise == "uniform" else Hybrid(3, range(3), 4, 0.5)
    counts, calls = sample(world, process, POLICIES["diffusion-gemma"](), 400)
    share = counts / counts.sum()
    got, own = float((share * world.joint).sum()), float((world.joint**2).sum())
    print(f"{noise}: mean probability of a text {got:.3f}, of the law's {own:.3f}; {calls:.1f} calls of 48")
    assert got > own and calls < 48


def mean_likelihood(decoding, noise, level=None):
    """Mean probability of the text that greedy decoding ends with, over 40 worlds."""
    total = 0.0
    for seed in range(40):
        world = World(3, 4, seed=seed, sharpness=3.0)
        counts, _ = sample(world, noise, decoding, 1, level=level)
        total += float(world.joint[counts.argmax()]) / 40
    return total


def test_wino_takes_back_what_a_wide_draft_got_wrong():
    """Argmaxes accepted together contradict each other; what shadows do not confirm is decided again, in context."""
    wide = fixed_steps()  # two a call
    draft, wino, one = (
        mean_likelihood(Decoding(wide, renoise=renoise, num_steps=steps), Absorbing(3, 4))
        for renoise, steps in ((never(), 2), (unconfirmed(0.9), 8), (never(), 4))
    )
    print(f"mean probability of the text: draft {draft:.3f}, WINO {wino:.3f}, one position a call {one:.3f}")
    assert wino > draft


def test_token_editing_repairs_what_was_accepted_too_early():
    """A denoiser that doubts what it sees overwrites tokens accepted together, and the text gets likelier."""
    noise = Hybrid(3, range(3), 4, 0.5)
    plain = mean_likelihood(Decoding(above(0.0)), noise, level=0.3)
    edited = mean_likelihood(Decoding(above(0.0) | changed_mind(0.4), stop=edits_settled(8)), noise, level=0.3)
    print(f"mean probability of the text: accepted in one call {plain:.3f}, then edited {edited:.3f}")
    assert edited > plain


# -- ReMDM keeps the marginals --------------------------------------------------------------------------------------


class Told:
    """The denoiser of the kernel q(z_s | z_t, x): it knows the clean text."""

    def __init__(self, clean, vocab):
        self.law = torch.nn.functional.one_hot(clean, vocab).double().clamp(min=1e-300).log()

    def denoise(self, tokens, positions, valid, cache):
        return self.law.clone()


def _published(canvas, hidden, alpha_t, alpha_s):
    visible = canvas.editable & ~hidden
    share = torch.where(visible, (-canvas.confidence.nan_to_num(1.0)).exp(), 0.0)
    return (
        ((1 - alpha_s) / alpha_t.clamp(min=1e-12)).clamp(max=1) * share / share.sum(-1, keepdim=True).clamp(min=1e-12)
    )


REMASKING = {
    "cap": (capped(0.3), None),
    "rescale": (rescaled(0.5), None),
    "conf": (least_confident(), None),
    "loop": (while_held(0.1), Hold()),
    "conf as published": (Remasking("published", _published), None),
}
COSINE = Schedule.cosine()


def drift(name, schedule, told, rows=6000, steps=12):
    """Largest deviation, in standard errors, of the visible share and of every token's marginal from the forward process."""
    remasking, levels = REMASKING[name]
    world, process = World(3, 3, seed=4), Absorbing(3, 4, schedule)
    clean = world.texts[torch.multinomial(world.joint, rows, True, generator=torch.Generator().manual_seed(0))]
    draws = Draws.of(5, rows)
    canvas = Canvas.blank(process, torch.zeros(rows, dtype=torch.int64), 3, draws)
    denoiser = Told(clean, 4) if told else Oracle(world, process, canvas)
    decoding = pair(remasking, levels, schedule, steps)
    generator = torch.Generator().manual_seed(1)
    share, token, signed, remasked = 0.0, 0.0, 0.0, 0
    before = canvas.open
    truth = torch.nn.functional.one_hot(world.texts, 3).double()  # [X, L, V]
    for step in Sampler(denoiser, process, decoding).steps(canvas, None, draws):
        visible = (~canvas.open).double()
        alpha = float(schedule.alpha(canvas.level[:1]))
        error = float(visible.mean(-1).std()) / rows**0.5
        if error > 0:
            off = (float(visible.mean()) - alpha) / error
            share, signed = max(share, abs(off)), min(signed, off)
        law = alpha * (world.joint[:, None, None] * truth).sum(0)  # [L, V]
        seen = torch.stack([(canvas.tokens == v).double().mean(0) for v in range(3)], -1)
        token = max(
            token, float(((seen - law) / (law * (1 - law) / rows).sqrt().clamp(min=1e-3 / rows**0.5)).abs().max())
        )
        remasked += int((canvas.open & ~before).sum())
        before = canvas.open
        if told:  # confidences that differ, as a network's do
            fresh = torch.rand(canvas.tokens.shape, generator=generator, dtype=torch.float64)
            canvas.confidence = torch.where(canvas.accepted_at == step.number, fresh, canvas.confidence)
    assert remasked > 0
    return share, token, signed


@pytest.mark.parametrize("schedule", [Schedule.linear(), COSINE], ids=lambda s: s.name)
@pytest.mark.parametrize("name", ["cap", "rescale", "conf", "loop"])
def test_remdm_keeps_the_marginals_of_the_forward_process(name, schedule):
    """Of the kernel given the text: how much is masked and every token's marginal, at every level, for any sigma."""
    share, token, _ = drift(name, schedule, told=True)
    print(f"{name}, {schedule.name}: visible share off by {share:.1f} standard errors at most, a token by {token:.1f}")
    assert share < 4 and token < 4.5


@pytest.mark.parametrize("name", ["cap", "rescale", "conf", "loop"])
def test_remdm_with_the_exact_denoiser_keeps_the_masked_share(name):
    share, token, _ = drift(name, Schedule.linear(), told=False)
    print(f"{name}: visible share off by {share:.1f} standard errors at most, a token by {token:.1f}")
    assert share < 4


def test_remdm_conf_as_published_masks_more_than_the_forward_process():
    """The reason for our two terms: with sigma 0 at hidden places the visible share falls behind."""
    _, _, signed = drift("conf as published", Schedule.linear(), told=True)
    print(f"as published, the visible share falls {-signed:.0f} standard errors behind")
    assert signed < -20
