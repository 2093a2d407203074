"""Self-speculation on tiny networks: the text is AR's, each fused canvas is the separate draft pass, good drafts save calls."""

import math

import pytest
import torch

from mezzotint.draws import Draws
from mezzotint.engine.request import Request
from mezzotint.model.adapter import AdapterConfig
from mezzotint.model.config import ModelConfig
from mezzotint.model.denoiser import Denoiser
from mezzotint.model.visibility import CANVAS, CLEAN, Places, context_causal
from mezzotint.noise import Absorbing, Uniform
from mezzotint.sampler.canvas import OPEN
from mezzotint.sampler.speculate import SelfSpeculation
from mezzotint.sampler.trace import Trace
from mezzotint.sampler.verify import Verified, choose

V, MASK, STOP = 41, 40, 39
CONFIG = ModelConfig(V, 32, 2, 4, 2, 8, 48, 96)
PROMPTS = [[1, 2, 3], [5], [7, 8, 9, 10, 11, 12], [3, 3], [20, 1, 6, 2], [30] * 9, [11, 4]]
PROCESSES = {"absorbing": Absorbing(MASK, V), "uniform": Uniform(range(1, MASK), V)}


def load(model, seed=0, scale=0.35):
    torch.manual_seed(seed)
    model.requires_grad_(False)
    return model.load([(n, torch.randn_like(s) * scale + ("norm" in n)) for n, s in model.slots().items()])


MODELS = {shift: load(Denoiser(CONFIG, shift)) for shift in (0, 1)}


def headed(shift=0):
    """The same weights with a draft head that has, as it were, learnt."""
    model = load(Denoiser(CONFIG, shift)).adapt(AdapterConfig(2, draft_head=8)).requires_grad_(False)
    g = torch.Generator().manual_seed(3)
    model.adapter.load([(n, torch.randn(t.shape, generator=g) * 0.3) for n, t in model.adapter.tensors().items()])
    return model


class Watched(Denoiser):
    """A network that notes what each of its calls was given and said, and how long its cache was."""

    def forward(self, tokens, places, visible, cache=None, want=None, condition=None, feedback=None):
        prediction = super().forward(tokens, places, visible, cache, want)
        self.notes.append((tokens, places, want, prediction.logits, cache.lengths.clone()))
        return prediction


class Recalls(Denoiser):
    """A network whose canvas pass knows the one text that its untouched causal pass will write, except where `wrong`."""

    def forward(self, tokens, places, visible, cache=None, want=None, condition=None, feedback=None):
        prediction = super().forward(tokens, places, visible, cache, want)
        for _, index in (places.role.gather(1, want) == CANVAS).nonzero().tolist():
            about = int(prediction.about[0, index])
            if about < len(self.text):
                prediction.logits[0, index] = 0.0
                prediction.logits[0, index, MASK - 1 if about in self.wrong else self.text[about]] = 50.0
        return prediction


def traced(run, prompts=PROMPTS, seeds=None, max_tokens=24, forced=None):
    traces = [Trace() for _ in prompts]
    for frame in run.frames(prompts, max_tokens, Draws.of(seeds or list(range(len(prompts)))), forced):
        traces[frame.row].add(frame)
    return [trace.replay() for trace in traces], traces


def speculative(model, length, outcomes="all", noise="absorbing", **settings):
    settings = {"stop_ids": frozenset({STOP}), "controls": (0, MASK), **settings}
    return SelfSpeculation(model, PROCESSES[noise], length, outcomes, **settings)


def plain(model, temperature=0.0, **settings):
    return Verified(model, None, 0, temperature, stop_ids=frozenset({STOP}), **settings)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("shift", [0, 1])
def test_fused_and_two_call_texts_are_ars(shift, temperature):
    model = MODELS[shift]
    ar, single = traced(plain(model, temperature))
    assert any(len(text) < 24 for text in ar) == any(text[-1] == STOP for text in ar)
    for noise in PROCESSES:
        for length in (1, 4, 9):
            for outcomes in ("all", "last", "none"):
                text, traces = traced(speculative(model, length, outcomes, noise, temperature=temperature))
                assert text == ar
                for trace, alone in zip(traces, single, strict=True):
                    assert trace.num_calls <= alone.num_calls
                    assert trace.num_tokens == alone.num_tokens


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("outcomes", ["all", "last", "none"])
def test_with_a_draft_head_the_text_is_ars_and_a_draft_is_chosen_token_by_token(outcomes, temperature):
    model = headed(shift=1)
    ar, _ = traced(plain(model, temperature))
    forced = [{3: 7, 4: 8} for _ in PROMPTS]
    assert traced(speculative(model, 5, outcomes, temperature=temperature))[0] == ar
    assert (
        traced(speculative(model, 5, outcomes, temperature=temperature), forced=forced)[0]
        == traced(plain(model, temperature), forced=forced)[0]
    )
    run, notes = speculative(model, 5, outcomes, temperature=temperature), []

    def noting(answers, said, states, places, lock, banned, draws):
        found = SelfSpeculation._in_order(run, answers, said, states, places, lock, banned, draws)
        tokens, _ = choose(found, places, temperature, draws, banned)
        for i, text in enumerate(answers.texts):
            before = [text[-1], text[-2] if len(text) > 1 else text[-1]]
            for j in range(said.shape[1]):
                alone = model.redraft(said[i, j : j + 1], states[i, j : j + 1], torch.tensor([before]))
                assert torch.allclose(alone[0], found[i, j], atol=1e-4)
                before = [int(tokens[i, j]), before[0]]
                notes.append(not torch.equal(found[i, j].argmax(), said[i, j].argmax()))
        return found

    object.__setattr__(run, "_in_order", noting)
    traced(run, max_tokens=10)
    assert any(notes)


@pytest.mark.parametrize("noise", PROCESSES)
@pytest.mark.parametrize("shift", [0, 1])
def test_each_fused_canvas_is_the_separate_draft_pass(shift, noise):
    """Every canvas of every call, right outcome or not, against a pass over it alone after a fresh causal read."""
    model, fresh = load(Watched(CONFIG, shift)).double(), load(Denoiser(CONFIG, shift)).double()
    model.notes = []
    forced = [{5: 33, 6: 34}, {}, {2: 35}]
    text, traces = traced(speculative(model, 4, noise=noise, stop_ids=frozenset()), PROMPTS[:3], forced=forced)
    outcomes, locks = set(), 0
    for step, (tokens, places, want, logits, cached) in enumerate(model.notes):
        running = [row for row in range(3) if len(traces[row].frames) > step]
        for i, row in enumerate(running):
            known = (PROMPTS[row] + text[row])[: cached[i]]
            clean = tokens[i, (places.role[i] == CLEAN) & places.valid[i]].tolist()
            on_canvas = (places.role[i] == CANVAS) & places.valid[i]
            for start in places.start[i, on_canvas].unique().tolist():
                index = (on_canvas & (places.start[i] == start)).nonzero()[:, 0]
                position, ids = places.position[i, index], tokens[i, index]
                assert position.tolist() == list(range(start, start + len(index)))
                before = (known + clean)[:start]
                cache = fresh.new_cache(1, 96)
                fresh.read(torch.tensor([before]), torch.tensor([start]), cache)
                canvas = Places.of(position[None], torch.full((1, len(index)), CANVAS))
                alone = fresh(ids[None], canvas, context_causal(), cache).logits[0]
                asked = [want[i].tolist().index(n) if n in want[i] else None for n in index.tolist()]
                assert None not in asked[1 - shift :] and (asked[0] is None) == (shift == 0)
                for row_of, at in zip(alone[1 - shift :], asked[1 - shift :], strict=True):
                    assert (logits[i, at] - row_of).abs().max() < 1e-9
                for offset, token in forced[row].items():  # what is locked stands on the canvas
                    at = position == offset + len(PROMPTS[row])
                    assert ids[at].tolist() == [token] * int(at.sum())
                    locks += int(at.sum())
                outcomes.add(start - len(known) - 1)
    assert outcomes >= {0, 1, 2, 3, 4} and locks


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("length", [1, 4, 9])
def test_a_network_that_drafts_well_needs_one_call_for_many_tokens(length, shift):
    model, prompt, total = load(Recalls(CONFIG, shift)), PROMPTS[2], 40
    settings = {"stop_ids": frozenset(), "banned": (0, MASK)}  # what a canvas may not draft, AR does not write
    ar, single = traced(Verified(MODELS[shift], **settings), [prompt], max_tokens=total)
    model.text, model.wrong = prompt + ar[0], ()
    assert single[0].num_calls == total - 1
    calls = {}
    for outcomes in ("all", "last", "none"):
        text, traces = traced(speculative(model, length, outcomes, **settings), [prompt], max_tokens=total)
        assert text == ar
        calls[outcomes] = traces[0].num_calls
    rounds = math.ceil((total - 1) / (length + 1))
    assert calls["all"] == calls["last"] == rounds and total / rounds > 1
    assert calls["none"] <= 2 * math.ceil((total - 1) / (length + 2)) < single[0].num_calls

    # a wrong draft token every 7 positions: all outcomes are prepared for it, the last one only is not
    model.wrong = set(range(0, 90, 7))
    for outcomes in ("all", "last"):
        text, traces = traced(speculative(model, length, outcomes, **settings), [prompt], max_tokens=total)
        assert text == ar
        calls[outcomes] = traces[0].num_calls
        accepted = traces[0].accepted_per_round
        assert 0 < accepted < length
    assert rounds < calls["all"] < calls["last"] <= total - 1


def test_frames_say_what_a_call_computed_and_the_cache_keeps_what_was_right():
    model = load(Watched(CONFIG))
    for outcomes in ("all", "last", "none"):
        model.notes = []
        text, traces = traced(speculative(model, 3, outcomes, stop_ids=frozenset()), PROMPTS[:1], max_tokens=20)
        frames = traces[0].frames
        assert len(frames) == len(model.notes) and [f.step for f in frames] == list(range(len(frames)))
        for frame, (tokens, places, _, _, cached) in zip(frames, model.notes, strict=True):
            assert frame.positions == int(places.valid.sum())
            assert frame.start == max(int(cached) + 1, 3)  # all but the seed is in the cache, whatever was rejected
            known = (PROMPTS[0] + text[0])[: int(cached) + 1]
            assert frame.kind == "read" or int(tokens[0, 0]) == known[-1]
            clean = int(((places.role == CLEAN) & places.valid).sum())
            assert frame.kind == ("read" if frame.step == 0 else "verify" if clean > 1 else "decode")
            canvases = len(places.start[(places.role == CANVAS) & places.valid].unique())
            room = 3 + 20 - frame.start
            if room > 8:
                some = 1 if clean == 1 or frame.step == 0 else {"all": clean, "last": 1, "none": 0}[outcomes]
                assert canvases == some
        assert traces[0].num_positions == sum(f.positions for f in frames[1:])


@pytest.mark.parametrize("outcomes", ["all", "last", "none"])
def test_batch_of_seven_equals_seven_of_one_and_locks_hold(outcomes):
    forced = [{2: 33, 3: STOP, 8: 0} if row % 2 else {} for row in range(7)]
    run = speculative(MODELS[0], 4, outcomes, "uniform", temperature=1.0)
    together, traces = traced(run, forced=forced)
    for row in range(7):
        alone, trace = traced(run, [PROMPTS[row]], [row], forced=[forced[row]])
        assert alone[0] == together[row]
        assert [(f.tokens, f.positions) for f in trace[0].frames] == [
            (f.tokens, f.positions) for f in traces[row].frames
        ]
        for offset, token in forced[row].items():
            assert offset >= len(together[row]) or together[row][offset] == token
        drafts = [t for f in traces[row].frames for t, s in zip(f.tokens, f.status, strict=True) if s == OPEN]
        assert MASK not in drafts and drafts.count(0) <= 8 * (0 in forced[row].values())
    assert together == traced(plain(MODELS[0], 1.0), forced=forced)[0]


@pytest.mark.parametrize("outcomes", ["all", "none"])
def test_the_speculative_rule_keeps_ars_law_with_canvas_drafts(outcomes):
    """All 64 texts of 3 tokens after one prompt: their frequencies against the network's own probabilities."""
    from scipy.stats import chisquare

    rows, size = 1500, 4
    model = Denoiser(ModelConfig(size, 16, 1, 2, 2, 8, 16, 16)).requires_grad_(False)
    torch.manual_seed(1)
    model.load([(n, torch.randn_like(s) * 0.5 + ("norm" in n)) for n, s in model.slots().items()])
    texts = torch.cartesian_prod(*[torch.arange(size)] * 3)
    ids = torch.cat((torch.full((len(texts), 1), 2), texts), 1)
    logits = model.read(ids, torch.full((len(ids),), 4), model.new_cache(len(ids), 8), every=True).logits.double()
    law = logits[:, :3].log_softmax(-1).gather(-1, texts[..., None])[..., 0].sum(-1).exp()
    run = SelfSpeculation(model, Uniform(size), 2, outcomes, 1.0, "speculative")
    counts = torch.zeros(len(texts))
    answers = [[] for _ in range(rows)]
    rejected = 0
    for frame in run.frames([[2]] * rows, 3, Draws.of(4, rows)):
        answers[frame.row] += frame.tokens[: frame.committed]
        rejected += frame.kind == "verify" and frame.committed == 1
    for a, b, c in answers:
        counts[a * 16 + b * 4 + c] += 1
    assert rejected > 50
    assert chisquare(counts, law.numpy() / law.sum().item() * rows).pvalue > 1e-3


def test_a_context_that_is_just_long_enough_suffices():
    text, _ = traced(speculative(MODELS[0], 9, stop_ids=frozenset()), [PROMPTS[2]], max_tokens=90)
    assert len(text[0]) == 90 and len(PROMPTS[2]) + 90 == CONFIG.max_length


def test_bad_settings_are_named():
    for make, problem in (
        (lambda: speculative(MODELS[0], 4, "some"), "outcomes is 'some'"),
        (lambda: speculative(MODELS[0], 0), "draft_length is 0"),
        (lambda: speculative(MODELS[0], 33), "at most 32"),
        (lambda: speculative(MODELS[0], 4, rule="hope"), "rule is 'hope'"),
        (lambda: traced(speculative(MODELS[0], 4), [[]]), "a prompt has no tokens"),
        (lambda: Request("a", draft="self", draft_length=33), "draft_length is 33; with draft 'self'"),
        (lambda: Request("a", draft="own"), "self, self-last, self-two-call"),
    ):
        with pytest.raises(ValueError, match=problem):
            make()
