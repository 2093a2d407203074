"""Training from scratch: batches say what they should, steps repeat, an objective with a bug would not overfit."""

import json
import math

import pytest
import torch

import mezzotint as mz
from mezzotint.draws import Draws
from mezzotint.model.config import ModelConfig
from mezzotint.model.visibility import CANVAS, CLEAN, context_causal
from mezzotint.noise import Hybrid
from mezzotint.recipes import tiny
from mezzotint.recipes.tiny_text import GENRES, little_texts
from mezzotint.train.corruption import Corruption, causal_batch, pad_rows
from mezzotint.train.data import Rows, data_folder, held_out, read_rows
from mezzotint.train.trainer import Batch, Diverged, Optimizer, Recipe, Trainer, initialise, loss_of

MASK, END, V = 0, 3, 60
CORRUPTION = Corruption(Hybrid(MASK, range(3, V), V, 0.1))
SMALL = ModelConfig(V, 32, 2, 2, 2, 16, 64, 128, canvas_role=True)


def rows_of(count=24, seed=0):
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(8, 40, (count,), generator=g).tolist()
    return [torch.randint(4, V, (n,), generator=g).tolist() for n in lengths]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_whole_canvases_hide_and_err():
    rows = rows_of(400)
    batch = CORRUPTION.whole(rows, END, Draws.of(list(range(400))), generator())
    valid = batch.places.valid
    assert (batch.places.role == CANVAS).all() and (batch.places.start == 0).all()
    assert (batch.weight[~valid] == 0).all() and (batch.weight[valid] > 0).all()
    assert set(batch.weight[valid & (batch.tokens != batch.target)].tolist()) == {1.0}
    assert (batch.weight[valid & (batch.tokens == batch.target)] - 0.1).abs().max() < 1e-6
    assert not (batch.target == MASK).any()
    wrong = valid & (batch.tokens != batch.target) & (batch.tokens != MASK)
    assert 0.01 < wrong.sum() / valid.sum() < 0.2
    assert batch.target[valid].tolist() == [token for row in rows for token in row]
    masked = (batch.tokens == MASK).float().sum(-1) / valid.sum(-1)
    assert (masked == 0).sum() > 60 and (masked > 0.8).sum() > 20  # errors alone, and noise of a high level


def test_two_streams_noise_the_canvas_end_inside_it_and_teach_ar():
    rows = rows_of(32)
    batch = CORRUPTION.blocks(rows, END, 8, Draws.of(list(range(32))), generator(), ar=0.3)
    length = batch.tokens.shape[1] // 2
    canvas, clean = (slice(None), slice(0, length)), (slice(None), slice(length, None))
    assert (batch.places.role[canvas] == CANVAS).all() and (batch.places.role[clean] == CLEAN).all()
    valid, start = batch.places.valid, batch.places.start[canvas]
    shares = set()
    for i, row in enumerate(rows):
        n = len(row)
        assert batch.tokens[clean][i, :n].tolist() == batch.target[canvas][i, :n].tolist() == row
        assert valid[clean][i].tolist() == [p < n for p in range(length)]
        shown = valid[canvas][i]
        assert shown[:n].all() and (batch.target[canvas][i, n:][shown[n:]] == END).all()
        widths = [int((start[i][shown] == s).sum()) for s in start[i][shown].unique()]
        assert widths[1:] == [8] * (len(widths) - 1) and widths[0] <= 8  # only the first canvas may be short
        shares |= {float((batch.tokens[canvas][i] == MASK)[start[i] == s].float().mean()) for s in start[i].unique()}
        assert batch.weight[clean][i, : n - 1].tolist() == pytest.approx([0.3] * (n - 1))
        assert batch.target[clean][i, : n - 1].tolist() == row[1:]
    assert len(shares) > 5  # one level a canvas, not one a row
    assert (batch.weight[canvas][~valid[canvas]] == 0).all() and (batch.weight[clean][~valid[clean]] == 0).all()


def test_a_step_is_a_function_of_the_seed_and_the_step():
    texts = little_texts(300, 1)
    tokenizer = tiny.make_tokenizer(texts, 400)
    rows = Rows([tokenizer.encode(t) for t in texts], seed=5)
    one, other = (tiny.make_batches(rows, tokenizer, count=8, ar_steps=0) for _ in range(2))
    other(7)
    for step in (0, 3):
        assert all(torch.equal(a, b) for a, b in zip(one(step)[2:4], other(step)[2:4], strict=True))
    assert not torch.equal(one(0).tokens, one(2).tokens)


@pytest.mark.parametrize("objective", tiny.OBJECTIVES)
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_small_network_learns_few_rows_by_heart(objective, optimizer):
    rows = rows_of(4)
    clean, real = pad_rows(rows, END)

    def batches(step):
        if objective == "ar":
            return causal_batch(clean, real)
        return CORRUPTION.whole(rows, END, Draws.of([0, 1, 2, 3]).at(step=step % 5), generator(step % 5))

    recipe = Recipe("x", SMALL, max_steps=150, optimizer=Optimizer(optimizer, 1e-2, 5), bfloat16=False)
    denoiser = initialise(SMALL, 0)
    losses = [progress.loss for progress in Trainer(denoiser, recipe, batches).run()]
    print(objective, optimizer, losses[0], losses[-1])
    assert losses[0] > 3 and sum(losses[-10:]) / 10 < 0.5 * losses[0]
    again = initialise(SMALL, 0)
    assert [progress.loss for progress in Trainer(again, recipe, batches).run()] == losses
    assert not denoiser.training and not any(p.requires_grad for p in denoiser.parameters())


def test_the_first_loss_is_that_of_knowing_nothing():
    clean, real = pad_rows(rows_of(16), END)
    loss = float(loss_of(initialise(SMALL, 0), causal_batch(clean, real)).detach())
    assert abs(loss - math.log(V)) < 0.2


def test_rates_rise_stay_and_fall():
    recipe = Recipe("x", SMALL, max_steps=100, optimizer=Optimizer("muon", 1.0, 10, 0.5))
    trainer = Trainer(initialise(SMALL, 0), recipe, lambda step: None)
    rates = [trainer.rate(step, step / 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9:51] == [1.0] * 42 and rates[75] == pytest.approx(0.5)
    assert rates[99] < 0.03


def test_bad_settings_and_batches_are_named():
    for make, problem in (
        (lambda: Recipe("x", SMALL), "no end"), (lambda: Recipe("x", SMALL, max_steps=0), "max_steps is 0"),
        (lambda: Optimizer(decay=2), "decay is 2"), (lambda: Optimizer("sgd"), "'sgd'"),
        (lambda: Corruption(CORRUPTION.process, holes=0.9), "their sum at most 1"), (lambda: Rows([], 0), "no document"),
        (lambda: tiny.make_batches(Rows([[1]], 0), None, "x"), "'x'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=problem):
            make()
    empty = Batch(*(torch.zeros(1, 2, dtype=torch.int64) for _ in range(3)), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="no position with a loss"):
        loss_of(initialise(SMALL, 0), empty, context_causal())
    trainer = Trainer(
        initialise(SMALL, 0), Recipe("x", SMALL, max_steps=9), lambda step: causal_batch(*pad_rows([[5, 6]], 0))
    )
    trainer.denoiser.embedding.weight.data.fill_(float("nan"))
    with pytest.raises(Diverged, match="5 steps in a row"):
        list(trainer.run())


def test_files_are_read_split_and_guarded(tmp_path, monkeypatch):
    import lzma

    import zstandard

    rows = [{"text": "ä", "source": str(n)} for n in range(3)]
    data = "\n".join(json.dumps(row) for row in rows).encode() + b"\n\n"
    for name, packed in (
        ("a.jsonl", data), ("a.jsonl.xz", lzma.compress(data)), ("a.jsonl.zst", zstandard.compress(data))
    ):  # fmt: skip
        (tmp_path / name).write_bytes(packed)
        assert list(read_rows(tmp_path / name)) == rows
    (tmp_path / "b.jsonl").write_text('{"a": 1}\n[1]\n')
    with pytest.raises(ValueError, match="line 2"):
        list(read_rows(tmp_path / "b.jsonl"))
    with pytest.raises(ValueError, match="never enters training"):
        list(read_rows(tmp_path / "x-EVAL.jsonl"))
    share = sum(held_out(str(n), 0.1) for n in range(5000)) / 5000
    assert 0.08 < share < 0.12
    monkeypatch.setenv("MEZZOTINT_DATA", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="not a folder"):
        data_folder()
    monkeypatch.delenv("MEZZOTINT_DATA")
    assert data_folder() is None


def test_little_texts_differ_and_repeat():
    texts = little_texts(500, 3)
    assert len(set(texts)) == 500 and texts == little_texts(500, 3) != little_texts(500, 4)
    assert len(GENRES) == 8 and all(len(t) > 20 for t in texts)


def test_training_ends_in_a_checkpoint_that_loads_generates_and_repairs(tmp_path):
    corpus = tiny.documents(None, little=400)
    assert not {d.text for d in corpus.train} & {d.text for d in corpus.held_out} and corpus.held_out
    checkpoint = tiny.train(
        corpus, None, 3, count=8, tokenizer=tiny.make_tokenizer([d.text for d in corpus.train], 500)
    )
    checkpoint.save(tmp_path / "model", torch.bfloat16)
    loaded = mz.load(tmp_path / "model")
    assert loaded.facts == checkpoint.facts and loaded.config == checkpoint.config and loaded.config.canvas_role
    role = loaded.denoiser().canvas_role
    assert role is not None and role.abs().max() > 0
    engine = mz.Engine(loaded)
    for decode in ("ar", "verified", "diffusion"):
        reply = engine.generate(mz.Request("Mia has", raw=True, decode=decode, max_tokens=10))[0]
        assert not set(reply.ids) & set(loaded.facts.control_ids.values())
    edit = mz.repair(engine, "Mia has a red ball.", threshold=0.0, locks=[(0, 3)])
    assert edit.after.startswith("Mia") and edit.num_calls >= 1
