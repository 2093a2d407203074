"""Every policy's rules on hand-made numbers, its steps through the loop, and the shadow pass against one shadow at a time."""

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
from test_sampler import MASK, MODEL, PROCESSES, PROMPTS, V, canvas, diffuse, proposal, tiny

from mezzotint.draws import Draws
from mezzotint.model.visibility import CANVAS, CLEAN, SHADOW, Places, with_shadows
from mezzotint.noise import Absorbing, Schedule, Uniform
from mezzotint.sampler.canvas import ACCEPTED, GIVEN, OPEN, OVERWRITTEN, Canvas
from mezzotint.sampler.decoding import (
    POLICIES,
    Decoding,
    Hold,
    LinearTemperature,
    above,
    all_accepted,
    by_chance,
    by_confidence,
    by_entropy,
    by_margin,
    capped,
    changed_mind,
    dream,
    edits_settled,
    entropy_bound,
    entropy_bound_everywhere,
    everything,
    factor,
    fixed_steps,
    frechet,
    klass,
    last_step,
    least_confident,
    left_to_right,
    mean_entropy,
    origin,
    policy_table,
    remdm,
    rescaled,
    stable,
    the_others,
    the_rest,
    top,
    unconfirmed,
    while_held,
)
from mezzotint.sampler.loop import Sampler


def chosen(rule, p, c, s=0.5, step=0):
    return rule(p, c, torch.tensor([s], dtype=torch.float64), Draws.of(0).at(step=step))[0].int().tolist()


def row(values):
    return torch.tensor([values], dtype=torch.float64)


class Script:
    """A denoiser that says, call by call, the probabilities it was given: a list of `[C, V]`, the last one for ever."""

    def __init__(self, *laws):
        self.laws, self.calls, self.seen = laws, 0, []

    def denoise(self, tokens, positions, valid, cache):
        law = self.laws[min(self.calls, len(self.laws) - 1)]
        self.calls += 1
        self.seen.append(tokens.clone())
        return torch.tensor([law], dtype=torch.float64).clamp(min=1e-300).log().expand(len(tokens), -1, -1).clone()


def run(denoiser, decoding, length, process=None, seed=0):
    process = process or Absorbing(3, 4)
    draws = Draws.of(seed)
    made = Canvas.blank(process, torch.tensor([0]), length, draws)
    return list(Sampler(denoiser, process, decoding).steps(made, None, draws)), made


# -- accept ---------------------------------------------------------------------------------------------------------


def test_factor_and_frechet_take_the_largest_count_that_their_line_allows():
    c = canvas([OPEN] * 4 + [GIVEN])
    p = proposal([0.8, 0.99, 0.7, 0.75, 1.0])  # (n + 1)(1 - c_n) for n = 1..4: 0.02 0.6 1.0 1.5
    assert chosen(factor(), p, c) == [1, 1, 0, 0, 0]
    assert chosen(factor(1.01), p, c) == [1, 1, 0, 1, 0]
    assert chosen(factor(0.01), p, c) == [0, 1, 0, 0, 0]  # the first always
    # sum (1 - c_k) + (1 - c_n): 0.02 0.41 0.71 1.06
    assert chosen(frechet(), p, c) == [1, 1, 0, 1, 0]
    assert chosen(frechet(1.07), p, c) == [1, 1, 1, 1, 0]
    for f in (0.3, 1.0, 2.0):
        for confidence in (0.5, 0.75, 0.8, 0.9):
            same = proposal([confidence] * 4 + [1.0])
            assert chosen(factor(f), same, c) == chosen(frechet(f), same, c)
    # the last open position is a position like any other
    sure = proposal([0.99] * 5)
    for rule in (factor(), frechet()):
        assert chosen(rule, sure, c) == [1, 1, 1, 1, 0]
        assert chosen(rule, sure, canvas([2, 2, OPEN, 2, GIVEN])) == [0, 0, 1, 0, 0]
        assert chosen(rule, proposal([0.99, 0.99, 0.99, 0.1, 1.0]), c) == [1, 1, 1, 0, 0]
        assert chosen(rule, proposal([0.9, 0.9]), canvas([2, GIVEN])) == [0, 0]


def test_frechet_is_never_more_cautious_than_factor():
    generator = torch.Generator().manual_seed(0)
    c = canvas([OPEN] * 8)
    for _ in range(200):
        p = proposal((1 - 0.5 * torch.rand(8, generator=generator) ** 2).tolist())
        few, many = chosen(factor(), p, c), chosen(frechet(), p, c)
        assert all(a <= b for a, b in zip(few, many, strict=True))


def test_scores_order_positions_by_confidence_margin_entropy_and_chance():
    c = canvas([OPEN] * 3)
    p = proposal([0.5, 0.6, 0.4], entropy=[0.9, 0.8, 0.1])._replace(margin=row([0.45, 0.2, 0.1]))
    s = 0.7  # floor(3 * 0.7) = 2 stay
    assert chosen(top(), p, c, s) == [0, 1, 0]
    assert chosen(top(score=by_margin()), p, c, s) == [1, 0, 0]
    assert chosen(top(score=by_entropy()), p, c, s) == [0, 0, 1]
    draws = Draws.of(0, 3000)
    wide = Canvas.blank(Absorbing(MASK, V), torch.zeros(3000, dtype=torch.int64), 3, draws)
    flat = proposal([0.0] * 3)
    first = top(score=by_chance())(flat, wide, torch.full((3000,), s).double(), draws)
    assert (first.sum(-1) == 1).all() and (first.double().mean(0) - 1 / 3).abs().max() < 0.04


@pytest.mark.parametrize(("length", "steps"), [(8, 3), (8, 8), (5, 8), (7, 2), (9, 4), (6, 1)])
def test_fixed_steps_accept_lladas_numbers(length, steps):
    law = torch.rand(length, 4, generator=torch.Generator().manual_seed(1)).tolist()
    for score in (by_confidence(), by_chance()):
        frames, _ = run(Script(law), Decoding(accept=fixed_steps(score), num_steps=steps), length)
        want = [length // steps + (n < length % steps) for n in range(steps)]
        got = [int((f.canvas.accepted_at == f.number).sum()) for f in frames]
        assert got == [n for n in want if n]


@pytest.mark.parametrize("score", [by_confidence(), by_margin(), by_entropy()], ids=lambda s: s.name)
def test_dream_accepts_floor_of_its_share_and_all_at_the_end(score):
    length, steps, eps = 16, 12, 1e-3
    law = torch.rand(length, 4, generator=torch.Generator().manual_seed(1)).tolist()
    frames, made = run(Script(law), Decoding(accept=dream(score, eps), num_steps=steps), length)
    line = torch.linspace(1, eps, steps + 1, dtype=torch.float64).tolist()
    left = length
    for n, frame in enumerate(frames):
        want = left if n == steps - 1 else int(left * (1 - line[n + 1] / line[n]))
        left -= want
        assert int((made.accepted_at == n).sum()) == want, n
        assert frame.number == n
    assert left == 0 and len(frames) == steps


def test_origin_accepts_at_the_rate_of_the_level():
    draws = Draws.of(0, 4000)
    c = Canvas.blank(Absorbing(MASK, V), torch.zeros(4000, dtype=torch.int64), 3, draws)
    c.level = torch.full((4000,), 0.5).double()
    for s in (0.4, 0.0):
        where = origin()(proposal([0.1] * 3), c, torch.full((4000,), s).double(), draws)
        share = 1.0 if s == 0 else 1 - (1e-3 + 0.999 * s) / (1e-3 + 0.999 * 0.5)
        assert abs(float(where.double().mean()) - share) < 0.02


def test_klass_wants_confidence_and_a_calm_history_else_the_best():
    c = canvas([OPEN, OPEN, OPEN, GIVEN])
    calm, wild = row([0.001, 0.001, 0.5, 0.0]), row([0.001, 0.02, 0.001, 0.0])
    p = proposal([0.7, 0.9, 0.8, 1.0])
    now = p._replace(kl=calm, previous=p._replace(kl=calm))
    assert chosen(klass(), now, c) == [1, 1, 0, 0]
    assert chosen(klass(threshold=0.75), now, c) == [0, 1, 0, 0]
    assert chosen(klass(), p._replace(kl=calm, previous=p._replace(kl=wild)), c) == [1, 0, 0, 0]
    assert chosen(klass(history=1), p._replace(kl=wild), c) == [1, 0, 1, 0]
    assert chosen(klass(), p._replace(kl=calm), c) == [0, 1, 0, 0]  # no history yet: the best
    assert chosen(klass(0.95), now, c) == [0, 1, 0, 0]


def test_the_kl_is_to_the_step_before():
    first, second = [[0.5, 0.25, 0.25, 0], [0.9, 0.1, 0, 0]], [[0.25, 0.5, 0.25, 0], [0.9, 0.1, 0, 0]]
    frames, _ = run(Script(first, second), Decoding(accept=klass(1.0), num_steps=4), 2)
    assert frames[0].proposal.kl.isinf().all()
    want = 0.25 * torch.tensor(0.5).log() + 0.5 * torch.tensor(2.0).log()
    assert torch.allclose(frames[1].proposal.kl, torch.tensor([[float(want), 0.0]]).double(), atol=1e-6)


# -- token editing --------------------------------------------------------------------------------------------------


def test_changed_mind_overwrites_only_accepted_tokens_that_differ():
    c = canvas([OPEN, ACCEPTED, ACCEPTED, GIVEN, OVERWRITTEN])
    c.tokens = torch.tensor([[MASK, 1, 2, 3, 4]])
    p = proposal([0.9, 0.9, 0.9, 0.9, 0.4], argmax=[7, 7, 2, 7, 7])
    assert chosen(changed_mind(0.5), p, c) == [0, 1, 0, 0, 0]
    assert chosen(changed_mind(0.3), p, c) == [0, 1, 0, 0, 1]
    assert chosen(above(0.95) | changed_mind(0.5), p, c) == [1, 1, 0, 0, 0]  # fallback and edit together


def peak(*tokens, p=0.9):
    return [[p if v == token else (1 - p) / 2 if v < 3 else 0 for v in range(4)] for token in tokens]


def test_editing_overwrites_in_place_and_stops_when_nothing_changes():
    decoding = POLICIES["editing"]()
    unsure = [*peak(0), *peak(1, p=0.4)]
    frames, made = run(Script(unsure, peak(2, 1), peak(2, 1)), decoding, 2)
    assert [f.number for f in frames] == [0, 1, 2]  # accept 0; accept 1 and edit 0 -> 2; nothing changes
    assert made.tokens.tolist() == [[2, 1]] and made.status.tolist() == [[OVERWRITTEN, ACCEPTED]]


@pytest.mark.parametrize("post_steps", [0, 1, 3])
def test_edit_only_steps_are_counted(post_steps):
    """A model that changes its mind for ever is stopped after `post_steps` steps that began with nothing open."""
    flip = [peak(n % 2, n % 2) for n in range(20)]
    decoding = Decoding(accept=above(0.5) | changed_mind(0.5), stop=edits_settled(post_steps), num_steps=20)
    frames, _ = run(Script(*flip), decoding, 2)
    assert len(frames) == 1 + post_steps


# -- DiffusionGemma -------------------------------------------------------------------------------------------------


def test_entropy_bound_subtracts_the_largest_and_counts_everywhere_if_told():
    c = canvas([OPEN, ACCEPTED, OPEN, GIVEN])
    p = proposal([0.5] * 4, entropy=[0.08, 0.05, 0.08, 0.0])
    assert chosen(entropy_bound(0.1), p, c) == [1, 0, 1, 0]  # 0.16 - 0.08: a plain sum would take one
    assert chosen(entropy_bound_everywhere(0.1), p, c) == [1, 1, 0, 0]  # 0.21 - 0.08 > 0.1
    assert chosen(entropy_bound_everywhere(0.2), p, c) == [1, 1, 1, 0]
    assert chosen(entropy_bound(0.0), proposal([0.5] * 4, entropy=[2.0, 0, 3.0, 0]), c) == [1, 0, 0, 0]


def test_the_others_are_what_this_step_has_not_accepted():
    c = canvas([OPEN, ACCEPTED, OPEN, GIVEN, ACCEPTED])
    c.accepted_at = torch.tensor([[-1, 0, -1, -1, 1]])
    c.accept(c.tokens, torch.tensor([[True, False, False, False, False]]), torch.ones(1, 5).double(), 2)
    assert chosen(the_others(), proposal([0.5] * 5), c, step=2) == [0, 1, 1, 0, 1]
    assert chosen(everything(), proposal([0.5] * 5), c) == [1, 1, 1, 0, 1]
    assert chosen(the_rest(), proposal([0.5] * 5), c) == [0, 0, 1, 0, 0]


def test_diffusion_gemma_cools_renoises_stops_when_sure_and_returns_the_argmax_canvas():
    heat = LinearTemperature(0.4, 0.8)
    levels = torch.tensor([1.0, 0.5, 1 / 48]).double()
    assert torch.allclose(heat(levels), torch.tensor([0.8, 0.6, 0.4 + 0.4 / 48]).double())
    process = Uniform(range(4), 4)
    half = [[0.4, 0.3, 0.3, 0], [0.3, 0.4, 0.3, 0], [1, 0, 0, 0]]
    frames, made = run(Script(half), POLICIES["diffusion-gemma"](), 3, process)
    assert len(frames) == 48  # never sure
    assert made.tokens.tolist() == [[0, 1, 0]]  # the argmax canvas, whatever was drawn last
    assert any(f.proposal.tokens.tolist() != [[0, 1, 0]] for f in frames)
    for f in frames[:-1]:
        assert int((f.canvas.status != GIVEN).sum()) == 3
    script = Script(half)
    Sampler(script, process, POLICIES["diffusion-gemma"]()).run(
        Canvas.blank(process, torch.tensor([0]), 3, Draws.of(1)), None, Draws.of(1)
    )
    seen = torch.cat(script.seen)
    assert (seen[1:, 2] == 0).all()  # entropy 0: accepted at every step
    assert seen[1:, 0].unique().tolist() == [0, 1, 2]  # the next certain one: accepted, and drawn again every time
    assert len(seen[:, 1].unique()) == 4  # never accepted: noise, token 3 (p = 0) too
    # entropies are taken at the temperature: at 0.4..0.8 this law is sure enough, at 1 it is not
    sharp = [[0.997, 0.003, 0, 0]] * 3
    frames, _ = run(Script(sharp), POLICIES["diffusion-gemma"](), 3, process)
    entropy = [float(f.proposal.entropy.mean()) for f in frames]
    assert 2 < len(frames) < 48 and entropy[-1] < 0.005 <= entropy[-2] and entropy == sorted(entropy, reverse=True)
    assert -(0.997 * torch.tensor(0.997).log() + 0.003 * torch.tensor(0.003).log()) > 0.005


def test_stable_counts_its_steps():
    a, b = proposal([0.5], argmax=[1]), proposal([0.5], argmax=[2])
    c = canvas([OPEN])

    def stops(rule, p):
        return bool(rule(p, c, row([0.5])[0], Draws.of(0))[0])

    assert stops(stable(2), a._replace(previous=a._replace(previous=a)))
    assert not stops(stable(2), a._replace(previous=a._replace(previous=b)))
    assert not stops(stable(2), a._replace(previous=a))
    assert not stops(stable(1), a._replace(previous=b._replace(previous=a)))


# -- ReMDM ----------------------------------------------------------------------------------------------------------


def test_remdm_rates_are_the_papers():
    c = canvas([OPEN, ACCEPTED, ACCEPTED, GIVEN, ACCEPTED])
    c.confidence = row([float("nan"), 0.2, 0.8, 1.0, 0.8])
    t, s = torch.tensor([[0.8]]).double(), torch.tensor([[0.9]]).double()  # alphas; the largest sigma is 0.1 / 0.8
    assert float(capped(0.05).of(c, c.open, t, s)) == 0.05
    assert float(capped(0.5).of(c, c.open, t, s)) == pytest.approx(0.125)
    assert float(rescaled(0.4).of(c, c.open, t, s)) == pytest.approx(0.05)
    assert float(while_held(0.02).of(c, c.open, t, t)) == 0.02 and float(while_held(0.02).of(c, c.open, t, s)) == 0
    rates = least_confident().of(c, c.open, t, s)[0]
    share = torch.softmax(-torch.tensor([0.2, 0.8, 0.8]).double(), 0)
    assert torch.allclose(rates[[1, 2, 4]], 0.125 * 3 / 4 * share) and float(rates[0]) == pytest.approx(0.125 / 4)
    assert rates[1] > rates[2] == rates[4]
    zero = torch.zeros(1, 1).double()
    assert float(capped(1.0).of(c, c.open, zero, s)) == 1.0  # alpha_t = 0: no limit but 1


def test_hold_waits_at_its_level():
    levels = Hold(0.55, 0.05, 0.9)(Schedule.linear(), 100)
    assert levels[0] == 1 and levels[-1] == 0 and (levels.diff() <= 1e-12).all()
    assert (levels == levels[50]).sum() >= 49 and float(levels[50]) == pytest.approx(0.1)
    assert float(levels[0] - levels[1]) == pytest.approx(0.9 / 45)
    with pytest.raises(ValueError, match=r"t_off 0\.6"):
        Hold(0.55, 0.6)
    bent = Hold()(Schedule.of(lambda t: (1 - t) ** 3, lambda t: -3 * (1 - t) ** 2), 20)
    assert bent[0] == 1 and bent[-1] == 0


# -- WINO and the shadow pass ---------------------------------------------------------------------------------------


def test_unconfirmed_takes_the_least_confirmed_and_fewer_than_accepted():
    c = canvas([ACCEPTED, ACCEPTED, ACCEPTED, GIVEN, OPEN, OPEN, OPEN])
    shadow = row([0.3, 0.2, 0.95, 0.0, 0.0, 0.0, 0.0])
    p = proposal([0.9] * 7)._replace(shadow=shadow)
    for count, want in ((0, []), (1, []), (2, [1]), (3, [0, 1])):
        here = dataclasses.replace(c)
        here.accept(c.tokens, torch.arange(7)[None] >= 7 - count, torch.ones(1, 7).double(), 4)
        got = chosen(unconfirmed(0.9), p, here, step=4)
        assert [i for i in range(7) if got[i]] == want
        assert chosen(unconfirmed(0.9), p, here, s=0.0, step=4) == [0] * 7


def one_shadow_table(count, hidden, cached):
    """Who sees whom for `[canvas, one shadow about canvas index `hidden`]` after `cached` clean positions, by hand."""
    table = torch.ones(count + 1, cached + count + 1, dtype=torch.bool)
    table[:count, cached + count] = False
    table[count, cached + hidden] = False
    return table


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_shadow_pass_equals_one_shadow_at_a_time(layers):
    model = tiny(3, layers).double()  # rounding apart, the two are the same sum
    cache = model.new_cache(2, 40)
    prompts = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
    model.read(prompts, torch.tensor([4, 2]), cache)
    positions = cache.lengths[:, None] + torch.arange(6)
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(1, MASK, (2, 6), generator=generator)
    tokens[:, [1, 4]] = MASK
    valid = torch.ones_like(tokens).bool()
    masks = torch.full_like(tokens, MASK)
    plain = model.denoise(tokens, positions, valid, cache)
    main, shadow = model.denoise_with_shadow(tokens, positions, valid, cache, masks)
    assert torch.allclose(main, plain, atol=1e-9)  # shadows are seen by nobody
    leak = []
    for b in range(2):
        single = model.new_cache(1, 40)
        model.read(prompts[b : b + 1, : [4, 2][b]], torch.tensor([[4, 2][b]]), single)
        for i in range(6):
            at = positions[b : b + 1]
            places = Places.of(torch.cat((at, at[:, i : i + 1]), 1), torch.tensor([[CANVAS] * 6 + [SHADOW]]))
            cached = int(single.lengths[0])
            dense = with_shadows().dense(places, single.places(places))[0]
            assert torch.equal(dense, one_shadow_table(6, i, cached))
            ids = torch.cat((tokens[b : b + 1], torch.tensor([[MASK]])), 1)
            slow = model(ids, places, with_shadows(), single).logits[0, 6]
            assert torch.allclose(shadow[b, i], slow, atol=1e-9)
            masked = tokens[b : b + 1].clone()
            masked[0, i] = MASK
            truth = model.denoise(masked, at, valid[:1], single)[0, i]
            leak.append(float((truth.softmax(-1) - slow.softmax(-1)).abs().sum() / 2))
            assert abs(float(truth.abs().max())) > 0.1
    print(f"{layers} layers: total variation of a shadow from masking the position, mean {sum(leak) / len(leak):.4f}")
    assert max(leak) < 1e-5 if layers == 1 else max(leak) > 1e-4  # only in one layer can nothing come back


def test_a_shifted_checkpoints_shadow_does_not_see_what_it_speaks_about():
    model = tiny(3, 1)
    model.shift = 1
    cache = model.new_cache(1, 40)
    model.read(torch.tensor([[1, 2, 3]]), torch.tensor([3]), cache)
    positions, valid = torch.arange(3, 8)[None], torch.ones(1, 5).bool()
    tokens = torch.tensor([[4, 5, 6, 7, 8]])
    masks = torch.full_like(tokens, MASK)
    main, shadow = model.denoise_with_shadow(tokens, positions, valid, cache, masks)
    assert torch.allclose(main, model.denoise(tokens, positions, valid, cache), atol=1e-5)
    for i in range(5):
        other = tokens.clone()
        other[0, i] = 30
        changed, again = model.denoise_with_shadow(other, positions, valid, cache, masks)
        assert torch.allclose(again[0, i], shadow[0, i], atol=1e-5)
        assert i == 0 or not torch.allclose(changed[0, i], main[0, i], atol=1e-3)
        assert not any(torch.allclose(again[0, j], shadow[0, j], atol=1e-5) for j in range(1, 5) if j != i)


def test_shadows_are_padded_like_their_canvas():
    cache = MODEL.new_cache(2, 40)
    MODEL.read(torch.tensor([[1, 2, 3], [5, 0, 0]]), torch.tensor([3, 1]), cache)
    positions = cache.lengths[:, None] + torch.arange(4)
    tokens = torch.tensor([[4, 5, 6, 7], [8, 9, 20, 20]])
    valid = torch.tensor([[True] * 4, [True, True, False, False]])
    masks = torch.full_like(tokens, MASK)
    _, shadow = MODEL.denoise_with_shadow(tokens, positions, valid, cache, masks)
    tokens[1, 2:] = 33
    _, again = MODEL.denoise_with_shadow(tokens, positions, valid, cache, masks)
    assert torch.equal(shadow[0], again[0]) and torch.equal(shadow[1, :2], again[1, :2])


def test_no_clean_or_canvas_place_sees_a_shadow():
    role = torch.tensor([[CLEAN, CLEAN, CANVAS, CANVAS, SHADOW, SHADOW]])
    places = Places.of(torch.tensor([[0, 1, 2, 3, 2, 3]]), role)
    assert with_shadows().dense(places, places)[0].int().tolist() == [
        [1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 0, 1, 1, 0], [1, 1, 1, 0, 0, 1]
    ]  # fmt: skip


def test_wino_makes_progress_every_step_and_pays_for_its_shadows():
    seen = 0
    wide = Decoding(fixed_steps(), unconfirmed(0.9), num_steps=6)
    for seed in range(3):
        draws = Draws.of([seed])
        cache = MODEL.new_cache(1, 80)
        MODEL.read(torch.tensor([PROMPTS[2]]), torch.tensor([6]), cache)
        made = Canvas.blank(PROCESSES["absorbing"], cache.lengths, 16, draws)
        left = 16
        for step in Sampler(MODEL, PROCESSES["absorbing"], wide).steps(made, cache, draws):
            now = int(made.open.sum())
            assert now < left and step.positions == 32
            accepted = int((made.accepted_at == step.number).sum())
            seen += left - accepted < now
            left = now
    assert seen  # and something was taken back on the way


def test_a_denoiser_without_a_shadow_pass_is_refused():
    with pytest.raises(ValueError, match=r"unconfirmed.* needs a shadow pass, which Script does not have"):
        Sampler(Script(peak(0)), Absorbing(3, 4), POLICIES["wino"]())


# -- what a proposal holds ------------------------------------------------------------------------------------------


def test_only_what_the_rules_need_is_computed():
    law = torch.rand(4, 4, generator=torch.Generator().manual_seed(1)).tolist()
    optional = {"entropy", "margin", "kl", "shadow"}
    for name, policy in POLICIES.items():
        decoding = policy()
        assert decoding.needs <= optional | {"score"}, name  # scores make the step and are not kept
        if "shadow" in decoding.needs:
            continue
        frames, _ = run(Script(law), decoding, 4)
        for field in optional:
            assert (getattr(frames[-1].proposal, field) is not None) == (field in decoding.needs), (name, field)
        depth, p = 0, frames[-1].proposal
        while p.previous is not None:
            depth, p = depth + 1, p.previous
            assert p.probs is None
        assert depth <= decoding.memory
    joined = top(score=by_margin()) | (klass() & left_to_right())
    assert joined.needs == {"margin", "kl"} and joined.memory == 2


def test_entropy_and_margin_are_of_the_whole_distribution_not_of_the_drawn_token():
    law = [[0.5, 0.3, 0.2, 0.0], [0.05, 0.9, 0.05, 0.0]]
    for temperature in (0.0, 1.0):
        decoding = Decoding(top(score=by_margin()), stop=mean_entropy(0), num_steps=1, temperature=temperature)
        for seed in range(8):
            p = run(Script(law), decoding, 2, seed=seed)[0][0].proposal
            want = -torch.xlogy(torch.tensor(law).double(), torch.tensor(law).double()).sum(-1)
            assert torch.allclose(p.entropy, want[None], atol=1e-6)
            assert torch.allclose(p.margin, row([0.2, 0.85]), atol=1e-6)
            assert torch.allclose(p.confidence, torch.tensor(law).double()[[0, 1], p.tokens[0]][None], atol=1e-6)


@pytest.mark.parametrize("name", POLICIES)
def test_temperature_and_seed_are_honoured(name):
    """Asked to sample, every policy does, and by its seed alone."""
    law = [[0.5, 0.5, 0.0, 0.0]] * 8
    decoding = dataclasses.replace(POLICIES[name](), temperature=1.0, num_steps=8)

    class WithShadow(Script):
        def denoise_with_shadow(self, tokens, positions, valid, cache, masks):
            return self.denoise(tokens, positions, valid, cache), self.denoise(tokens, positions, valid, cache)

    texts = [run(WithShadow(law), decoding, 8, seed=seed)[1].tokens.tolist() for seed in (1, 2, 3, 1)]
    assert texts[0] == texts[3]
    assert texts[0] != texts[1] or texts[1] != texts[2] or decoding.settle.name == "everything"
    assert all(t < 2 for text in texts for t in text[0])


def test_every_policy_has_a_row_in_the_docs_and_a_line():
    page = (Path(__file__).parents[2] / "docs/concepts/sampling.md").read_text(encoding="utf-8")
    assert policy_table() in page
    for policy in POLICIES.values():
        assert isinstance(policy(), Decoding) and policy.accepts in policy.says and policy.source in policy.says
    assert POLICIES["remdm-cap"]().stop.name == last_step().name != all_accepted().name


def test_edits_and_renoising_happen_on_a_real_network():
    """The rules that take back do so on random weights too, and never touch a lock."""
    for name, noise in (("editing", "uniform"), ("wino", "absorbing"), ("remdm-loop", "absorbing")):
        changed = 0
        decoding = POLICIES[name]()
        if name == "editing":
            decoding = dataclasses.replace(decoding, accept=above(0.02) | changed_mind(0.02))
        if name == "wino":
            decoding = dataclasses.replace(decoding, accept=fixed_steps(), num_steps=4)
        for seed in range(3):
            frames = diffuse(PROCESSES[noise], decoding, PROMPTS[:1], [seed], forced=[{2: 33}])[0].frames
            steps = [f for f in frames if f.kind == "denoise"]
            for a, b in itertools.pairwise(steps):
                if a.block == b.block:
                    changed += sum(x != OPEN and t != u for x, t, u in zip(a.status, a.tokens, b.tokens, strict=True))
        assert changed, name


def test_bad_settings_are_named():
    for make, problem in (
        (lambda: factor(0), "f is 0; it must be above 0"), (lambda: frechet(-1), "f is -1"),
        (lambda: klass(1.5), "threshold is 1.5"), (lambda: klass(kl=0), "kl is 0"), (lambda: klass(history=0), "history is 0"),
        (lambda: dream(eps=2), "eps is 2"), (lambda: changed_mind(-0.1), "threshold is -0.1"), (lambda: stable(0), "steps is 0"),
        (lambda: edits_settled(-1), "post_steps is -1"), (lambda: remdm(capped(2.0)), "eta is 2.0"),
        (lambda: LinearTemperature(0.0, 1.0), "low must be above 0"), (lambda: LinearTemperature(0.8, 0.4), "at least low"),
        (lambda: Hold(alpha_on=1.0), "alpha_on is 1.0"), (lambda: entropy_bound_everywhere(-1), "entropy bound is -1"),
        (lambda: unconfirmed(7), "threshold is 7"), (lambda: Decoding(temperature=float("inf")), "temperature is inf"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=problem):
            make()
