"""The draft head learns the causal law given the tokens before, from lessons that are what they claim to be."""

import pytest
import torch
from small_texts import MASK, V, generator, ids, split, texts
from test_canvas_loss import network

from mezzotint.model.visibility import context_causal
from mezzotint.train.canvas_loss import CanvasLoss
from mezzotint.train.canvases import Stage, columns, text_batch
from mezzotint.train.draft_head import Lessons, learn_drafts, lessons, nats, read_lessons

NOISE = Stage(low=1.0, at_one=1.0, keep=0.0, complement=False, anywhere=True, copies=2)


def frozen(shift=1, **facts):
    return network(shift=shift, draft_head=16, **facts).requires_grad_(False)


@pytest.mark.parametrize("shift", [0, 1])
def test_a_lesson_is_a_place_of_a_mixed_pass_and_what_the_causal_law_says_there(shift):
    denoiser, stage = frozen(shift), Stage(at_one=0.5, complement=False)
    batch = text_batch(texts(3, context=4), 4, stage, ids(shift), generator())
    width, shown, start = split(batch)
    found = denoiser(batch.tokens, batch.places, context_causal())
    got, number = lessons(denoiser, batch, MASK), 0
    for i in range(len(batch.tokens)):
        clean, valid = batch.tokens[i, width:], batch.places.valid[i, width:]
        for c in range(width):
            about, place = c + shift, int(batch.places.position[i, c]) + shift
            if batch.weight[i, c] == 0 or batch.tokens[i, about] != MASK or place >= len(clean) or not valid[place]:
                continue
            block = [v for v in range(width) if shown[i, v] and start[i, v] == start[i, about]]
            if any(v > about and batch.tokens[i, v] != MASK for v in block):
                continue
            assert torch.allclose(got.hidden[number].float(), found.hidden[i, c], atol=5e-3)
            assert got.before[number].tolist() == clean[[place - 1, place - 2]].tolist()
            among, law = got.among[number].long(), found.logits[i, width + place - 1]
            assert sorted(among.tolist()) == [v for v in range(V) if v != MASK]  # so few are all looked at
            assert torch.allclose(got.law[number].float(), law[among].log_softmax(-1), atol=2e-2)
            number += 1
    assert number == len(got.law) > 10
    law, said = got.law.float(), denoiser.draft_among(got.hidden.float(), got.before, got.among.long()).log_softmax(-1)
    assert torch.allclose(nats(denoiser, got), (law.exp() * (law - said)).sum(-1), atol=1e-5)


def test_of_a_large_vocabulary_the_likeliest_are_compared(monkeypatch):
    monkeypatch.setattr("mezzotint.train.draft_head.CANDIDATES", 12)
    denoiser = frozen()
    got = lessons(denoiser, text_batch(texts(3, free=True), 8, NOISE, ids(1), generator()), MASK)
    assert got.among.shape[1] == 12 and all(len(set(row)) == 12 and MASK not in row for row in got.among.tolist())
    said = denoiser.speak(got.hidden.float(), torch.ones(len(got.law)))
    said[:, MASK] = -torch.inf
    for row, logits in zip(got.among.tolist(), said, strict=True):
        assert len(set(row) & set(logits.topk(12).indices.tolist())) >= 4  # eight are the law's own
    assert torch.allclose(got.law.float().exp().sum(-1), torch.ones(len(got.law)), atol=1e-2)


def test_the_head_learns_and_nothing_else_moves():
    denoiser = frozen()
    before = {name: tensor.clone() for name, tensor in denoiser.adapter.tensors().items()}
    batches = (text_batch(texts(4, seed=seed, free=True), 8, NOISE, ids(1), generator(seed)) for seed in range(100))
    known = read_lessons(denoiser, batches, MASK, lambda places: places >= 600)
    assert 600 <= len(known.law) < 900
    told = []
    start = float(nats(denoiser, known).mean())
    means = learn_drafts(denoiser, known, 6, 64, 1e-2, 0, lambda share, loss: told.append(share))
    assert means == sorted(means, reverse=True) and float(nats(denoiser, known).mean()) < 0.7 * start
    assert len(told) == 6 * (len(known.law) // 64) and told[-1] == 1
    changed = {n for n, tensor in denoiser.adapter.tensors().items() if not torch.equal(tensor, before[n])}
    assert changed == {f"canvas.draft_head.{name}_proj.weight" for name in ("gate", "up", "down")}
    assert not any(p.requires_grad for p in denoiser.parameters())
    again = frozen()
    assert learn_drafts(again, known, 6, 64, 1e-2, 0) == means


def test_a_text_that_is_noised_several_times_is_read_once():
    denoiser = frozen()
    batch = text_batch(texts(2, free=True), 8, NOISE, ids(1), generator())
    width, _, _ = split(batch)
    shifted = batch.places.start[0, :width] != batch.places.start[1, :width]
    assert len(batch.tokens) == 4 and bool(shifted.any())  # each copy has an offset of its own
    _, states, row = CanvasLoss(MASK).read(denoiser, columns(batch, slice(width, None)))
    assert len(states) == 2 and row.tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="copies is 0"):
        Stage(copies=0)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="no text is long enough"):
        read_lessons(frozen(), [], MASK, lambda places: True)
    empty = Lessons(*(torch.zeros(4, n) for n in (32, 2, 5, 5)))
    with pytest.raises(ValueError, match="no draft head"):
        learn_drafts(network(), empty, 1, 2, 1e-3, 0)
    broken = read_lessons(frozen(), [text_batch(texts(2), 8, NOISE, ids(1), generator())], MASK, lambda places: True)
    with pytest.raises(FloatingPointError, match="at step 0"):
        learn_drafts(frozen(), broken._replace(law=torch.full_like(broken.law, torch.nan)), 1, 8, 1e-3, 0)
