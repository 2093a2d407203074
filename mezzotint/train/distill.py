"""Few-step distillation: a student learns to say in one call what its teacher says in several.

    batch     the [M] [M] [M] [M]
    teacher   the [M] sat [M] [M]  ->  the cat sat [M] [M]     its own steps, each reveals some masks
    target        cat sat  p   p                               said where it revealed; elsewhere its last call's law p
    student       ?   ?    ?   ?                               one call

Self-distillation through time (SDTT, arXiv 2410.21035): a round halves the steps, and its student is the next teacher.
At temperature 1 the divergence is KL(student || teacher), as there. The mean of an exact teacher's targets is the law that
the student already has, so what such a round gains comes from the divergence's preference for few modes and costs entropy:
report both. At temperature 0 the teacher decodes greedily, which is one text a canvas, and the student learns it by
cross-entropy (trajectory compression, as in d3LLM): so tokens that depend on each other come to agree in one call.
"""

from __future__ import annotations

import copy
import dataclasses
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mezzotint.draws import Draws, categorical
from mezzotint.model.denoiser import Denoiser
from mezzotint.model.visibility import CANVAS, context_causal
from mezzotint.shapes import Where
from mezzotint.train.trainer import Batch, Batches, Progress, Recipe, Trainer

_NEVER = -1e4  # log-probability of an illegal id; finite, so that 0 times it is 0


class Target(NamedTuple):
    """What a teacher said about each place: log-probabilities float32 `[B, T, V]`; and its token where it revealed one."""

    law: Tensor
    token: Tensor  # int64 [B, T]
    revealed: Where


@dataclasses.dataclass(frozen=True)
class Teacher:
    """`jump` steps of a decoding that takes `steps` for a whole canvas, in batches of any canvases.

    A step reveals, of a canvas of n positions, n / steps rounded up: the surest at temperature 0, any above it.
    banned: ids never said, beside the mask. What is drawn depends on the batch's tokens alone, so that a run repeats.
    Raises ValueError for a jump of fewer than 2 steps or more than there are, a negative temperature, shifted weights.
    """

    denoiser: Denoiser
    mask_id: int
    steps: int
    jump: int = 2
    temperature: float = 0.0
    banned: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 2 <= self.jump <= self.steps:
            raise ValueError(
                f"jump is {self.jump} of {self.steps} steps; it must be at least 2 and not more than there are"
            )
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}; it must be at least 0")
        if self.denoiser.shift:
            raise ValueError("these weights speak about the next position on a canvas (shift 1); adapt them first")

    def law(self, denoiser: Denoiser, batch: Batch) -> Tensor:
        """Log-probabilities of one call, float32 `[B, T, V]`; illegal ids have none."""
        logits = denoiser(batch.tokens, batch.places, context_causal()).logits.float()
        illegal = torch.tensor(sorted({self.mask_id, *self.banned}), device=logits.device)
        return logits.index_fill(-1, illegal, _NEVER).log_softmax(-1)

    @torch.no_grad()
    def teach(self, batch: Batch) -> Target:
        """Decode from the batch's canvases. Places without a mask, clean ones too, keep the law of the first call."""
        tokens, places = batch.tokens, batch.places
        canvas = (places.role == CANVAS) & places.valid
        same = canvas[:, None] & (places.start[:, :, None] == places.start[:, None])  # [B, T, S]: in one canvas
        quota = (same.sum(-1) + self.steps - 1) // self.steps
        draws = Draws.of(zlib.crc32(tokens.cpu().numpy().tobytes()), len(tokens))
        said = self.law(self.denoiser, batch)
        now, revealed = said, torch.zeros_like(canvas)
        for step in range(self.jump):
            masked = canvas & (tokens == self.mask_id)
            if step:
                now = self.law(self.denoiser, batch._replace(tokens=tokens))
                said = torch.where(masked[..., None], now, said)
            token, score = self._propose(now, draws.at(step=step), places.position)
            ahead = same & masked[:, None] & (score[:, None] > score[:, :, None])
            shown = masked & (ahead.sum(-1) < quota)
            tokens, revealed = torch.where(shown, token, tokens), revealed | shown
        return Target(said, tokens, revealed)

    def _propose(self, law: Tensor, draws: Draws, position: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens `[B, T]` and which come first: the surest, or any."""
        if self.temperature == 0:
            sure, token = law.max(-1)
            return token, sure
        token = categorical((law.double() / self.temperature).softmax(-1), draws.uniform("token", position))
        return token, draws.uniform("order", position)

    def loss(self, student: Denoiser, batch: Batch) -> Tensor:
        """Nats between the student's one call and the target: the mean that the batch's weights give; its target is not read."""
        target, own = self.teach(batch), self.law(student, batch)
        if self.temperature > 0:
            nats = (own.exp() * (own - target.law)).sum(-1)
        else:
            point = -own.gather(-1, target.token[..., None])[..., 0]
            nats = torch.where(target.revealed, point, (target.law.exp() * (target.law - own)).sum(-1))
        return (nats * batch.weight).sum() / batch.weight.sum()


def distill(
    student: Denoiser, recipe: Recipe, batches: Batches, mask_id: int, steps: int, *, rounds: int = 1,
    temperature: float = 0.0, banned: tuple[int, ...] = (),
) -> Iterator[Progress]:  # fmt: skip
    """Halve `steps` as many times as there are `rounds`, each a run of the recipe; the student learns in place.

    It trains the weights that ask for a gradient, all of them if none does. Raises ValueError where fewer than 2 steps
    are left to halve.
    """
    if rounds < 1 or steps < 2**rounds:
        raise ValueError(
            f"{rounds} rounds from {steps} steps; each halves them, so there must be at least {2 ** max(rounds, 1)}"
        )
    learnt = [p for p in student.parameters() if p.requires_grad] or list(student.parameters())
    for number in range(rounds):
        teacher = Teacher(
            copy.deepcopy(student).eval().requires_grad_(False), mask_id, steps >> number, 2, temperature, banned
        )
        for p in learnt:
            p.requires_grad_(True)
        named = dataclasses.replace(
            recipe, name=f"{recipe.name}, round {number + 1}: {teacher.steps} steps in half the calls"
        )
        yield from Trainer(student, named, batches, loss=teacher.loss).run()
