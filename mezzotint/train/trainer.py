"""Trainer: the same loop for every objective. A batch says where its tokens stand and what each should have said.

    batch(step) -> tokens, places, target, weight        loss = sum(weight * CE(logits, target)) / sum(weight)

A batch is a pure function of the recipe's seed and the step, so a run repeats exactly and resumes without a data loader's
state. What is trained (denoising, AR, edit labels) is decided by who makes the batches; see `corruption.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mezzotint.model.config import ModelConfig
from mezzotint.model.denoiser import Denoiser
from mezzotint.model.visibility import Places, Visibility, context_causal
from mezzotint.shapes import Tokens


class Batch(NamedTuple):
    """tokens, target int64 `[B, T]`; weight float32 `[B, T]`, 0 where nothing is learnt."""

    tokens: Tokens
    places: Places
    target: Tokens
    weight: Tensor


Batches = Callable[[int], Batch]  # step -> batch
Loss = Callable[[Denoiser, Batch], Tensor]  # a scalar in nats, to be minimised


@dataclass(frozen=True)
class Recipe:
    """Everything about a run but its data. The run ends after `minutes` or `max_steps`, whichever is given and comes first.

    The rate rises for `warmup` steps, stays, and falls linearly to zero over the last `decay` share of the run (warmup,
    stable, decay). optimizer: muon (Muon for the matrices, AdamW for the rest) or adamw.
    """

    name: str
    config: ModelConfig
    minutes: float | None = None
    max_steps: int | None = None
    learning_rate: float = 3e-3
    warmup: int = 50
    decay: float = 0.4
    weight_decay: float = 0.05
    optimizer: str = "muon"
    clip: float = 1.0
    seed: int = 0
    bfloat16: bool = True

    def __post_init__(self) -> None:
        if self.minutes is None and self.max_steps is None:
            raise ValueError(f"recipe {self.name!r} has no end: give minutes or max_steps")
        for name in ("minutes", "max_steps", "learning_rate", "clip"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name} is {value}; it must be positive")
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay is {self.decay}; it must lie between 0 and 1")
        if self.optimizer not in ("muon", "adamw"):
            raise ValueError(f"optimizer is {self.optimizer!r}; allowed: muon, adamw")


class Progress(NamedTuple):
    """What a step did. share: of the run, 0 to 1. loss: nats a weighted token. positions: computed since the start."""

    step: int
    share: float
    loss: float
    rate: float
    positions: int
    seconds: float


def initialise(config: ModelConfig, seed: int) -> Denoiser:
    """A network with fresh weights: normal of deviation 0.02, the projections into the residual smaller (GPT-2)."""
    torch.manual_seed(seed)
    denoiser = Denoiser(config)
    for name, weight in denoiser.slots().items():
        if weight.dim() == 2:
            deep = name.endswith(("o_proj.weight", "down_proj.weight"))
            torch.nn.init.normal_(weight, std=0.02 / (2 * config.num_layers) ** 0.5 if deep else 0.02)
    return denoiser


def loss_of(denoiser: Denoiser, batch: Batch, visible: Visibility) -> Tensor:
    """Weighted mean cross-entropy in nats, a scalar. Raises ValueError for a batch with nothing to learn."""
    total = batch.weight.sum()
    if not total > 0:
        raise ValueError("a batch has no position with a loss")
    logits = denoiser(batch.tokens, batch.places, visible).logits  # [B, T, V]
    nats = F.cross_entropy(logits.float().flatten(0, 1), batch.target.flatten(), reduction="none")
    return (nats * batch.weight.flatten()).sum() / total


class Trainer:
    """loss: None for `loss_of` under `context_causal`; another objective is another function of network and batch."""

    def __init__(self, denoiser: Denoiser, recipe: Recipe, batches: Batches, loss: Loss | None = None) -> None:
        self.denoiser, self.recipe, self.batches = denoiser, recipe, batches
        self.loss = loss or (lambda denoiser, batch: loss_of(denoiser, batch, context_causal()))
        matrices = [p for n, p in denoiser.named_parameters() if p.dim() == 2 and "embedding" not in n]
        others = [p for n, p in denoiser.named_parameters() if p.dim() != 2 or "embedding" in n]
        r = recipe
        adam = {"lr": r.learning_rate, "betas": (0.9, 0.98), "weight_decay": 0.0}
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, **adam)]  # type: ignore[arg-type]
        if r.optimizer == "muon":
            muon = torch.optim.Muon(
                matrices, lr=r.learning_rate, weight_decay=r.weight_decay, adjust_lr_fn="match_rms_adamw"
            )
            self.optimizers.append(muon)
        else:
            self.optimizers.append(torch.optim.AdamW(matrices, **{**adam, "weight_decay": r.weight_decay}))  # type: ignore[arg-type]

    def rate(self, step: int, share: float) -> float:
        """The learning rate at a step that lies at `share` of the run."""
        r = self.recipe
        warm = min(1.0, (step + 1) / max(r.warmup, 1))
        cool = min(1.0, (1 - share) / r.decay) if r.decay else 1.0
        return r.learning_rate * min(warm, cool)

    def step(self, index: int, share: float) -> tuple[float, int]:
        """One update; -> its loss and the positions computed. Raises FloatingPointError for a loss that is not finite."""
        batch = self.batches(index)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bfloat16):
            loss = self.loss(self.denoiser, batch)
        value = float(loss.detach())
        if value != value or value == float("inf"):
            raise FloatingPointError(f"the loss is {value} at step {index}")
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), self.recipe.clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate(index, share)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return value, batch.tokens.numel()

    def run(self) -> Iterator[Progress]:
        """Train to the end, one report a step. The network is left in evaluation mode."""
        recipe, began, positions, index = self.recipe, time.perf_counter(), 0, 0
        self.denoiser.train()
        while True:
            seconds = time.perf_counter() - began
            shares = [index / recipe.max_steps] if recipe.max_steps else []
            shares += [seconds / (60 * recipe.minutes)] if recipe.minutes else []
            if (share := max(shares)) >= 1:
                break
            loss, count = self.step(index, share)
            positions += count
            yield Progress(index, share, loss, self.rate(index, share), positions, time.perf_counter() - began)
            index += 1
        self.denoiser.eval().requires_grad_(False)
