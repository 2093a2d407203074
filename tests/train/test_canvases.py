"""Canvases over text: blocks begin where they should, hide what they should, and edits say what the alignment says."""

from dataclasses import replace

import pytest
import torch
from small_texts import END, MASK, generator, ids, split, texts

from mezzotint.alignment import SLOT, apply, labels
from mezzotint.train.canvases import Example, Stage, edit_batch, make_batches, stage_at, text_batch


def test_blocks_begin_anywhere_in_text_and_at_the_first_token_of_an_answer():
    stage, begins = Stage(complement=False), set()
    for free in (True, False):
        examples = texts(40, context=0 if free else 7, free=free, ends=not free)
        batch = text_batch(examples, 8, stage, ids(), generator())
        width, shown, start = split(batch)
        for i, e in enumerate(examples):
            n, c = len(e.text), len(e.context)
            assert batch.tokens[i, width:][batch.places.valid[i, width:]].tolist() == [*e.context, *e.text]
            blocks = [int((start[i][shown[i]] == s).sum()) for s in start[i][shown[i]].unique()]
            if free:
                begins.add(blocks[0] % 8)
                assert int(shown[i].sum()) == n and all(size == 8 for size in blocks[1:-1])
            else:
                assert int(start[i][shown[i]].min()) == c and set(blocks) == {8} and sum(blocks) >= n + 1
                tail = batch.target[i, n:width][shown[i, n:]]
                assert (tail == END).all() and batch.weight[i, n] > 0  # the end is learnt, what fills the block is not
                assert (batch.weight[i, n + 1 : width] == 0).all()
    assert len(begins) == 8
    batch = text_batch(texts(40, context=7), 8, replace(stage, anywhere=True), ids(), generator())
    _, shown, start = split(batch)
    firsts = {int((start[i][shown[i]] == start[i][shown[i]].min()).sum()) for i in range(40)}
    assert len(firsts) > 4  # in answers too, where that is asked for


def test_a_twin_is_masked_exactly_where_the_row_is_not():
    batch = text_batch(texts(free=True), 8, Stage(), ids(), generator())
    width, shown, _ = split(batch)
    masked = batch.tokens[:, :width] == MASK
    assert torch.equal(masked[::2] ^ masked[1::2], shown[::2]) and torch.equal(
        batch.tokens[::2, width:], batch.tokens[1::2, width:]
    )
    assert set(batch.weight[:, :width][masked].tolist()) == {1.0}
    assert (batch.weight[:, :width][shown & ~masked] - 0.1).abs().max() < 1e-6
    assert (batch.tokens[:, :width] == batch.target[:, :width])[shown & ~masked].all()


def test_levels_and_the_bias_of_positions():
    long = [Example([], [7] * 512, free=False)] * 40

    def shares(**how):
        batch = text_batch(long, 16, Stage(complement=False, **how), ids(), generator())
        return (batch.tokens[:, :512] == MASK).float().view(-1, 16)

    half = shares(low=0.5, high=0.5, at_one=0.0, bias=0.0)
    assert set(half.sum(-1).tolist()) == {8.0} and half.mean(0).std() < 0.03
    odd = shares(low=0.3, high=0.3, at_one=0.0, bias=0.0)
    assert set(odd.sum(-1).tolist()) == {4.0, 5.0} and abs(float(odd.mean()) - 0.3) < 0.005  # rounded at random
    biased = shares(low=0.5, high=0.5, at_one=0.0, bias=1.0)
    assert set(biased.sum(-1).tolist()) == {8.0} and biased.mean(0)[12:].mean() > 1.5 * biased.mean(0)[:4].mean()
    bell = shares(at_one=0.0, low=0.0).mean(-1)
    assert abs(float(bell.mean()) - 0.5) < 0.02 and abs(float(bell.var()) - 1 / 20) < 0.01  # Beta(2, 2)
    assert abs(float((shares(at_one=0.25, high=0.6).mean(-1) == 1).float().mean()) - 0.25) < 0.04


def test_a_shifted_row_learns_the_next_token_of_its_block():
    examples = texts(20, free=True)
    plain, shifted = (text_batch(examples, 8, Stage(), ids(s), generator()) for s in (0, 1))
    width, _, start = split(plain)
    assert torch.equal(plain.tokens, shifted.tokens)
    same = start[:, 1:] == start[:, :-1]
    assert torch.equal(shifted.target[:, : width - 1][same], plain.target[:, 1:width][same])
    assert torch.equal(shifted.weight[:, : width - 1][same], plain.weight[:, 1:width][same])
    assert (shifted.weight[:, : width - 1][~same] == 0).all() and (shifted.weight[:, width - 1] == 0).all()


def test_errors_stand_where_text_was_visible():
    batch = text_batch(texts(200, free=True), 8, Stage(errors=0.3), ids(), generator())
    width, shown, _ = split(batch)
    visible = shown & (batch.tokens[:, :width] != MASK)
    wrong = visible & (batch.tokens[:, :width] != batch.target[:, :width])
    assert 0.05 < float(wrong.sum() / visible.sum()) < 0.13  # 3/5 of 0.15
    assert set(batch.weight[:, :width][wrong].tolist()) == {1.0} and not (batch.tokens[:, :width][wrong] < 3).any()


def test_stages_follow_their_shares_and_batches_repeat():
    stages = [Stage(0.25, {4: 1.0}), Stage(0.75, {8: 0.5, 0: 0.5}, edits=0.5)]
    assert [stage_at(stages, step, 8) is stages[0] for step in range(10)] == [True] * 2 + [False] * 8
    pairs = [Example([5, 6], [7, 8, 9], draft=[7, 9]), Example([5], [7], draft=[7])]
    one, other = (make_batches([*texts(20), *pairs], stages, ids(), lambda: 8, 2, seed=3) for _ in range(2))
    other(5)
    for step in range(8):
        a, b = one(step), other(step)
        assert torch.equal(a.tokens, b.tokens) and torch.equal(a.weight, b.weight)
    with pytest.raises(ValueError, match="no edit among"):
        make_batches(texts(3), stages, ids(), lambda: 8, 2)


def test_edit_rows_say_what_the_alignment_says():
    g = torch.Generator().manual_seed(4)
    examples = []
    for _ in range(60):
        source = torch.randint(5, 12, (int(torch.randint(2, 12, (), generator=g)),), generator=g).tolist()
        target = [t for t in source if t != 7] + [9, 9] if len(examples) % 3 else source
        examples.append(Example([5, 6, 7], target, draft=source))
    batch = edit_batch(examples, ids(), generator(1))
    width, shown, start = split(batch)
    assert (start[shown] == 3).all()
    unchanged = 0
    for i, e in enumerate(examples):
        tokens, said = batch.tokens[i, :width][shown[i]].tolist(), batch.target[i, :width][shown[i]].tolist()
        assert tokens[-1] == END and batch.tokens[i, width:][batch.places.valid[i, width:]].tolist() == [5, 6, 7]
        state = [SLOT if t == MASK else t for t in tokens[:-1]]
        want = labels(state, e.text)
        control = {-3: 1, -4: 2, -5: 4}  # DELETE, INSERT, EXPAND; -2 is KEEP
        pairs = zip(tokens, want, strict=True)
        assert said == [token if label == -2 else control.get(label, label) for token, label in pairs]
        kept = [a == b for a, b in zip(tokens, said, strict=True)]
        weights = batch.weight[i, :width][shown[i]]
        share = 0.3 if e.text == e.draft else 0.1
        unchanged += all(kept)
        assert torch.allclose(weights, torch.tensor([share if k else 1.0 for k in kept]))
        assert apply(state, want) != state or all(kept)
    assert 3 < unchanged < 20


def test_bad_settings_are_named():
    for make, problem in (
        (lambda: Example([1], []), "no text"), (lambda: Stage(sizes={}), "sizes are"),
        (lambda: Stage(low=0.9, high=0.2), "levels from"), (lambda: Stage(errors=2), "errors is 2"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=problem):
            make()
