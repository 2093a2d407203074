"""Several canvases at once: one in flight is block_frames; rows, seeds, locks and replays behave as with one."""

import dataclasses

import pytest
import torch

from mezzotint.draws import Draws
from mezzotint.engine.request import Request
from mezzotint.model.config import ModelConfig
from mezzotint.model.denoiser import Denoiser
from mezzotint.noise import Absorbing, Hybrid, Uniform
from mezzotint.sampler.blocks import block_frames
from mezzotint.sampler.canvas import GIVEN, OPEN
from mezzotint.sampler.decoding import (
    Decoding,
    above,
    ancestral,
    at_rate,
    below,
    entropy_bound,
    left_to_right,
    mean_entropy,
    stable,
    the_rest,
    top,
)
from mezzotint.sampler.loop import Sampler
from mezzotint.sampler.pipeline import Pipeline, pipeline_frames
from mezzotint.sampler.trace import Trace

V, MASK, STOP, LENGTH = 41, 40, 38, 6
CONFIG = ModelConfig(V, 32, 2, 4, 2, 8, 48, 96)
PROMPTS = [[1, 2, 3], [5], [7, 8, 9, 10, 11, 12], [3, 3], [20, 1, 6, 2], [30] * 9, [11, 4]]
LOCKS = [{0: 33, 9: 34, 10: STOP, **dict.fromkeys(range(12, 18), 7)} if row % 2 else {} for row in range(7)]
PROCESSES = {
    "absorbing": Absorbing(MASK, V),
    "uniform": Uniform(range(1, MASK), V),
    "hybrid": Hybrid(MASK, range(1, MASK), V, 0.3),
}
DECODINGS = {
    "threshold": Decoding(accept=above(0.9)),
    "entropy": Decoding(accept=entropy_bound(0.5)),
    "left to right": Decoding(accept=left_to_right()),
    "sampled": Decoding(accept=above(0.5), temperature=1.0),
    "ancestral": Decoding(accept=ancestral(), num_steps=8, temperature=1.0),
    "renoising": Decoding(accept=top(), renoise=below(0.3), temperature=0.8, num_steps=8),
    "at rate": Decoding(accept=top(), renoise=at_rate(0.3), temperature=0.8, num_steps=8),
    "the rest": Decoding(entropy_bound(1.0), the_rest(), stable() & mean_entropy(0.5), num_steps=8),
}
CASES = [*zip(DECODINGS, [*PROCESSES] * 3, strict=False), ("threshold", "hybrid"), ("ancestral", "absorbing")]


def load(model, seed=0, scale=0.35):
    torch.manual_seed(seed)
    model.requires_grad_(False)
    return model.load([(n, torch.randn_like(s) * scale + ("norm" in n)) for n, s in model.slots().items()])


MODELS = {shift: load(Denoiser(CONFIG, shift)) for shift in (0, 1)}


def traced(frames, rows):
    traces = [Trace() for _ in range(rows)]
    for frame in frames:
        traces[frame.row].add(frame)
    return traces


def run(decoding, noise="absorbing", blocks=3, prompts=PROMPTS, seeds=None, forced=None, model=MODELS[0], **settings):
    """blocks None: `block_frames`."""
    sampler = Sampler(model, PROCESSES[noise], dataclasses.replace(decoding, canvas_length=LENGTH), (0, MASK))
    draws = Draws.of(list(range(len(prompts))) if seeds is None else seeds)
    common = (sampler, model, prompts, settings.pop("max_tokens", 26), draws, forced, frozenset({STOP}))
    if blocks is None:
        return traced(block_frames(*common), len(prompts))
    return traced(pipeline_frames(*common, Pipeline(blocks, **settings)), len(prompts))


@pytest.mark.parametrize(("policy", "noise"), CASES)
def test_one_block_in_flight_is_block_frames_exactly(policy, noise):
    for shift, model in MODELS.items():
        forced = LOCKS if shift else None
        want = run(DECODINGS[policy], noise, None, forced=forced, model=model)
        got = run(DECODINGS[policy], noise, 1, forced=forced, model=model)
        assert [t.frames for t in got] == [t.frames for t in want]
    assert any(len({f.block for f in t.frames}) > 2 for t in want)


@pytest.mark.parametrize(("policy", "noise"), CASES)
def test_batches_change_nothing_locks_hold_and_traces_replay(policy, noise):
    settings = {"add_at": 0.3, "activate_at": 0.6, "cautious": 0.5}
    together = run(DECODINGS[policy], noise, forced=LOCKS, **settings)
    for row, trace in enumerate(together):
        alone = run(DECODINGS[policy], noise, 3, [PROMPTS[row]], [row], [LOCKS[row]], **settings)[0]
        assert [dataclasses.replace(f, row=row) for f in alone.frames] == trace.frames
        text = trace.replay()
        assert MASK not in text and (len(text) == 26 or text[-1] == STOP)
        assert all(text[n] == token for n, token in LOCKS[row].items() if n < len(text))
        for frame in trace.frames:
            for n, token in LOCKS[row].items():
                at = n + len(PROMPTS[row]) - frame.start
                if 0 <= at < len(frame.tokens):
                    assert frame.tokens[at] == token and frame.status[at] == GIVEN
            assert frame.positions == len(frame.tokens) or not frame.calls or frame.kind == "read"
        widths = {len(f.tokens) for f in trace.frames if f.kind == "denoise"}
        assert max(widths) <= 3 * LENGTH
    if policy in ("threshold", "entropy", "left to right", "sampled"):  # those that decide before their last step
        assert any(len(f.tokens) > LENGTH for t in together for f in t.frames if f.kind == "denoise")


class Knows(Denoiser):
    """A network that knows the text and is sure, in every block, of the two leftmost masked positions, else unsure."""

    def denoise(self, tokens, positions, valid, cache, condition=None, feedback=None):
        logits = torch.zeros(*tokens.shape, V)
        self.seen.append(tokens[0, valid[0]].tolist())
        for at in valid[0].nonzero()[:, 0].tolist():
            n = int(positions[0, at]) - self.origin
            block = [m for m in range(at + 1) if (n - (at - m)) // LENGTH == n // LENGTH]
            rank = sum(int(tokens[0, m] == MASK) for m in block)  # masks of this block up to here, itself included
            logits[0, at, self.text[n]] = 20.0 if rank <= 2 else 3.0  # 3.0: probability about 1/3
        return logits


def known(blocks, **settings):
    model = load(Knows(CONFIG))
    model.text, model.origin, model.seen = [1 + n % 30 for n in range(30)], 3, []
    decoding = settings.pop("decoding", DECODINGS["threshold"])
    trace = run(decoding, "absorbing", blocks, PROMPTS[:1], model=model, max_tokens=30, **settings)[0]
    assert trace.replay() == model.text
    denoised = [f for f in trace.frames if f.kind == "denoise"]
    assert len(denoised) == len(model.seen)
    return trace, denoised, model.seen


def test_blocks_in_flight_save_calls_and_never_rush():
    calls = {blocks: known(blocks)[0].num_calls for blocks in (1, 2, 5)}
    assert calls[1] == 5 * 3 + 4  # three steps a block of six, and four commits that a later block reads
    assert calls[1] > calls[2] > calls[5]
    # block b + 1 is begun after b's first step: block 1 takes steps 1-3, block n is decided at step n + 2
    _, frames, _ = known(5)
    assert [len(f.tokens) for f in frames] == [6, 12, 18, 18, 18, 12, 6]


def test_a_block_is_begun_and_activated_when_its_left_neighbour_says_so():
    decoding = Decoding(accept=left_to_right(), num_steps=32)  # one forced a step; sure of two in each block

    def decided(frames):
        """Of each call's result, how many positions of each block in flight are decided."""
        return [
            [sum(s != OPEN for s in f.status[at : at + LENGTH]) for at in range(0, len(f.status), LENGTH)]
            for f in frames
        ]

    _, frames, _ = known(2, decoding=decoding, add_at=0.5, activate_at=1.0, cautious=0.9)
    assert decided(frames)[:6] == [
        [1],
        [2],
        [3],
        [4, 2],
        [5, 4],
        [6, 6],
    ]  # begun at 3 of 6; cautious takes all it is sure of
    _, frames, _ = known(2, decoding=decoding, add_at=0.5, activate_at=1.0, cautious=1.0)
    assert decided(frames)[:8] == [
        [1],
        [2],
        [3],
        [4, 0],
        [5, 0],
        [6, 0],
        [1],
        [2],
    ]  # sure of nothing, forced to nothing
    _, frames, _ = known(2, decoding=decoding, add_at=0.5, activate_at=0.5, cautious=1.0)
    assert decided(frames)[:7] == [
        [1],
        [2],
        [3],
        [4, 1],
        [5, 2],
        [6, 3],
        [4, 1],
    ]  # active at once: the policy forces one
    scheduled = Decoding(accept=top(), num_steps=LENGTH)  # one a step from level 1 down: a cautious block's level waits
    _, frames, _ = known(2, decoding=scheduled, add_at=0.5, activate_at=1.0, cautious=1.0)
    assert decided(frames)[3:9] == [[4, 0], [5, 0], [6, 0], [1], [2], [3]]
    _, frames, _ = known(3, decoding=decoding, add_at=0.0, activate_at=1.0, cautious=1.0)
    assert decided(frames)[0] == [1, 0, 0]


def test_later_blocks_are_seen_as_they_stand():
    """The one call of a step reads every block in flight: what the last frame showed, and the new block's noise."""
    trace, frames, seen = known(3)
    for before, after, tokens in zip(frames, frames[1:], seen[1:], strict=False):
        shift = after.start - before.start
        overlap = before.tokens[shift:]
        assert tokens[: len(overlap)] == overlap
        assert set(tokens[len(overlap) :]) <= {MASK}
    assert trace.num_positions == sum(map(len, seen)) + sum(f.positions for f in trace.frames if f.kind == "commit")


def test_nothing_is_begun_after_an_end_of_text():
    model = load(Knows(CONFIG))
    model.text, model.origin, model.seen = [STOP if n == 1 else 1 + n % 30 for n in range(30)], 3, []
    trace = run(DECODINGS["threshold"], "absorbing", 5, PROMPTS[:1], model=model, max_tokens=30)[0]
    assert trace.replay() == [1, STOP]
    assert {len(tokens) for tokens in model.seen} == {LENGTH} and trace.frames[-1].calls == 0


def test_bad_settings_are_named():
    for make, problem in (
        (lambda: Pipeline(0), "blocks is 0"),
        (lambda: Pipeline(add_at=1.5), "add_at is 1.5"),
        (lambda: Pipeline(activate_at=-0.1), "activate_at is -0.1"),
        (lambda: Pipeline(cautious=2), "cautious is 2"),
        (lambda: run(DECODINGS["threshold"], prompts=[[]]), "a prompt has no tokens"),
        (lambda: Request("a", blocks_in_flight=0), "blocks_in_flight is 0"),
    ):
        with pytest.raises(ValueError, match=problem):
            make()
