"""The canvas loss is what its words say, a frozen base stays as it is and a canvas learns."""

import pytest
import torch
from small_texts import CONTROL, MASK, V, generator, ids, split, texts
from torch.nn import functional as F

from mezzotint.model.adapter import AdapterConfig
from mezzotint.model.config import ModelConfig
from mezzotint.model.visibility import context_causal
from mezzotint.train.batch import by_rows
from mezzotint.train.canvas_loss import CanvasLoss, causal_nats, held_out_nats
from mezzotint.train.canvases import Example, Stage, columns, edit_batch, make_batches, text_batch
from mezzotint.train.loss import loss_of
from mezzotint.train.trainer import Optimizer, Recipe, Trainer, initialise

SMALL = ModelConfig(V, 32, 2, 2, 2, 16, 64, 256)


def base(seed=0, shift=0):
    """Random weights large enough to say something."""
    denoiser = initialise(SMALL, seed).requires_grad_(False)
    denoiser.shift = shift
    for name, weight in denoiser.slots().items():
        weight *= 1 if "norm" in name else 8
    return denoiser


def network(seed=0, shift=0, **facts):
    """A base and an adapter that is not zero."""
    facts = {"rank": 4, "alpha": 8.0, "control_ids": tuple(CONTROL.values()), "confidence": True} | facts
    denoiser, g = base(seed, shift).adapt(AdapterConfig(**facts)), generator(1)
    denoiser.adapter.load([(n, torch.randn(t.shape, generator=g) * 0.1) for n, t in denoiser.adapter.tensors().items()])
    return denoiser


def brute_force(denoiser, batch, teach):
    """The loss in one mixed pass with all logits, position by position."""
    width, shown, start = split(batch)
    logits = denoiser(batch.tokens, batch.places, context_causal()).logits.log_softmax(-1)
    total = 0.0
    for i in range(len(batch.tokens)):
        visible = [c for c in range(width) if shown[i, c] and batch.tokens[i, c] != MASK]
        for c in range(width):
            if batch.weight[i, c] == 0:
                continue
            about = c + denoiser.shift
            loss = -logits[i, c, batch.target[i, c]]
            free = batch.tokens[i, about] == MASK and not any(
                v > about and start[i, v] == start[i, about] for v in visible
            )
            place = int(batch.places.position[i, c]) + denoiser.shift
            clean = width + place - 1
            inside = place >= 1 and clean + 1 < batch.tokens.shape[1] and batch.places.valid[i, clean + 1]
            if free and inside and batch.tokens[i, clean + 1] == batch.target[i, c]:
                law = logits[i, clean].detach()
                loss = (1 - teach) * loss + teach * (law.exp() * (law - logits[i, c])).sum()
            total = total + batch.weight[i, c] * loss
    return total / batch.weight[:, :width].sum()


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("context", [0, 5])
def test_the_loss_and_its_gradients_are_those_of_one_whole_pass(shift, context):
    denoiser = network(shift=shift)
    examples = texts(3, high=20, context=context, free=not context, ends=bool(context))
    batch = text_batch(examples, 4, Stage(errors=0.2), ids(shift), generator())
    found = []
    for loss in (brute_force(denoiser, batch, 0.5), CanvasLoss(MASK, teach=0.5, chunk=7)(denoiser, batch)):
        denoiser.zero_grad()
        loss.backward()
        found.append((float(loss.detach()), {n: p.grad for n, p in denoiser.named_parameters() if p.grad is not None}))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert found[0][1].keys() == found[1][1].keys() and any("control_out" in n for n in found[0][1])
    for name, want in found[0][1].items():
        assert torch.allclose(want, found[1][1][name], atol=1e-6), name
    with torch.no_grad():
        assert float(CanvasLoss(MASK, teach=0.5, chunk=7)(denoiser, batch)) == pytest.approx(found[0][0], rel=1e-5)


def test_an_edit_has_no_teacher():
    """The clean text beside an edit ends where the canvas begins: no causal law speaks of its labels."""
    denoiser = network()
    pairs = [Example([5, 6], [7, 8, 9, 10], draft=[7, 11, 10]), Example([5], [7], draft=[7, 8])]
    batch = edit_batch(pairs, ids(), generator())
    with torch.no_grad():
        assert torch.equal(CanvasLoss(MASK, teach=1.0)(denoiser, batch), CanvasLoss(MASK, teach=0.0)(denoiser, batch))


def test_both_streams_learn_in_one_pass():
    denoiser = network(gate="all")
    batch = text_batch(texts(3, context=4, ends=True), 4, Stage(), ids(), generator(), ar=0.3)
    logits = denoiser(batch.tokens, batch.places, context_causal()).logits
    nats = F.cross_entropy(logits.flatten(0, 1), batch.target.flatten(), reduction="none")
    want = (nats * batch.weight.flatten()).sum() / batch.weight.sum()
    want.backward()
    grads = {n: p.grad.clone() for n, p in denoiser.named_parameters() if p.grad is not None}
    denoiser.zero_grad()
    got = loss_of(denoiser, batch, chunk=11)
    got.backward()
    assert float(got.detach()) == pytest.approx(float(want.detach()), rel=1e-5)
    for name, grad in grads.items():
        assert torch.allclose(grad, dict(denoiser.named_parameters())[name].grad, atol=1e-6), name
    width, _, _ = split(batch)
    clean = columns(batch, slice(width, None))
    answers = [len(e.text) for e in texts(3, context=4)]  # after a context every token of an answer is spoken about
    assert [(row > 0).sum().item() for row in clean.weight[::2]] == answers
    exact = denoiser(clean.tokens, clean.places, context_causal()).logits.log_softmax(-1)
    picked = exact.gather(-1, clean.target[..., None])[..., 0]
    mean = -(picked * (clean.weight > 0))[::2].sum() / sum(answers)
    assert causal_nats(denoiser, texts(3, context=4), ids()) == pytest.approx(float(mean.detach()), rel=1e-5)
    with pytest.raises(ValueError, match="no position with a loss"):
        loss_of(denoiser, batch._replace(weight=torch.zeros_like(batch.weight)))


def test_gradients_survive_bfloat16_and_own_samples():
    """A pass without gradient must not leave its casts behind for the pass with one."""
    denoiser = network()
    batch = text_batch(texts(6, free=True), 8, Stage(), ids(), generator())
    with torch.autocast("cpu", torch.bfloat16):
        loss = CanvasLoss(MASK, own=1.0, confidence=0.5, chunk=16)(denoiser, batch)
    loss.backward()
    learnt = {n: p.grad for n, p in denoiser.named_parameters() if p.requires_grad}
    assert all(grad is not None and grad.abs().max() > 0 for grad in learnt.values())


def test_own_samples_are_the_networks_and_repeat():
    denoiser = network().requires_grad_(False)
    batch = text_batch(texts(20, free=True), 8, Stage(complement=False), ids(), generator())
    width, _, _ = split(batch)
    canvas, clean = columns(batch, slice(0, width)), columns(batch, slice(width, None))
    loss = CanvasLoss(MASK, own=0.6)
    recorded = loss.read(denoiser, clean)[0]
    tokens, weight, filled = loss._own(denoiser, canvas, recorded)
    again = loss._own(denoiser, canvas, recorded)
    assert torch.equal(tokens, again[0]) and torch.equal(weight, again[1])
    masked = canvas.tokens == MASK
    assert torch.equal(tokens[~filled], canvas.tokens[~filled]) and not (tokens[filled] == MASK).any()
    rows = filled.any(-1)
    assert 5 < int(rows.sum()) < 19 and 0.35 < float(filled[rows].sum() / masked[rows].sum()) < 0.65
    right = filled & (tokens == canvas.target)
    assert torch.allclose(weight[right], 0.1 * canvas.weight[right]) and torch.equal(
        weight[~right], canvas.weight[~right]
    )


def test_the_gradient_reaches_self_conditioning():
    denoiser = base().adapt(AdapterConfig(4, self_conditioning=True))  # as it is before it has learnt
    batch = text_batch(texts(6, free=True), 8, Stage(), ids(), generator())
    deaf = CanvasLoss(MASK)(denoiser, batch)
    loss = CanvasLoss(MASK, feedback=0.5)(denoiser, batch)
    assert torch.equal(loss, deaf)
    loss.backward()
    heard = denoiser.adapter.self_conditioning
    assert heard.down_proj.weight.grad.abs().max() > 0 and heard.up_proj.weight.grad.abs().max() == 0
    learnt = network(self_conditioning=True)
    with torch.autocast("cpu", torch.bfloat16):
        CanvasLoss(MASK, feedback=0.5, own=0.5, chunk=16)(learnt, batch).backward()
    grads = [p.grad for p in learnt.adapter.self_conditioning.parameters()]
    assert all(grad.abs().max() > 0 for grad in grads)
    with pytest.raises(ValueError, match="declares no feedback"):
        CanvasLoss(MASK, feedback=1.0)(network(), batch)


@pytest.mark.parametrize("shift", [0, 1])
def test_feedback_in_training_is_that_of_decoding(shift):
    denoiser = network(shift=shift, self_conditioning=True).requires_grad_(False)
    examples = texts(20, low=12, context=5, ends=True)
    batch = text_batch(examples, 4, Stage(), ids(shift), generator())
    width, shown, start = split(batch)
    canvas, clean = columns(batch, slice(0, width)), columns(batch, slice(width, None))
    loss = CanvasLoss(MASK, feedback=0.5, chunk=7)

    def hear(rows):
        c, t = canvas.rows(*rows), clean.rows(*rows)
        recorded, law, row = loss.read(denoiser, t)
        return loss._hear(denoiser, c.tokens, c.places, recorded, law[row])

    together = hear((0, 40))
    chosen = (together != 0).any(-1).any(-1)
    assert 10 < int(chosen.sum()) < 30 and (together[chosen] != 0).any(-1)[shown[chosen]].all()
    for i in range(0, 40, 7):  # what a row hears does not depend on its batch
        assert torch.allclose(hear((i, i + 1))[0], together[i], atol=1e-5)
    i = int(chosen.nonzero()[0])
    e, at = examples[i // 2], (start[i] == 9).nonzero()[:, 0]  # the second block
    cache = denoiser.new_cache(1, 60)
    denoiser.read(torch.tensor([[*e.context, *e.text][:9]]), torch.tensor([9]), cache)
    places = torch.arange(9, 13)[None]
    said = denoiser.denoise(batch.tokens[i, at][None], places, torch.ones(1, 4, dtype=torch.bool), cache)
    said[..., MASK] = -torch.inf
    assert torch.allclose(denoiser.encode_feedback(said)[0], together[i, at], atol=1e-5)


def test_a_frozen_base_teaches_and_stays_as_it_is():
    examples = texts(4, low=10, high=24, free=True)
    before, denoiser = base(), base().adapt(AdapterConfig(8, control_ids=(MASK,)))
    make = make_batches(examples, [Stage(sizes={4: 0.5, 8: 0.5}, errors=0.1, keep=0.05)], ids(), lambda: 5, 4)
    recipe = Recipe("x", SMALL, max_steps=50, optimizer=Optimizer("adamw", 2e-2, 5), bfloat16=False)
    first = held_out_nats(denoiser, examples, ids(), 4, 1.0)
    again = by_rows(lambda step: make(step % 5))
    losses = [p.loss for p in Trainer(denoiser, recipe, again, CanvasLoss(MASK, teach=0.0)).run()]
    last = held_out_nats(denoiser, examples, ids(), 4, 1.0)
    assert first[1] == last[1] == sum(len(e.text) for e in examples)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5]) and last[0] < first[0] - 0.5
    tokens = torch.randint(0, V, (2, 20))
    one, other = (d.read(tokens, torch.tensor([20, 20]), d.new_cache(2, 20), every=True) for d in (before, denoiser))
    assert torch.equal(one.logits, other.logits)
    assert all(torch.equal(a, b) for a, b in zip(before.slots().values(), denoiser.slots().values(), strict=True))


def test_all_masked_at_size_one_with_the_whole_law_is_the_ar_models_own():
    """Taught by the causal law alone, a block of one learns what the base says next: the KL at the optimum is 0."""
    denoiser = network(shift=0)
    batch = text_batch(texts(3, context=4), 1, Stage(sizes={1: 1.0}, complement=False), ids(), generator())
    width, shown, _ = split(batch)
    assert (batch.tokens[:, :width] == MASK)[shown].all()
    with torch.no_grad():
        logits = denoiser(batch.tokens, batch.places, context_causal()).logits.log_softmax(-1)
        laws = torch.stack([logits[i, width + batch.places.position[i, :width] - 1] for i in range(3)])
        want = F.kl_div(logits[:, :width], laws, reduction="none", log_target=True).sum(-1)[shown].mean()
        got = CanvasLoss(MASK, teach=1.0)(denoiser, batch)
    assert float(got) == pytest.approx(float(want), rel=1e-4)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="teach is 2"):
        CanvasLoss(0, teach=2)
    empty = text_batch(texts(2), 4, Stage(), ids(), generator())
    with pytest.raises(ValueError, match="no position with a loss"):
        CanvasLoss(MASK)(network(), empty._replace(weight=torch.zeros_like(empty.weight)))
