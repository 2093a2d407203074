"""Invariants of the loop, lossless decoding and traces on tiny random networks."""

import dataclasses
import json

import pytest
import torch

from mezzotint.draws import Draws
from mezzotint.model.config import ModelConfig
from mezzotint.model.denoiser import Denoiser
from mezzotint.noise import Absorbing, Hybrid, Uniform
from mezzotint.sampler.blocks import block_frames
from mezzotint.sampler.canvas import GIVEN, OPEN, OVERWRITTEN, Canvas, Draft
from mezzotint.sampler.decoding import (
    POLICIES,
    Decoding,
    Proposal,
    above,
    ancestral,
    at_rate,
    below,
    entropy_bound,
    left_to_right,
    mean_entropy,
    never,
    stable,
    the_rest,
    top,
)
from mezzotint.sampler.loop import Sampler
from mezzotint.sampler.trace import Frame, Trace
from mezzotint.sampler.verify import EarlierText, GivenText, PreviousIterate, RandomTokens, SmallerModel, Verified

V, MASK = 41, 40


def tiny(seed=0, layers=2, scale=0.35):
    torch.manual_seed(seed)
    model = Denoiser(ModelConfig(V, 32, layers, 4, 2, 8, 48, 256)).requires_grad_(False)
    model.load([(n, torch.randn_like(s) * scale + ("norm" in n)) for n, s in model.slots().items()])
    return model


MODEL = tiny()
PROMPTS = [[1, 2, 3], [5], [7, 8, 9, 10, 11, 12], [3, 3], [20, 1, 6, 2], [30] * 9, [11, 4]]
PROCESSES = {
    "absorbing": Absorbing(MASK, V),
    "uniform": Uniform(range(1, MASK), V),
    "hybrid": Hybrid(MASK, range(1, MASK), V, 0.3),
}
DECODINGS = {
    **{name: dataclasses.replace(p(), num_steps=min(p().num_steps, 9)) for name, p in POLICIES.items()},  # of canvas 8
    "sampled": Decoding(accept=above(0.5), temperature=1.0),
    "renoising": Decoding(accept=top(), renoise=below(0.3), temperature=0.8, num_steps=12),
    "at rate": Decoding(accept=top(), renoise=at_rate(0.3), temperature=0.8, num_steps=12),
    "the rest": Decoding(
        accept=entropy_bound(1.0), renoise=the_rest(), stop=stable() & mean_entropy(0.5), num_steps=12
    ),
    "either": Decoding(accept=above(0.9) | left_to_right(2), stop=stable() | mean_entropy(0.1), num_steps=6),
}


def diffuse(process, decoding, prompts, seeds, max_tokens=20, forced=None):
    decoding = dataclasses.replace(decoding, canvas_length=8)
    sampler = Sampler(MODEL, process, decoding, banned=(0, MASK))
    traces = [Trace() for _ in prompts]
    for frame in block_frames(sampler, MODEL, prompts, max_tokens, Draws.of(seeds), forced, frozenset({39})):
        traces[frame.row].add(frame)
    return traces


@pytest.mark.parametrize("noise", PROCESSES)
@pytest.mark.parametrize("policy", DECODINGS)
def test_locked_positions_are_never_written_and_batches_change_nothing(policy, noise):
    forced = [
        {0: 33, 9: 34, 10: 39} if row % 2 else {} for row in range(7)
    ]  # 39 is the stop id: locked, it stops nothing
    seeds = list(range(7))
    together = diffuse(PROCESSES[noise], DECODINGS[policy], PROMPTS, seeds, forced=forced)
    for row, trace in enumerate(together):
        text = trace.replay()
        for offset, token in forced[row].items():
            if offset < len(text):
                assert text[offset] == token
        for frame in trace.frames:
            for offset, token in forced[row].items():
                at = offset + len(PROMPTS[row]) - frame.start
                if 0 <= at < len(frame.tokens):
                    assert frame.tokens[at] == token and frame.status[at] == GIVEN
        assert MASK not in text and 0 not in text
        assert len(text) == 20 or (text[-1] == 39)
        alone = diffuse(PROCESSES[noise], DECODINGS[policy], [PROMPTS[row]], [seeds[row]], forced=[forced[row]])[0]
        assert alone.replay() == text
        assert [f.tokens for f in alone.frames] == [f.tokens for f in trace.frames]
    again = diffuse(PROCESSES[noise], DECODINGS[policy], PROMPTS, seeds, forced=forced)
    assert [t.frames for t in again] == [t.frames for t in together]


def room(frame, trace, max_tokens=24):
    """Tokens that may be written behind the call's own."""
    return max_tokens - (frame.start - trace.frames[0].start) - 1


def decode(drafter, prompts, length=5, temperature=0.0, seeds=None, max_tokens=24, forced=None, rule="coupled"):
    run = Verified(MODEL, drafter, length if drafter else 0, temperature, rule, frozenset({39}))
    traces = [Trace() for _ in prompts]
    for frame in run.frames(prompts, max_tokens, Draws.of(seeds or [0] * len(prompts)), forced):
        traces[frame.row].add(frame)
    return [trace.replay() for trace in traces], traces


class Fewer(GivenText):
    """A given text of which each row gets another number of tokens, at times none."""

    def draft(self, texts, count, draws):
        counts = torch.tensor([len(text) % (count + 1) for text in texts])
        return super().draft(texts, count, draws)._replace(counts=counts)


SOURCES = {
    "random": lambda ar: RandomTokens(V),
    "previous": lambda ar: PreviousIterate(V),
    "right text": lambda ar: GivenText(ar[0], [len(p) for p in PROMPTS]),
    "other text": lambda ar: GivenText(list(range(30)), [len(p) for p in PROMPTS]),
    "other text, carefully": lambda ar: GivenText(list(range(30)), [len(p) for p in PROMPTS], careful=True),
    "right text, carefully": lambda ar: GivenText(ar[0], [len(p) for p in PROMPTS], careful=True),
    "earlier text": lambda ar: EarlierText(shortest=1),
    "fewer": lambda ar: Fewer(ar[0], [len(p) for p in PROMPTS]),
    "smaller": lambda ar: SmallerModel(tiny(1, 1), 200),
    "itself": lambda ar: SmallerModel(MODEL, 200),
}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("source", SOURCES)
def test_verified_equals_ar_for_every_draft_source(source, temperature):
    seeds = list(range(7))
    ar, plain = decode(None, PROMPTS, temperature=temperature, seeds=seeds)
    for length in (1, 4, 9):
        drafter = SOURCES[source](ar)
        if isinstance(drafter, SmallerModel):
            drafter.temperature = temperature
        text, traces = decode(drafter, PROMPTS, length, temperature, seeds)
        assert text == ar
        assert all(t.num_calls <= p.num_calls for t, p in zip(traces, plain, strict=True))
        if source == "fewer":  # what is not drafted is not computed
            assert all(
                f.positions == 1 + f.start % (length + 1) for t in traces for f in t.frames[1:] if room(f, t) > length
            )
    if source == "itself" and temperature == 0:
        assert traces[0].num_calls < plain[0].num_calls / 3


def test_a_careful_draft_is_short_where_the_text_is_another_and_long_where_it_is_copied():
    ar, plain = decode(None, PROMPTS[:1])
    ends, cost = [len(PROMPTS[0])], {}
    for name, given in (("right", ar[0]), ("wrong", list(range(30)))):
        for careful in (False, True):
            text, traces = decode(GivenText(given, ends, careful=careful), PROMPTS[:1], 8)
            assert text == ar
            cost[name, careful] = traces[0].num_calls, traces[0].num_positions
    assert cost["right", True] == cost["right", False]
    calls, positions = cost["wrong", True]
    assert calls <= plain[0].num_calls and positions < 2.5 * calls < cost["wrong", False][1]


def test_earlier_text_drafts_what_followed_the_longest_match_and_nothing_without_one():
    draws, lookup = Draws.of(0), EarlierText()
    text = [1, 2, 3, 9, 8, 2, 3, 7, 6, 1, 2, 3]

    def draft(text, count=8):
        found = lookup.draft([text], count, draws)
        return found.tokens[0, : int(found.counts[0])].tolist()

    assert draft(text) == [9, 8]  # behind 1 2 3, though 2 3 stands later too; two tokens at first
    lookup.observe(torch.zeros(1, 3), [3])  # both were right
    assert draft([*text, 9, 8, 2]) == [3, 7, 6, 1]  # so four now
    lookup.observe(torch.zeros(1, 5), [1])  # none was
    assert draft([*text, 9, 8, 2, 5]) == []
    assert draft([*text, 9, 8, 2, 5, 9, 8]) == [2]
    many = EarlierText()
    assert many.draft([[4, 5, 4, 5, 4, 5], [1, 2, 3]], 8, draws).counts.tolist() == [2, 0]
    assert many.draft([[4, 5, 4, 5, 4, 5, 4], [1, 2, 3, 1, 2]], 8, draws).tokens[:, :2].tolist() == [[5, 4], [3, 1]]
    many.keep([1])
    assert many.draft([[1, 2, 3, 1, 2, 3]], 8, draws).tokens[:, :2].tolist() == [[1, 2]]


def test_verified_batch_of_seven_equals_seven_of_one_and_locks_hold():
    forced = [{2: 33, 3: 39, 8: 35} if row % 2 else {} for row in range(7)]
    for drafter in (None, "previous"):
        make = (lambda: PreviousIterate(V)) if drafter else (lambda: None)
        text, _ = decode(make(), PROMPTS, forced=forced, temperature=1.0, seeds=list(range(7)))
        for row in range(7):
            alone, _traces = decode(make(), [PROMPTS[row]], forced=[forced[row]], temperature=1.0, seeds=[row])
            assert alone[0] == text[row]
            for offset, token in forced[row].items():
                assert offset >= len(text[row]) or text[row][offset] == token
    assert len({tuple(t) for t in text}) > 1


def test_repeated_prompts_with_one_seed_differ_by_choice_only():
    draws = Draws.of(3, 2)
    run = Verified(MODEL, None, 0, 1.0)
    rows = {0: [], 1: []}
    for frame in run.frames([[1, 2], [1, 2]], 16, draws):
        rows[frame.row] += frame.tokens[: frame.committed]
    assert rows[0] != rows[1]


def proposal(confidence, entropy=None, current=None, argmax=None):
    c = torch.tensor([confidence], dtype=torch.float64)
    e = c if entropy is None else torch.tensor([entropy], dtype=torch.float64)
    tokens = torch.zeros_like(c, dtype=torch.int64) if argmax is None else torch.tensor([argmax])
    return Proposal(tokens, tokens, c, e, c if current is None else torch.tensor([current]).double())


def canvas(status):
    made = Canvas.blank(Absorbing(MASK, V), torch.tensor([0]), len(status), Draws.of(0))
    made.status = torch.tensor([status])
    return made


def chosen(rule, p, c, s=0.5):
    return rule(p, c, torch.tensor([s], dtype=torch.float64), Draws.of(0))[0].int().tolist()


def test_each_rule_does_what_its_line_says():
    c = canvas([OPEN, OPEN, GIVEN, 2, OPEN])
    p = proposal([0.5, 0.95, 0.99, 0.99, 0.6], entropy=[0.3, 0.1, 0.0, 0.0, 0.25])
    assert chosen(above(0.9), p, c) == [0, 1, 0, 0, 0]
    assert chosen(above(0.55), p, c) == [0, 1, 0, 0, 1]
    assert chosen(above(1.0), p, c) == [0, 1, 0, 0, 0]  # one always passes
    assert chosen(left_to_right(2), p, c) == [1, 1, 0, 0, 0]
    assert chosen(top(), p, c, s=0.5) == [0, 1, 0, 0, 0]  # 4 editable, floor(4 / 2) stay open of 3
    assert chosen(top(), p, c, s=0.0) == [1, 1, 0, 0, 1]
    assert chosen(entropy_bound(0.1), p, c) == [0, 1, 0, 0, 1]  # .1 + .25 - .25 <= .1 < .1 + .25 + .3 - .3
    assert chosen(entropy_bound(0.0), p, c) == [0, 1, 0, 0, 0]
    assert chosen(entropy_bound(0.36), p, c) == [1, 1, 0, 0, 1]
    assert chosen(never(), p, c) == [0, 0, 0, 0, 0]
    assert chosen(the_rest(), p, c) == [1, 1, 0, 0, 1]
    doubt = proposal([0.5] * 5, current=[0.1, 0.1, 0.1, 0.1, 0.9])
    assert chosen(below(0.3), doubt, c) == [0, 0, 0, 1, 0] and chosen(below(0.3), doubt, c, s=0.0) == [0] * 5
    assert chosen(above(0.9) | left_to_right(), p, c) == [1, 1, 0, 0, 0]
    assert chosen(above(0.4) & left_to_right(), p, c) == [1, 0, 0, 0, 0]

    def stops(rule, p):
        return bool(rule(p, c, torch.tensor([0.5]).double(), Draws.of(0))[0])

    assert stops(mean_entropy(0.2), p) and not stops(mean_entropy(0.15), p)
    assert not stops(stable(), p)
    other = p._replace(argmax=p.argmax + 1)
    assert stops(stable(), p._replace(previous=p)) and not stops(stable(), p._replace(previous=other))


def test_a_stopped_row_is_never_written_again_and_adaptive_stop_saves_calls():
    decoding = Decoding(accept=above(0.0), num_steps=32)
    assert max(f.step for f in diffuse(PROCESSES["absorbing"], decoding, PROMPTS[:1], [0])[0].frames) == 0
    slow = diffuse(PROCESSES["absorbing"], Decoding(accept=left_to_right(), num_steps=32), PROMPTS[:1], [0])[0]
    assert slow.num_calls == 20 + 2  # 20 positions one by one, two commits that a later canvas reads


def test_a_draft_changes_only_what_it_may_and_level_zero_starts_clean():
    process = Absorbing(MASK, V)
    tokens = torch.randint(1, 39, (2, 10), generator=torch.Generator().manual_seed(0))
    editable = torch.arange(10).expand(2, -1) >= 4
    for level in (0.0, 0.4, 1.0):
        draft = Draft(tokens, editable, torch.tensor([level] * 2).double())
        made = Canvas.from_draft(draft, process, torch.tensor([0, 0]), Draws.of([0, 1]))
        assert (made.open & ~editable).sum() == 0
        assert torch.equal(made.tokens == MASK, made.open)
        assert made.open.sum() == {0.0: 0, 1.0: 12}.get(level, made.open.sum())
        cache = MODEL.new_cache(2, 40)
        done = Sampler(MODEL, process, Decoding(accept=top(), renoise=below(0.2))).run(made, cache, Draws.of([0, 1]))
        assert torch.equal(done.tokens[:, :4], tokens[:, :4]) and done.done().all()
    with pytest.raises(ValueError, match="draft level"):
        Draft(tokens, editable, torch.tensor([1.5, 0.0]))


def test_overwriting_is_told_apart_from_accepting():
    made = canvas([OPEN, 2, GIVEN])
    made.tokens = torch.tensor([[MASK, 5, 6]])
    every = torch.ones(1, 3).bool()
    made.accept(torch.tensor([[1, 7, 8]]), every, torch.ones(1, 3).double(), 4)
    assert made.tokens.tolist() == [[1, 7, 6]] and made.status.tolist() == [[2, OVERWRITTEN, GIVEN]]
    assert made.accepted_at.tolist() == [[4, 4, -1]]


def test_trace_saves_replays_and_counts(tmp_path):
    trace = diffuse(PROCESSES["absorbing"], DECODINGS["threshold"], PROMPTS[:1], [5])[0]
    trace.header = {"model": "tiny", "seed": 5, "prompt": "ü"}
    path = tmp_path / "trace.jsonl"
    trace.save(path)
    back = Trace.load(path)
    assert back == trace and back.replay() == trace.replay()
    assert back.num_calls == sum(f.calls for f in trace.frames) > 0
    assert back.tokens_per_call == len(back.replay()) / back.num_calls
    views = list(back.views())
    assert views[-1][1] == back.replay()
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("not json", "line 2"), ('{"kind": "x"}', "line 2"),
        (json.dumps(dataclasses.asdict(Frame("nap", 0, 0, 0, 0, [], [], 0, 0, 0))), "kind is 'nap'"),
        (json.dumps(dataclasses.asdict(Frame("verify", 0, 0, 0, 0, [1], [], 0, 0, 0))), "1 tokens but 0 status"),
        (json.dumps(dataclasses.asdict(Frame("verify", 0, 0, 0, 0, [1], [2], 2, 0, 0))), "committed is 2"),
        (json.dumps(dataclasses.asdict(Frame("verify", 0, 0, 0, 0, [1], [9], 0, 0, 0))), "status must lie"),
    ],
)  # fmt: skip
def test_a_broken_trace_is_named(tmp_path, line, problem):
    path = tmp_path / "t.jsonl"
    path.write_text('{"mezzotint_trace": 1}\n' + line + "\n")
    with pytest.raises(ValueError, match=problem):
        Trace.load(path)


def test_traces_of_other_kinds_of_file_are_refused(tmp_path):
    for data, problem in ((b"", "empty"), (b"\xff\xfe", "not UTF-8"), (b'{"a": 1}\n', "line 1"), (b"[]\n", "line 1")):
        path = tmp_path / "t"
        path.write_bytes(data)
        with pytest.raises(ValueError, match=problem):
            Trace.load(path)
    gap = Trace({}, [Frame("decode", 0, 0, 0, 5, [1], [2], 1, 1, 1), Frame("decode", 0, 0, 1, 9, [1], [2], 1, 1, 1)])
    with pytest.raises(ValueError, match="commits position 9, but 6 is next"):
        gap.replay()


def test_bad_settings_are_named():
    for make, problem in (
        (lambda: Decoding(num_steps=0), "num_steps is 0"), (lambda: Decoding(canvas_length=0), "canvas_length is 0"),
        (lambda: Decoding(temperature=-1), "temperature is -1"), (lambda: above(1.5), "threshold is 1.5"),
        (lambda: entropy_bound(-1), "entropy bound is -1"), (lambda: left_to_right(0), "count is 0"),
        (lambda: Verified(MODEL, rule="hope"), "rule is 'hope'"), (lambda: Verified(MODEL, draft_length=-1), "draft_length"),
        (lambda: list(Verified(MODEL).frames([[]], 4, Draws.of(0))), "a prompt has no tokens"),
        (lambda: diffuse(PROCESSES["absorbing"], Decoding(), [[]], [0]), "a prompt has no tokens"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=problem):
            make()


def test_ancestral_writes_the_posterior_until_the_last_level():
    for process in PROCESSES.values():
        trace = diffuse(process, Decoding(accept=ancestral(), num_steps=5, temperature=1.0), PROMPTS[:1], [1], 8)[0]
        assert [f.kind for f in trace.frames] == ["read"] + ["denoise"] * 5 + ["commit"]
