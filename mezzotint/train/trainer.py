"""Trainer: the same loop for every objective, on any number of ranks, stopped and resumed at any step with the same bits.

    for each part of the step's global batch:  gradient of sum(weight * nats)      parts: `recipe.micro_batches`
    gradient = sum over parts, in a fixed order / sum of all weights               `distributed.py` says which order
    not finite: the step is skipped, counted; five in a row end the run
    weights, their moving average <- gradient, at the rate of the step             warmup, stable, decay

A time-boxed run measures its own first twentieth; then its number of steps is fixed, and from there on it is the run of
that many steps. Nothing else depends on a clock. A step is a function of the recipe, the step's number and the weights.
"""

from __future__ import annotations

import dataclasses
import errno
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mezzotint.model.config import ModelConfig
from mezzotint.model.denoiser import Denoiser
from mezzotint.train import state
from mezzotint.train.batch import Batch, Batches, by_rows
from mezzotint.train.distributed import ALONE, Ranks, Tree, full, gather_weights, shard, synchronise, tree_sum
from mezzotint.train.loss import Loss, loss_of
from mezzotint.train.optimizer import bfloat16_is_fast, optimizers
from mezzotint.train.recipe import PROBE, Optimizer, Recipe, differences

__all__ = [
    "Batch", "Batches", "Diverged", "Optimizer", "Progress", "Recipe", "Stopped", "Trainer", "by_rows", "initialise", "loss_of",
]  # fmt: skip

PATIENCE = 5  # steps in a row that may be skipped
SLACK = 1.1  # how far beyond its minutes a plan may lead before it is cut


class Progress(NamedTuple):
    """What a step did. share: of the run, 0 to 1. loss: nats a weighted token. positions: computed since the start.

    norm: of the gradient before it was clipped. skipped: steps so far that changed nothing. held_out: the loss there, in
    the steps that measure it.
    """

    step: int
    share: float
    loss: float
    rate: float
    positions: int
    seconds: float
    norm: float = 0.0
    skipped: int = 0
    held_out: float | None = None


@dataclass
class At:
    """How far a run is: everything beside tensors that decides how it goes on. `step` is the next one."""

    step: int = 0
    plan: int | None = None  # steps of the whole run; None while a time-boxed run still measures
    seconds: float = 0.0
    first_seconds: float = 0.0  # until the end of the first step
    positions: int = 0
    skipped: int = 0
    in_a_row: int = 0
    pieces: int = 1  # that a micro-batch is computed in, since it did not fit into memory at once
    best: float | None = None
    best_step: int | None = None
    pre_decay_step: int | None = None


class Diverged(RuntimeError):
    """Five steps in a row gave nothing to learn from: not finite, or no loss at all. Weights and checkpoints stay good."""

    exit_code = 3


class Stopped(RuntimeError):
    """A signal ended the run after a step; where there is a folder, its checkpoint was written."""

    def __init__(self, number: int, step: int) -> None:
        self.exit_code = 128 + number
        super().__init__(f"stopped by {signal.Signals(number).name} after {step} steps; resuming goes on from there")


def initialise(config: ModelConfig, seed: int) -> Denoiser:
    """A network with fresh weights: normal of deviation 0.02, the projections into the residual smaller (GPT-2)."""
    torch.manual_seed(seed)
    denoiser = Denoiser(config)
    for name, weight in denoiser.slots().items():
        if weight.dim() == 2 and not name.startswith("mezzotint.condition"):  # that initialises itself
            deep = name.endswith(("o_proj.weight", "down_proj.weight"))
            torch.nn.init.normal_(weight, std=0.02 / (2 * config.num_layers) ** 0.5 if deep else 0.02)
    return denoiser


def note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)


class Trainer:
    """Trains those weights of a denoiser that require a gradient; in float32, which they must be.

    loss: mean over a batch, weighted by its weights. folder: where checkpoints go, None for none. evaluate: the held-out
    loss of the network as it is, the same on every rank. data: a hash of what is learnt from, checked when resuming.
    say: takes sentences for the user.
    """

    def __init__(
        self, denoiser: Denoiser, recipe: Recipe, batches: Batches, loss: Loss = loss_of, *,
        folder: str | Path | None = None, evaluate: Callable[[Denoiser], float] | None = None, data: str = "",
        ranks: Ranks = ALONE, say: Callable[[str], None] = note,
    ) -> None:  # fmt: skip
        if recipe.bfloat16 and not bfloat16_is_fast(ranks.device):
            recipe = dataclasses.replace(recipe, bfloat16=False)  # as the checkpoints then say
        self.denoiser, self.recipe, self.batches, self.loss = denoiser.to(ranks.device), recipe, batches, loss
        self.folder, self.evaluate, self.data, self.ranks = Path(folder) if folder else None, evaluate, data, ranks
        self.say = say if ranks.first else lambda text: None
        self.own = ranks.parts(recipe.micro_batches)
        self.at = At(plan=None if recipe.minutes else recipe.max_steps)
        self.signal = 0
        self.saved_step = -1
        if recipe.shard:
            shard(denoiser, ranks)
        self.weights = {name: p for name, p in denoiser.named_parameters() if p.requires_grad}
        if odd := [name for name, p in self.weights.items() if p.dtype != torch.float32]:
            raise ValueError(f"{odd[0]} is {self.weights[odd[0]].dtype}; weights in training must be float32")
        ema = recipe.optimizer.ema
        self.average = None if ema is None else {name: p.detach().clone() for name, p in self.weights.items()}
        self.optimizers = optimizers(self.weights, recipe.optimizer)
        denoiser.flexible = ranks.device.type == "cuda"
        self.compiled = recipe.compile or denoiser.flexible
        if recipe.compile:
            for block in denoiser.blocks:
                block.compile()

    # -- the schedule ----------------------------------------------------------------------------------------------

    def rate(self, step: int, share: float) -> float:
        """The learning rate at a step that lies at `share` of the run."""
        r = self.recipe.optimizer
        warm = min(1.0, (step + 1) / max(r.warmup, 1))
        cool = min(1.0, (1 - share) / r.decay) if r.decay else 1.0
        return r.learning_rate * min(warm, cool)

    def _share(self) -> float:
        """Of the run, by steps where their number is known. While it is not, by the clock, and the rate is not decaying."""
        if self.at.plan is not None:
            return self.at.step / self.at.plan
        assert self.recipe.minutes is not None
        return min(self.at.seconds / (60 * self.recipe.minutes), PROBE)

    def _decay_step(self) -> int | None:
        """The first step of the decay."""
        r = self.recipe.optimizer
        return None if self.at.plan is None or not r.decay else max(0, round(self.at.plan * (1 - r.decay)))

    def _plan(self, seconds: float, saving: bool) -> int | None:
        """How many steps the whole run has, as this rank sees it after `seconds`."""
        at, minutes, plan = self.at, self.recipe.minutes, self.at.plan
        if minutes is None:
            return plan
        left = 60 * minutes - seconds
        if at.step < 2:
            return plan if left > 0 else at.step
        pace = (seconds - at.first_seconds) / (at.step - 1)  # without the first step, which also compiles
        held = at.step + max(0, int(left / pace))
        if plan is None:
            return min(held, max(at.step, self.recipe.max_steps or held)) if seconds >= PROBE * 60 * minutes else None
        late = saving and seconds + (plan - at.step) * pace > SLACK * 60 * minutes
        return min(held, plan) if late and at.step < plan * (1 - self.recipe.optimizer.decay) else plan

    # -- a step ----------------------------------------------------------------------------------------------------

    def step(self) -> tuple[float, float, int]:
        """One update from the step's global batch; -> loss, norm of the gradient, positions computed."""
        at, recipe = self.at, self.recipe
        tree, nats, weights, positions = Tree(), list[float](), list[float](), 0
        for part in self.own:
            which = (
                (part, recipe.micro_batches) if recipe.micro_batches > 1 else ()
            )  # a function of the step alone will do
            batch = self.batches(at.step, *which).to(self.ranks.device)
            if recipe.shard:
                synchronise(self.denoiser, part == self.own[-1])
            else:
                self._clear()
            nats.append(self._backward(batch))
            weights.append(float(batch.weight.sum()))
            positions += batch.tokens.numel()
            if not recipe.shard:
                tree.add([torch.zeros_like(p) if p.grad is None else p.grad for p in self.weights.values()])
        rows = self.ranks.gather([*nats, *weights, positions, at.pieces])
        count = len(self.own)
        total = tree_sum([w for row in rows for w in row[count : 2 * count]])
        summed = tree_sum([n for row in rows for n in row[:count]])
        at.pieces = int(max(row[-1] for row in rows))
        if not recipe.shard:
            for p, grad in zip(self.weights.values(), self.ranks.sum(tree.total()), strict=True):
                p.grad = grad
        loss = summed / total if total else 0.0
        norm = self._update(total) if total and loss - loss == 0 else float("nan")
        self._clear()
        at.in_a_row = 0 if norm - norm == 0 else at.in_a_row + 1
        if at.in_a_row:
            at.skipped += 1
            why = "no position with a loss" if not total else f"loss {loss}, gradient of norm {norm}"
            self.say(f"step {at.step} is skipped: {why}")
            if at.in_a_row == PATIENCE:
                raise Diverged(
                    f"{PATIENCE} steps in a row were skipped, the last is step {at.step}: {why}. "
                    "Lower optimizer.learning_rate, or look at the data"
                )
        return loss, norm, int(sum(row[-2] for row in rows))

    def _backward(self, batch: Batch) -> float:
        """Leave the gradient of the batch's weighted sum of nats; -> that sum.

        What does not fit into memory is computed in halves, what does not compile without compiling; both are said.
        """
        while True:
            try:
                return sum(self._forward_backward(batch.part(i, self.at.pieces)) for i in range(self.at.pieces))
            except Exception as error:
                if self.recipe.shard:
                    raise  # the ranks have to stay in step
                if _out_of_memory(error):
                    self._halve(batch)
                elif self.compiled:
                    self._do_without_compiling(error)
                else:
                    raise
            self._clear()

    def _forward_backward(self, batch: Batch) -> float:
        weight = batch.weight.sum()
        if not bool(weight):
            if not self.recipe.shard:
                return 0.0
            batch = batch._replace(weight=torch.ones_like(batch.weight))  # times zero: a sharded pass needs all ranks
        with torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.recipe.bfloat16):
            loss = self.loss(self.denoiser, batch) * weight
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        return float(loss.detach())

    def _halve(self, batch: Batch) -> None:
        rows, length = batch.tokens.shape
        if self.at.pieces >= rows:
            raise RuntimeError(f"one row of {length} positions does not fit into memory: shorten rows") from None
        self.at.pieces *= 2
        self.say(f"out of memory: micro-batches are computed in {self.at.pieces} pieces from now on")

    def _do_without_compiling(self, error: Exception) -> None:
        self.compiled = self.denoiser.flexible = False
        for block in self.denoiser.blocks:
            block._compiled_call_impl = None
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        self.say(f"torch.compile failed, going on without: {type(error).__name__}: {reason}")

    def _clear(self) -> None:
        for p in self.weights.values():
            p.grad = None

    def _update(self, total: float) -> float:
        """Move the weights by the summed gradient over `total`; -> its norm. Nothing moves if that is not finite."""
        r = self.recipe.optimizer
        grads = [p.grad for p in self.weights.values() if p.grad is not None]
        mean_of = self.ranks.size if self.recipe.shard else 1  # FSDP2 gives means over ranks
        torch._foreach_div_(grads, total / mean_of)
        norm = float(full(torch.nn.utils.clip_grad_norm_(self.weights.values(), r.clip)))
        if norm - norm != 0:
            return norm
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate(self.at.step, self._share())
            optimizer.step()
        if self.average is not None and r.ema is not None:
            with torch.no_grad():
                torch._foreach_lerp_(list(self.average.values()), list(self.weights.values()), 1 - r.ema)
        return norm

    # -- the run ---------------------------------------------------------------------------------------------------

    def run(self) -> Iterator[Progress]:
        """Train to the end, one report a step. The network is left in evaluation mode, with its average where one is kept.

        Raises Diverged, Stopped after a signal (SIGINT, SIGTERM, SIGHUP; only where there is a folder), OSError when the
        last checkpoint cannot be written.
        """
        at, recipe = self.at, self.recipe
        began = time.perf_counter() - at.seconds
        saved = at.seconds
        self.denoiser.train()
        with self._signals():
            while at.plan is None or at.step < at.plan:
                if at.step == self._decay_step() and at.step and at.pre_decay_step is None:
                    at.pre_decay_step = at.step
                    self.save()
                share, rate = self._share(), self.rate(at.step, self._share())
                loss, norm, positions = self.step()
                at.step += 1
                at.positions += positions
                held_out = self._evaluate()
                now = time.perf_counter() - began
                due = now - saved >= 60 * recipe.save_minutes or at.best_step == at.step
                stop, due, seconds, plan = self._agree(due, now)
                at.plan, at.seconds = (int(plan) if plan else None), seconds
                if at.step == 1:
                    at.first_seconds = seconds
                if stop or due:
                    self.save(must=bool(stop))
                    saved = at.seconds
                if stop:
                    raise Stopped(int(stop), at.step)
                yield Progress(at.step - 1, share, loss, rate, at.positions, at.seconds, norm, at.skipped, held_out)
            self.save(must=True)
        if self.average is not None:
            with torch.no_grad():
                for name, p in self.weights.items():
                    p.copy_(self.average[name])
        if recipe.shard:
            gather_weights(self.denoiser)
        self.denoiser.eval().requires_grad_(False)
        self.denoiser.flexible = False

    def follow(
        self, report: Callable[[Progress], None], resume: bool = False,
        watch: Callable[[Trainer], Iterator[Progress]] | None = None,
    ) -> None:  # fmt: skip
        """`run` to the end, told to `report`; with `resume`, from where the folder's run was left. watch: a `Monitor`'s."""
        if resume and (step := self.resume()):
            self.say(f"going on from step {step}")
        for progress in watch(self) if watch else self.run():
            report(progress)

    def _agree(self, due: bool, seconds: float) -> tuple[float, bool, float, float]:
        """What all ranks do next: a signal that any got; the first one's clock, and the plan by it."""
        plan = self._plan(seconds, due) or 0
        rows = self.ranks.gather([float(self.signal), float(due), seconds, float(plan)])
        return max(row[0] for row in rows), bool(rows[0][1]), rows[0][2], rows[0][3]

    def _evaluate(self) -> float | None:
        at = self.at
        if self.evaluate is None or (at.step % self.recipe.evaluate_every and at.step != at.plan):
            return None
        self.denoiser.eval()
        with torch.no_grad():
            loss = float(self.evaluate(self.denoiser))
        self.denoiser.train()
        if at.best is None or loss < at.best:
            at.best, at.best_step = loss, at.step
        return loss

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first SIGINT, SIGTERM or SIGHUP ends the run after its step; the second one ends the process."""
        if self.folder is None or threading.current_thread() is not threading.main_thread():
            yield
            return

        def noted(number: int, frame: FrameType | None) -> None:
            if self.signal:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            self.signal = number

        names = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
        before = {number: signal.signal(number, noted) for number in names}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Everything that decides how the run goes on and is a tensor."""
        found = {f"model.{name}": p.detach() for name, p in self.weights.items()}
        found |= {f"average.{name}": p for name, p in (self.average or {}).items()}
        for optimizer in self.optimizers:
            for name, p in self.weights.items():
                found |= {f"optimizer.{name}.{key}": value for key, value in optimizer.state.get(p, {}).items()}
        return found

    def save(self, must: bool = False) -> None:
        """Write a checkpoint of the next step, if there is a folder. A full disk is told, and raised only if `must`."""
        if self.folder is None or self.saved_step == self.at.step:
            return
        if any(not bool(full(p).isfinite().all()) for p in self.weights.values()):
            raise Diverged(f"a weight is not finite before step {self.at.step}; no such checkpoint is written")
        facts = {"at": dataclasses.asdict(self.at), "recipe": self.recipe.to_json(), "data": self.data}
        try:
            state.save(self.folder, self.at.step, self.tensors(), facts, self.ranks)
        except OSError as error:
            if must or error.errno != errno.ENOSPC:
                raise
            self.say(f"no checkpoint of step {self.at.step}: {error.strerror}; going on")
            return
        self.saved_step = self.at.step
        if self.ranks.first:
            state.prune(self.folder, self.at.step, {s for s in (self.at.best_step, self.at.pre_decay_step) if s})

    def resume(self) -> int:
        """Go on from the newest checkpoint that verifies; -> the next step, 0 where there is none.

        Raises ValueError when it was made by another recipe or from other data, CheckpointError when none verifies.
        """
        if self.folder is None:
            raise ValueError("there is no folder to resume from; give one")
        found: dict[str, Any] | None = None
        problem: Exception | None = None
        if self.ranks.first:
            try:
                found = state.newest(self.folder, self.say)
                if found is not None:
                    self._check(found)
            except Exception as error:
                problem = error
        failed, found = self.ranks.tell([str(problem) if problem else "", found])
        if failed:
            raise problem or ValueError(failed)
        if found is None:
            return 0
        into = {f"model.{name}": p.detach() for name, p in self.weights.items()}
        into |= {f"average.{name}": p for name, p in (self.average or {}).items()}
        for optimizer in self.optimizers:
            owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
            for name, p in self.weights.items():
                for key in ("step", "exp_avg", "exp_avg_sq", "momentum_buffer"):
                    if id(p) in owned and (full_name := f"optimizer.{name}.{key}") in found["tensors"]:
                        into[full_name] = torch.zeros(()) if key == "step" else torch.zeros_like(p.detach())
                        optimizer.state[p][key] = into[full_name]
        state.load(state.path_of(self.folder, found["step"]), into)
        self.at = At(**found["at"])
        self.saved_step = self.at.step
        return self.at.step

    def _check(self, found: dict[str, Any]) -> None:
        if changed := differences(found["recipe"], self.recipe.to_json()):
            raise ValueError(
                f"{self.folder} holds a run of another recipe: {'; '.join(changed)}. "
                "Resume with the same settings, or start anew in another folder"
            )
        if found["data"] != self.data:
            raise ValueError(
                f"{self.folder} holds a run on other data: their hash was {found['data']}, now {self.data}"
            )


def _out_of_memory(error: BaseException) -> bool:
    """CUDA has a class for it; the CPU's allocator raises RuntimeError."""
    text = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "allocate memory" in text
        or "not enough memory" in text
        or "bad_alloc" in text
    )
