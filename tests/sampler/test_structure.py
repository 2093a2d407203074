"""Structural steps: the canvas against the list-based reference, a scripted network that knows the target, and the guards."""

import random
from itertools import pairwise

import pytest
import torch

from mezzotint.alignment import DELETE, EXPAND, INSERT, KEEP, SLOT, apply, growth_cap, label_ids, labels
from mezzotint.draws import Draws
from mezzotint.model.config import ModelConfig
from mezzotint.model.denoiser import Denoiser
from mezzotint.noise import Absorbing
from mezzotint.sampler.canvas import GIVEN, OPEN, Canvas
from mezzotint.sampler.decoding import Decoding, above, ancestral, entropy_bound, left_to_right, top
from mezzotint.sampler.loop import Sampler
from mezzotint.sampler.structure import Restructuring, hunks, texts

V, END = 48, 43
CONTROL = {"MASK": 44, "DELETE": 45, "INSERT": 46, "EXPAND": 47}
MASK = CONTROL["MASK"]


def restructuring(denoiser, decoding=None, **settings):
    sampler = Sampler(denoiser, Absorbing(MASK, V), decoding or Decoding(accept=above(0.9)), (END, *CONTROL.values()))
    return Restructuring(sampler, CONTROL, **settings)


def opened(sources, **settings):
    return Canvas.of_texts(sources, END, MASK, **settings)


def written(canvas):
    """Every row's text without the end token, which must still be there."""
    assert all(text[-1] == END for text in texts(canvas))
    return [text[:-1] for text in texts(canvas)]


class Scripted:
    """Says `say(text)`, a list of ids, with the given confidence, for the text (SLOT where masked) of each row."""

    def __init__(self, say, confidence=0.99):
        self.say, self.logit = say, torch.tensor(confidence * (V - 1) / (1 - confidence)).log()

    def denoise(self, tokens, positions, valid, cache):
        logits = torch.zeros(*tokens.shape, V)
        for row in range(len(tokens)):
            text = [SLOT if t == MASK else t for t in tokens[row][valid[row]].tolist()]
            for i, said in enumerate(self.say(text, int(positions[row, 0]))):
                logits[row, i, said] = self.logit
        return logits


def knows(targets):
    """A network that says the labels of the row's target; rows are told apart by where they start."""

    def say(text, start):
        return label_ids(text[:-1], labels(text[:-1], targets[start]), END, CONTROL)

    return Scripted(say)


def random_texts(number, seed, longest=20):
    rng = random.Random(seed)
    return [[rng.randrange(40) for _ in range(rng.randint(1, longest))] for _ in range(number)]


def test_canvas_and_list_apply_the_same_labels(count):
    rng = random.Random(0)
    for trial in range(count(400)):
        sources = [[SLOT if rng.random() < 0.3 else x for x in t] for t in random_texts(5, trial)]
        locked = [[i for i, x in enumerate(t) if x != SLOT and rng.random() < 0.2] for t in sources]
        canvas = opened(sources, locked=locked, starts=torch.tensor([0, 3, 7, 1, 9]))
        ops = torch.tensor([[rng.choice([KEEP, DELETE, INSERT, EXPAND]) for _ in row] for row in canvas.tokens])
        most = torch.tensor([rng.randint(1, 40) for _ in sources])
        expected = []
        for row, text in enumerate(texts(canvas)):
            said = ops[row, : len(text)].tolist()
            for i, x in enumerate(text):
                fixed = i in locked[row] or i == len(text) - 1
                if (fixed and said[i] == DELETE) or (x != SLOT and said[i] == EXPAND):
                    said[i] = KEEP
            expected.append(apply(text, [*said, KEEP], int(most[row])))
        alone = [canvas.rows(torch.tensor([row])) for row in range(5)]
        before = canvas.tokens.clone()
        moved = canvas.structure(ops, MASK, most)
        assert texts(canvas) == expected
        for row, (text, start) in enumerate(zip(expected, [0, 3, 7, 1, 9], strict=True)):
            n = len(text)
            assert canvas.positions[row, :n].tolist() == list(range(start, start + n))
            origin = canvas.origin[row, :n]
            assert origin[origin >= 0].diff().gt(0).all() and torch.equal(origin, moved[row, :n])
            assert torch.equal(canvas.tokens[row, :n][origin >= 0], before[row][origin[origin >= 0]])
            assert canvas.status[row, :n][origin < 0].eq(OPEN).all() and not canvas.valid[row, n:].any()
            kept = [i for i, s in zip(origin.tolist(), canvas.status[row, :n].tolist(), strict=True) if s == GIVEN]
            assert kept == [*locked[row], len(sources[row])]
            alone[row].structure(ops[row : row + 1], MASK, most[row : row + 1])
            for name in ("tokens", "status", "positions", "origin", "accepted_at"):
                assert torch.equal(getattr(alone[row], name)[0, :n], getattr(canvas, name)[row, :n]), name


@pytest.mark.parametrize(
    "accept", [above(0.9), entropy_bound(0.5), left_to_right(3), top()], ids=lambda rule: rule.name
)
def test_a_network_that_knows_the_target_gets_there(accept, count):
    for trial in range(count(40)):
        sources, targets = random_texts(4, trial), random_texts(4, 1000 + trial)
        sources[0] = [SLOT]  # an empty hole of unknown length
        sources[1] = [*targets[1][:3], SLOT, *targets[1][9:]]
        sources[2] = list(targets[2])
        starts = torch.tensor([0, 1, 2, 3])
        run = restructuring(knows(targets), Decoding(accept=accept), max_steps=200)
        canvas = opened(sources, starts=starts)
        steps = []
        for step in run.steps(canvas, None, Draws.of(0, 4)):
            structural = ((step.labels < KEEP) & step.running[:, None]).any(-1)
            steps.append((structural, step.running))
        assert written(canvas) == targets and canvas.done().all()
        for (one, _), (two, _) in pairwise(steps):
            assert not (one & two).any()
        assert steps[0][1][2] and not steps[1][1][2]  # nothing to change: one call says so
        for row in range(4):
            alone = opened([sources[row]], starts=starts[row : row + 1])
            run.run(alone, None, Draws.of(0, 4).rows(torch.tensor([row])))
            assert written(alone) == [targets[row]]
        for changes, source, target in zip(hunks(canvas, sources), sources, targets, strict=True):
            text = list(source)
            for hunk in reversed(changes):
                assert text[hunk.start : hunk.end] == hunk.before != hunk.after
                text[hunk.start : hunk.end] = hunk.after
            assert text == target


def test_calls_are_those_of_the_alternating_label_rounds():
    hole = {k: opened([[1, SLOT, 2]]) for k in (1, 2, 5, 16)}
    for k, canvas in hole.items():
        run = restructuring(knows([[1, *range(3, 3 + k), 2]]))
        steps = [int((step.labels == EXPAND).sum()) for step in run.steps(canvas, None, Draws.of(0))]
        expected = {1: [0], 2: [1, 0], 5: [1, 0, 2, 0, 1, 0], 16: [1, 0, 2, 0, 4, 0, 8, 0]}[k]
        assert steps == [*expected, 0] + [0] * (k > 1)  # fresh slots are asked first, then filled; the last call agrees


MODEL_CONFIG = ModelConfig(V, 32, 2, 4, 2, 8, 48, 256)


class Loud:
    """A tiny random network made sure of itself, so that it deletes, inserts and expands at every turn."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = Denoiser(MODEL_CONFIG).requires_grad_(False)
        self.model.load([(n, torch.randn_like(s) * 0.35 + ("norm" in n)) for n, s in self.model.slots().items()])

    def cache(self, rows):
        cache = self.model.new_cache(rows, 2 + growth_cap(21))
        self.model.read(torch.tensor([[1, 2]] * rows), torch.tensor([2] * rows), cache)
        return cache

    def denoise(self, tokens, positions, valid, cache):
        logits = self.model.denoise(tokens, positions, valid, cache) * 3
        logits[..., list(CONTROL.values())] += 8
        return logits


LOUD = Loud()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_any_network_ends_within_cap_and_budget_and_leaves_locks_alone(temperature):
    sources = [[SLOT if x < 8 else x for x in text] for text in random_texts(6, 7)]
    locked = [[i for i, x in enumerate(text) if x != SLOT][::3] for text in sources]
    starts = torch.full((6,), 2)
    seen = set()
    for settings in ({}, {"max_changes": 5}, {"max_changes": 0}, {"max_steps": 7}, {"max_steps": 1}):
        run = restructuring(LOUD, Decoding(accept=above(0.9), temperature=temperature), **settings)
        canvas = opened(sources, locked=locked, starts=starts)
        changes, calls, open_before = torch.zeros(6), torch.zeros(6), canvas.open
        for step in run.steps(canvas, LOUD.cache(6), Draws.of(list(range(6)))):
            applied = step.labels.clone()
            applied[(applied >= 0) & open_before] = KEEP  # filling is not counted
            last = bool(step.canvas.done().all()) and step.number == run.max_steps - 1
            changes += 0 if last else (applied != KEEP).sum(-1)
            calls += step.running
            open_before = canvas.open
            seen |= set(applied.unique().tolist()) & {DELETE, INSERT, EXPAND}
            assert all(len(t) <= growth_cap(len(s) + 1) for t, s in zip(texts(canvas), sources, strict=True))
        assert (changes <= run.max_changes).all() and (calls <= run.max_steps).all() and canvas.done().all()
        for row, text in enumerate(written(canvas)):
            assert not {END, *CONTROL.values()} & set(text)
            given = canvas.origin[row][(canvas.status[row] == GIVEN) & canvas.valid[row]].tolist()
            assert given == [*locked[row], len(sources[row])]
            assert [text[canvas.origin[row].tolist().index(i)] for i in locked[row]] == [
                sources[row][i] for i in locked[row]
            ]
            alone = opened([sources[row]], locked=[locked[row]], starts=starts[:1])
            run.run(alone, LOUD.cache(1), Draws.of([row]))
            assert written(alone) == [text]
    assert seen == {DELETE, INSERT, EXPAND}


def test_growth_ends_at_the_cap():
    def more(text, start):
        return [CONTROL["EXPAND"] if x == SLOT else CONTROL["INSERT"] for x in text]

    canvas = restructuring(Scripted(more)).run(opened([[1, 2, 3]]), None, Draws.of(0))
    assert len(texts(canvas)[0]) == growth_cap(4) and canvas.done().all()


def swaps(text, start):
    return [{5: 6, 6: 5}.get(x, x) for x in text]


def opens_and_deletes(text, start):
    """Never content: writes 7 in front of the 5, then takes it out again."""
    if SLOT in text:
        return [7 if x == SLOT else x for x in text]
    return [CONTROL["DELETE"] if x == 7 else CONTROL["INSERT"] if x == 5 and 7 not in text else x for x in text]


@pytest.mark.parametrize(
    ("say", "ends"), [(swaps, [[1, 6, 2], [6, 6, 2], [5, 5, 2]]), (opens_and_deletes, [[1, 7, 5, 2]])]
)
def test_a_network_that_goes_in_circles_is_stopped(say, ends, monkeypatch):
    run = restructuring(Scripted(say))
    sources = [[1, 5, 2], [5, 6, 2]][: len(ends)]  # of two changes equally weak, either may be dropped
    canvas = opened(sources)
    steps = list(run.steps(canvas, None, Draws.of(0, len(sources))))
    assert len(steps) < 8 and canvas.done().all()
    assert all(text in ends or text == source for text, source in zip(written(canvas), sources, strict=True))
    monkeypatch.setattr(Restructuring, "_break_loops", lambda self, canvas, labels, *rest: labels)
    assert len(list(run.steps(opened(sources), None, Draws.of(0, len(sources))))) >= run.max_steps - 1


def test_the_weakest_change_of_a_circle_is_dropped_first():
    class Both(Scripted):
        def denoise(self, tokens, positions, valid, cache):
            logits = super().denoise(tokens, positions, valid, cache)
            logits[:, 0] *= 0.9  # less sure of the first
            return logits

    canvas = opened([[5, 6]])
    been = [written(step.canvas)[0] for step in restructuring(Both(swaps, 0.999)).steps(canvas, None, Draws.of(0))]
    # after 6 5 comes 5 6, which was there: its first, weaker change is dropped. After 5 5 no way out is left.
    assert been == [[6, 5], [6, 6], [5, 5], [5, 5]] and written(canvas) == [[5, 5]]


def test_control_tokens_in_a_draft_are_scrubbed():
    canvas = opened([[1, CONTROL["DELETE"], MASK, 2]])
    restructuring(Scripted(lambda text, start: [3] * len(text), 0.6)).run(canvas, None, Draws.of(0))
    assert written(canvas) == [[1, 3, 3, 2]]


def test_bad_settings_are_named():
    script = Scripted(swaps)
    for make, problem in (
        (lambda: restructuring(script, threshold=0.3), "threshold is 0.3"),
        (lambda: restructuring(script, overwrite=1.2), "overwrite is 1.2"),
        (lambda: restructuring(script, max_steps=0), "max_steps is 0"),
        (lambda: restructuring(script, max_changes=-1), "max_changes is -1"),
        (lambda: restructuring(script, Decoding(accept=ancestral())), "accept rule ancestral"),
        (lambda: Restructuring(restructuring(script).sampler, {"DELETE": 45}), "control_ids lack EXPAND, INSERT, MASK"),
        (lambda: Restructuring(restructuring(script).sampler, {**CONTROL, "MASK": 1}), "the noise masks with id 44"),
        (lambda: next(restructuring(script).steps(
            Canvas.blank(Absorbing(MASK, V), torch.tensor([0]), 3, Draws.of(0)), None, Draws.of(0))), "no given position"),
        (lambda: opened([[1, SLOT]], locked=[[0, 1, 2]]), r"locked positions \[1, 2\] of text 0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=problem):
            make()


def test_nothing_opens_before_a_closed_position():
    canvas = opened([[1, 2, 3]], locked=[[1, 2]], closed=[[2, 3]])
    canvas.structure(torch.tensor([[INSERT, INSERT, INSERT, INSERT]]), MASK)
    assert texts(canvas) == [[SLOT, 1, SLOT, 2, 3, END]]
    canvas.structure(torch.tensor([[KEEP, KEEP, KEEP, INSERT, INSERT, INSERT]]), MASK)
    assert texts(canvas) == [[SLOT, 1, SLOT, SLOT, 2, 3, END]]
    says_insert = Scripted(lambda text, start: [CONTROL["INSERT"]] * len(text))
    canvas = opened([[1, 2]], closed=[[0, 1, 2]])
    assert written(restructuring(says_insert).run(canvas, None, Draws.of(0))) == [[1, 2]]


def test_without_control_tokens_only_tokens_change_and_no_row_outgrows_its_length():
    swapping = Restructuring(restructuring(Scripted(lambda text, start: [7] * len(text))).sampler, {})
    assert written(swapping.run(opened([[1, SLOT]]), None, Draws.of(0))) == [[7, 7]]
    grows = restructuring(Scripted(lambda text, start: [CONTROL["INSERT"]] * len(text)), max_length=5)
    assert len(written(grows.run(opened([[1, 2]]), None, Draws.of(0)))[0]) == 4
