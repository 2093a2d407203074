"""The trainer on one rank: overrides, the chunked loss, accumulation, skipped steps, signals, time boxes, learning by heart."""

import dataclasses
import os
import signal
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
import typer
from campaign import CONFIG, RECIPE, hash_of, make_batches, trainer_of

from mezzotint.commands.shared import reporting
from mezzotint.commands.train import recipe_settings
from mezzotint.draws import Draws
from mezzotint.model.visibility import CANVAS, Places, context_causal
from mezzotint.noise import Absorbing
from mezzotint.sampler.canvas import Canvas
from mezzotint.sampler.decoding import Decoding, left_to_right
from mezzotint.sampler.loop import Sampler
from mezzotint.train.distributed import ALONE, Ranks, Tree
from mezzotint.train.loss import loss_of
from mezzotint.train.recipe import Optimizer, Recipe, apply, differences, keys
from mezzotint.train.state import steps
from mezzotint.train.trainer import Batch, Diverged, Stopped, Trainer, by_rows, initialise


def finish(trainer):
    return list(trainer.run())


def test_training_needs_no_more_than_the_core_packages():
    others = ("gguf", "jinja2", "zstandard", "transformers", "scipy", "matplotlib", "ray", "accelerate")
    code = f"import sys, mezzotint.recipes.tiny; print([m for m in {others} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


# -- recipes --------------------------------------------------------------------------------------------------------


def test_overrides_are_read_as_their_fields_types():
    new = apply(
        RECIPE, ["optimizer.learning_rate=3e-4", "config.num_layers=8", "max_steps=none", "minutes=2", "bfloat16=True"]
    )
    assert new.optimizer == dataclasses.replace(RECIPE.optimizer, learning_rate=3e-4)
    assert (new.config.num_layers, new.max_steps, new.minutes, new.bfloat16) == (8, None, 2.0, True)
    assert apply(RECIPE, ["max_steps=1", "max_steps=2"]).max_steps == 2 and apply(RECIPE, []) == RECIPE
    assert {"seed", "optimizer.ema", "config.tied_head"} <= keys(RECIPE).keys() and "optimizer" not in keys(RECIPE)
    for override, problem in (
        ("optimizer.learning_rat=1", r"'optimizer.learning_rat'; .* 'optimizer.learning_rate'"),
        ("learning_rate=1", "'optimizer.learning_rate'"), ("max_step=1", "'max_steps'"), ("zzz=1", "nearest known one"),
        ("max_steps=1.5", "a whole number or none"), ("bfloat16=2", "true or false"), ("max_steps", "not KEY=VALUE"),
        ("optimizer.name=sgd", "'sgd'"), ("max_steps=none", "no end"), ("optimizer.clip=-1", "clip is -1.0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=problem):
            apply(RECIPE, [override])
    with pytest.raises(ValueError, match=r"lower decay"):
        Recipe("x", CONFIG, minutes=1.0, optimizer=Optimizer(decay=1.0))


def test_the_command_line_says_how_long():
    assert recipe_settings(None, None, []) == [] and recipe_settings(2.0, None, ["seed=1"]) == ["minutes=2.0", "seed=1"]
    assert recipe_settings(None, 5, []) == ["minutes=none", "max_steps=5"]
    assert recipe_settings(None, None, ["max_steps=5"]) == ["minutes=none", "max_steps=5"]
    assert recipe_settings(1.0, 5, []) == ["minutes=1.0", "max_steps=5"]


def test_recipes_say_where_they_differ():
    other = apply(RECIPE, ["optimizer.clip=2", "seed=3", "save_minutes=9", "shard=true"])
    assert differences(RECIPE.to_json(), RECIPE.to_json()) == []
    assert differences(RECIPE.to_json(), other.to_json()) == [
        "optimizer.clip was 1.0 and is 2.0",
        "seed was 0 and is 3",
    ]


# -- the loss -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_the_chunked_loss_is_the_plain_one(tied, chunk):
    network = initialise(dataclasses.replace(CONFIG, tied_head=tied), 1)
    batch = make_batches()(1)
    assert (batch.weight == 0).sum() > 0
    logits = network(batch.tokens, batch.places, context_causal()).logits
    nats = F.cross_entropy(logits.flatten(0, 1), batch.target.flatten(), reduction="none")
    plain = (nats * batch.weight.flatten()).sum() / batch.weight.sum()
    plain.backward()
    expected = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()
    ours = loss_of(network, batch, chunk=chunk)
    ours.backward()
    assert ours.item() == pytest.approx(plain.item(), rel=1e-6)
    for name, p in network.named_parameters():
        assert (p.grad - expected[name]).abs().max() < 1e-6 * max(1.0, expected[name].abs().max()), name
    with torch.no_grad():
        assert loss_of(network, batch).item() == pytest.approx(plain.item(), rel=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert loss_of(network, batch, chunk=chunk).item() == pytest.approx(plain.item(), rel=1e-2)


def test_the_loss_never_holds_all_logits():
    network, batch = initialise(CONFIG, 0), make_batches()(1)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for t in out if isinstance(out, tuple | list) else (out,):
                if isinstance(t, torch.Tensor) and t.shape[-1:] == (CONFIG.vocab_size,):
                    largest = max(largest, t.numel() // CONFIG.vocab_size)
            return out

    with Watch():
        loss_of(network, batch, chunk=16).backward()
    assert largest == max(16, CONFIG.width) < (batch.weight != 0).sum()


@pytest.mark.filterwarnings("ignore:.*flex_attention")
def test_flex_attention_computes_the_same_pass():
    """The GPU's path, uncompiled and forward only, which is all that a CPU can do of it."""
    config = dataclasses.replace(CONFIG, num_heads=4, num_kv_heads=2)
    network, batch = initialise(config, 0), make_batches()(1)
    assert not batch.places.valid.all()
    with torch.no_grad():
        dense = loss_of(network, batch).item()
        network.flexible = True
        assert loss_of(network, batch).item() == pytest.approx(dense, rel=1e-5)


def test_a_batch_in_parts_is_the_same_batch():
    batch, whole = make_batches()(3), make_batches()
    parts = [whole(3, part, 3) for part in range(3)]
    assert torch.equal(torch.cat([p.tokens for p in parts]), batch.tokens)
    assert torch.equal(torch.cat([p.places.start for p in parts]), batch.places.start)
    assert sum(p.weight.sum() for p in parts).item() == pytest.approx(batch.weight.sum().item())
    assert [p.tokens.shape[0] for p in (whole(3, part, 16) for part in range(16))] == [0, 1] * 8


def test_accumulation_changes_neither_loss_nor_gradient():
    """T10. Rows differ in how much they teach; a mean of means would be off by per cents."""
    found = []
    for parts in (1, 2, 4, 8, 16):
        trainer = trainer_of(None, ALONE, [f"micro_batches={parts}", "max_steps=3"])
        found.append([(p.loss, p.norm) for p in finish(trainer)])
    for other in found[1:]:
        assert other[0] == pytest.approx(found[0][0], rel=1e-6)
        assert [loss for loss, _ in other] == pytest.approx([loss for loss, _ in found[0]], rel=1e-4)


def test_sums_have_one_order_whatever_the_ranks():
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(1000, generator=generator) * 10 ** float(k % 5) for k in range(24)]

    def added(leaves):
        tree = Tree()
        for leaf in leaves:
            tree.add([leaf.clone()])
        return tree.total()[0]

    alone = added(leaves)
    for size in (2, 3, 6, 12, 24):
        if not (24 // size) & (24 // size - 1):
            shares = [added(leaves[r * 24 // size : (r + 1) * 24 // size]) for r in range(size)]
            assert torch.equal(added(shares), alone), size
    assert not torch.equal(sum(leaves), alone) and torch.allclose(sum(leaves), alone, rtol=1e-3, atol=1)
    assert list(Ranks(1, 2).parts(8)) == [4, 5, 6, 7]
    for parts in (1, 6, 7):
        with pytest.raises(ValueError, match="allowed: 2, 4, 8, 16"):
            Ranks(0, 2).parts(parts)


# -- steps that teach nothing ---------------------------------------------------------------------------------------


def poisoned(where, bad):
    """A trainer whose loss or gradient is not finite in the given steps, and what it said."""
    said, trainer = [], None

    def loss(network, batch):
        value = loss_of(network, batch)
        spoil = trainer.at.step in bad
        if spoil and where == "gradient":
            value.register_hook(lambda grad: grad * float("nan"))
        return value * (float("inf") if spoil and where == "loss" else 1)

    trainer = trainer_of(None, ALONE, ["max_steps=12"], loss=loss, say=said.append)
    return trainer, said


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_skipped_and_counted(where):
    """T6."""
    trainer, said = poisoned(where, {2, 3, 7})
    before, moved = hash_of(trainer), []
    for _ in trainer.run():
        moved.append(hash_of(trainer) != before)
        before = hash_of(trainer)
    assert [i for i, m in enumerate(moved) if not m] == [2, 3, 7] or (
        trainer.average is not None and moved.count(False) == 3
    )
    assert trainer.at.skipped == 3 and len(said) == 3 and "step 7 is skipped" in said[2]


def test_five_in_a_row_end_the_run_and_leave_good_weights(tmp_path):
    trainer, _ = poisoned("gradient", {3, 4, 6, 7, 8, 9, 10})
    trainer.folder = tmp_path
    with pytest.raises(Diverged, match="5 steps in a row were skipped, the last is step 10"):
        finish(trainer)
    assert all(p.isfinite().all() for p in trainer.denoiser.parameters())
    again = trainer_of(tmp_path, ALONE, ["max_steps=12"])
    assert again.resume() == steps(tmp_path)[-1] == 10 and again.at.in_a_row == 4 and again.at.skipped == 6
    trainer.weights["norm.weight"].data[0] = float("inf")
    trainer.saved_step = -1
    with pytest.raises(Diverged, match="no such checkpoint is written"):
        trainer.save()
    with pytest.raises(typer.Exit) as caught:
        reporting(lambda: (_ for _ in ()).throw(Diverged("x")).__next__())()
    assert caught.value.exit_code == 3


def test_a_batch_with_no_loss_token_is_skipped():
    """T9. One empty micro-batch of several counts for nothing; a whole empty step is skipped."""
    make = make_batches()

    def batch(step):
        whole = make(step)
        if step == 2:
            return whole._replace(weight=torch.zeros_like(whole.weight))
        return whole._replace(weight=torch.cat((torch.zeros_like(whole.weight[:2]), whole.weight[2:])))

    said = []
    trainer = Trainer(initialise(CONFIG, 0), apply(RECIPE, ["max_steps=4"]), by_rows(batch), say=said.append)
    found = finish(trainer)
    assert found[-1].skipped == 1 and said == ["step 2 is skipped: no position with a loss"]
    assert all(p.loss > 0 for p in found if p.step != 2) and found[2].loss == 0


# -- stopping and going on ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted():
    trainer = trainer_of(None, ALONE)
    finish(trainer)
    return hash_of(trainer)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_ends_the_run_after_its_step_and_it_goes_on_with_the_same_bits(name, tmp_path, uninterrupted):
    """T7."""
    number = getattr(signal, name)
    before = signal.getsignal(number)
    trainer = trainer_of(tmp_path, ALONE, ["save_minutes=60"])
    with pytest.raises(Stopped, match=f"{name} after 9 steps") as caught:
        for progress in trainer.run():
            if progress.step == 7:
                os.kill(os.getpid(), number)
    assert caught.value.exit_code == 128 + number and signal.getsignal(number) == before
    assert steps(tmp_path)[-1] == 9
    again = trainer_of(tmp_path, ALONE, ["save_minutes=60"])
    assert again.resume() == 9
    losses = [p.step for p in finish(again)]
    assert losses == list(range(9, 24)) and hash_of(again) == uninterrupted


def test_the_right_checkpoints_are_kept(tmp_path):
    losses = iter([5.0, 2.0, 3.0, 4.0, 6.0])
    trainer = trainer_of(tmp_path, ALONE, evaluate=lambda network: next(losses))
    found = finish(trainer)
    assert [p.held_out for p in found if p.held_out] == [5.0, 2.0, 3.0, 4.0, 6.0]
    assert steps(tmp_path) == [10, 14, 23, 24]  # the best, the one before the decay, the last two
    assert trainer.at.pre_decay_step == 14 and trainer.at.best == 2.0


def test_a_run_goes_on_only_as_it_began(tmp_path):
    trainer = trainer_of(tmp_path, ALONE, ["max_steps=3"])
    assert trainer.resume() == 0
    finish(trainer)
    with pytest.raises(ValueError, match=r"optimizer.learning_rate was 0.01 and is 0.5"):
        trainer_of(tmp_path, ALONE, ["max_steps=3", "optimizer.learning_rate=0.5"]).resume()
    with pytest.raises(ValueError, match="other data: their hash was , now abc"):
        trainer_of(tmp_path, ALONE, ["max_steps=3"], data="abc").resume()
    with pytest.raises(ValueError, match="no folder"):
        trainer_of(None, ALONE).resume()
    done = trainer_of(tmp_path, ALONE, ["max_steps=3"])
    assert done.resume() == 3 and finish(done) == [] and hash_of(done) == hash_of(trainer)


def test_a_time_boxed_run_is_the_run_of_so_many_steps(tmp_path):
    settings = ["max_steps=60", "minutes=0.01", "save_minutes=60"]
    boxed = trainer_of(tmp_path, ALONE, settings, evaluate=None)
    planned = None
    with pytest.raises(Stopped):
        for progress in boxed.run():
            planned = planned or boxed.at.plan
            if planned and progress.step + 1 >= planned // 2:
                boxed.signal = signal.SIGTERM
    again = trainer_of(tmp_path, ALONE, settings, evaluate=None)
    again.resume()
    finish(again)
    assert again.at.step == again.at.plan == planned
    whole = trainer_of(None, ALONE, [f"max_steps={planned}"])
    finish(whole)
    assert hash_of(again) == hash_of(whole)


def test_a_plan_that_leads_too_far_is_cut_when_saving():
    trainer = trainer_of(None, ALONE, ["minutes=1", "max_steps=1000"])
    at = trainer.at
    at.step, at.first_seconds = 10, 0.75
    assert trainer._plan(2.9, False) is None and trainer._plan(3.0, False) == 238  # 57 s are left, at 0.25 s a step
    at.plan = 200
    assert trainer._plan(6.0, True) == 102 and trainer._plan(6.0, False) == 200  # half as fast as planned
    assert trainer._plan(3.2, True) == 200  # within the slack
    at.step = 190
    assert trainer._plan(90.0, True) == 200  # a decay that has begun is ended
    at.step, at.plan = 1, None
    assert trainer._plan(59.0, True) is None and trainer._plan(61.0, True) == 1


# -- does it learn --------------------------------------------------------------------------------------------------


def test_rows_learnt_by_heart_are_written_out():
    """T13: loss under 5% of the start within 300 steps, and at least 9 of 10 rows come back from their first tokens."""
    generator = torch.Generator().manual_seed(0)
    rows, given = torch.randint(1, 60, (32, 16), generator=generator), 4
    rows[:, 0] = torch.arange(1, 33)
    position = torch.arange(16).expand(32, -1)
    blank, process = position >= given, Absorbing(0, 60)

    def batch(step):
        level = 1 - torch.rand(32, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        noisy = process.corrupt(rows, level, blank, Draws.of(list(range(32))).at(step=step))
        return Batch(noisy, Places.of(position, torch.full_like(position, CANVAS)), rows, (noisy == 0).float())

    recipe = Recipe("heart", CONFIG, max_steps=300, optimizer=Optimizer("muon", 1e-2, 10), bfloat16=False)
    trainer = Trainer(initialise(CONFIG, 0), recipe, by_rows(batch))
    losses = [progress.loss for progress in trainer.run()]
    assert sum(losses[-10:]) / 10 < 0.05 * losses[0]
    draws = Draws.of(0, rows=32)
    canvas = Canvas.blank(process, torch.zeros(32, dtype=torch.int64), 16, draws, torch.where(blank, -1, rows))
    for _ in Sampler(trainer.denoiser, process, Decoding(left_to_right(), num_steps=16)).steps(canvas, None, draws):
        pass
    assert (canvas.tokens == rows).all(-1).float().mean() >= 0.9
