"""Sampling in the enumerated world: the loop reproduces the joint law where it should, and lossless decoding is AR's law."""

import pytest
import torch
from test_noise_oracle import processes
from world import World, chi_square

from mezzotint.draws import Draws
from mezzotint.noise import Absorbing
from mezzotint.sampler.canvas import Canvas
from mezzotint.sampler.decoding import Decoding, ancestral, left_to_right, top
from mezzotint.sampler.loop import Sampler
from mezzotint.sampler.verify import Drafted, PreviousIterate, RandomTokens, SmallerModel, Verified

ROWS = 20000


class CanvasOracle:
    """The exact denoiser of one world and process, as the loop calls it. The level is the cache: one number a row."""

    def __init__(self, world, process):
        self.world, self.process = world, process
        self.canvas = None

    def denoise(self, tokens, positions, valid, cache):
        codes = (tokens * self.world.vocab ** torch.arange(self.world.length)).sum(-1)
        unique, inverse = codes.unique(return_inverse=True)  # few canvases, many rows
        first = torch.zeros(len(unique), dtype=torch.int64).scatter_(0, inverse, torch.arange(len(codes)))
        law = self.world.predict(self.process, tokens[first], self.canvas.level[first])
        return law.clamp(min=1e-300).log()[inverse]


def texts(world, process, decoding, rows=ROWS, seed=0):
    draws = Draws.of(seed, rows)
    canvas = Canvas.blank(process, torch.zeros(rows, dtype=torch.int64), world.length, draws)
    oracle = CanvasOracle(world, process)
    oracle.canvas = canvas
    Sampler(oracle, process, decoding).run(canvas, None, draws)
    assert canvas.done().all()
    return torch.bincount(world.index(canvas.tokens), minlength=len(world.texts))


def distance(counts, law):
    return float((counts / counts.sum() - law).abs().sum() / 2)


@pytest.mark.parametrize("kind", range(4), ids=["absorbing", "uniform", "hybrid", "gidd"])
def test_ancestral_sampling_reproduces_the_joint_law(kind):
    world = World(3, 2, seed=5)
    counts = texts(world, processes(3)[kind], Decoding(accept=ancestral(), num_steps=200, temperature=1.0))
    print(f"total variation {distance(counts, world.joint):.4f}")
    assert chi_square(counts, world.joint) > 1e-3


def test_one_position_a_call_is_exact_and_more_are_not():
    world = World(3, 3, seed=6)
    process = Absorbing(3, 4)
    errors = []
    for count in (1, 2, 3):
        counts = texts(world, process, Decoding(accept=left_to_right(count), num_steps=3, temperature=1.0))
        errors.append(distance(counts, world.joint))
        if count == 1:
            assert chi_square(counts, world.joint) > 1e-3
    print("total variation at 1, 2, 3 positions a call: " + ", ".join(f"{e:.3f}" for e in errors))
    assert errors[0] < 0.02 < errors[1] and errors[2] > 0.1


def test_confidence_order_one_a_call_changes_the_law():
    """Greedy choice of positions with sampled tokens is not the joint law: printed, and detected."""
    world = World(3, 3, seed=6)
    counts = texts(world, Absorbing(3, 4), Decoding(accept=top(), num_steps=3, temperature=1.0))
    print(f"total variation by confidence {distance(counts, world.joint):.3f}")
    assert chi_square(counts, world.joint) < 1e-3


class CausalOracle:
    """AR conditionals of a world after a fixed first token (id 0 at position 0), read through a cache of plain lists."""

    def __init__(self, world, flatten=1.0):
        self.world, self.flatten = world, flatten
        self.laws = {}

    class Cache:
        def __init__(self, rows):
            self.texts = [[] for _ in range(rows)]

        @property
        def lengths(self):
            return torch.tensor([len(t) for t in self.texts])

        def truncate(self, lengths):
            self.texts = [t[:n] for t, n in zip(self.texts, lengths.tolist(), strict=True)]

        def fork(self, rows):
            new = CausalOracle.Cache(0)
            new.texts = [list(self.texts[int(r)]) for r in rows]
            return new

    def new_cache(self, rows, capacity):
        return self.Cache(rows)

    def law(self, text):
        key = tuple(text[1:])
        if key not in self.laws:
            if len(key) >= self.world.length:
                p = torch.ones(self.world.tokens, dtype=torch.float64) / self.world.tokens
            else:
                p = self.world.conditional(dict(enumerate(key)), len(key))
            self.laws[key] = p.clamp(min=1e-300).log() * self.flatten
        return self.laws[key]

    def read(self, tokens, counts, cache, every=False):
        out = torch.zeros(*tokens.shape, self.world.tokens, dtype=torch.float64)
        for row, (ids, n) in enumerate(zip(tokens.tolist(), counts.tolist(), strict=True)):
            for i in range(n):
                cache.texts[row].append(ids[i])
                out[row, i] = self.law(cache.texts[row])
        last = out[torch.arange(len(out)), (counts - 1).clamp(min=0)][:, None]
        return type("P", (), {"logits": out if every else last})


class DrawnDrafts(RandomTokens):
    """Independent draws from a fixed wrong law q, with q given: what a one-forward drafter hands over."""

    q = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)

    def draft(self, texts, count, draws):
        probs = self.q.expand(len(texts), count, 3)
        from mezzotint.draws import categorical
        from mezzotint.sampler.verify import positions_after

        return Drafted(categorical(probs, draws.uniform("draft", positions_after(texts, count))), probs)


def verified_counts(world, drafter, rule, rows=4000, length=2):
    model = CausalOracle(world)
    run = Verified(model, drafter, length if drafter else 0, 1.0, rule)
    answers = [[] for _ in range(rows)]
    for frame in run.frames([[0]] * rows, world.length, Draws.of(11, rows)):
        answers[frame.row] += frame.tokens[: frame.committed]
    return torch.bincount(world.index(torch.tensor(answers)), minlength=len(world.texts)), answers


@pytest.mark.parametrize("rule", ["coupled", "speculative"])
@pytest.mark.parametrize("source", ["random", "previous", "drawn", "smaller"])
def test_sampled_verification_has_the_law_of_ar(rule, source):
    world = World(3, 3, seed=8, mask=False)
    drafter = {
        "random": lambda: RandomTokens(3),
        "previous": lambda: PreviousIterate(3),
        "drawn": lambda: DrawnDrafts(3),
        "smaller": lambda: SmallerModel(CausalOracle(world, flatten=0.4), 10, 1.0),
    }[source]()
    counts, answers = verified_counts(world, drafter, rule)
    assert chi_square(counts, world.joint) > 1e-3
    if rule == "coupled":  # not only the law: the very text that ar writes with the same seed
        assert answers == verified_counts(world, None, rule)[1]


def test_speculative_acceptance_is_one_minus_total_variation():
    """Where p is known at the first drafted position, the kept share is sum min(p, q)."""
    world, rows = World(3, 2, seed=9, mask=False), 6000
    run = Verified(CausalOracle(world), DrawnDrafts(3), 1, 1.0, "speculative")
    kept = torch.zeros(rows)
    want = torch.zeros(rows)
    first = {}
    for frame in run.frames([[0]] * rows, 3, Draws.of(3, rows)):
        if frame.step == 0:
            first[frame.row] = frame.tokens[0]
        elif frame.step == 1:
            kept[frame.row] = frame.committed - 1
            p = world.conditional({0: first[frame.row]}, 1)
            want[frame.row] = float(torch.minimum(p, DrawnDrafts.q).sum())
    assert abs(float(kept.mean() - want.mean())) < 4 * 0.5 / rows**0.5
