"""Condition: what a text is to follow beside its prompt, a class or an embedding, and how the network is told.

    prefix   [ c0 .. ck | text ... | canvas ]     soft tokens at clean positions 0..K-1, read once into the cache
    adaln    x -> x + (1 + gate) f(norm(x) (1 + scale) + shift)     in every block of every pass (DiT, arXiv 2212.09748)
    level    silu(c) is added to the embedding of the level of noise, which modulates every block (UDLM, arXiv 2412.10193)

Either way the condition acts at every denoising step: a canvas reads the prefix from the cache, or is modulated anew. The
cache remembers which condition each row follows, so rows of one batch may follow different ones.

A row of the table is a class; an embedding is projected to the same size; the table's last row is the null, what the
network was told in training where the condition was dropped: "anything". The modulation starts at zero, and a network
with it then says what it would without.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mezzotint.model.config import Conditioning


@dataclass(frozen=True)
class Condition:
    """One text's condition: a class label, an embedding, or a prompt; none of them is the null.

    prompt: text that stands before the request's own (the system message of a chat); its null is to leave it out. A
    network sees it as clean context like any other, so only labels and embeddings reach `Conditioner`.
    """

    class_label: int | None = None
    embedding: tuple[float, ...] | None = None
    prompt: str | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("class_label", "embedding", "prompt") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"a condition has {' and '.join(given)}; give one of class_label, embedding, prompt")
        if self.prompt == "":
            raise ValueError("the condition's prompt is empty; give some text, or no prompt for the null")
        if self.embedding is not None:
            object.__setattr__(self, "embedding", tuple(map(float, self.embedding)))


NULL = Condition()
Conditions = Sequence[Condition]  # one a row


def dropped(conditions: Conditions, share: float, seed: int) -> list[Condition]:
    """The same with each replaced by the null with probability `share`: what makes guidance possible, in training."""
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; it must lie between 0 and 1")
    chance = random.Random(seed)
    return [NULL if chance.random() < share else condition for condition in conditions]


class Conditioner(nn.Module):
    """Conditions to vectors, and where the way is adaln, vectors to modulations of `num_layers` blocks of width D."""

    def __init__(self, conditioning: Conditioning, width: int, num_layers: int) -> None:
        super().__init__()
        self.conditioning, self.width, self.num_layers = conditioning, width, num_layers
        size = conditioning.length * width
        self.embedding = nn.Embedding(conditioning.classes + 1, size)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.projection = nn.Linear(conditioning.embedding, size) if conditioning.embedding else None
        if self.projection is not None:
            nn.init.normal_(self.projection.weight, std=0.02)
            nn.init.zeros_(self.projection.bias)
        self.modulation = nn.Linear(width, num_layers * 6 * width) if conditioning.way == "adaln" else None
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def slots(self) -> dict[str, Tensor]:
        """Name in a checkpoint -> tensor."""
        return {f"mezzotint.condition.{name}": tensor.detach() for name, tensor in self.named_parameters()}

    def vectors(self, conditions: Conditions) -> Tensor:
        """float `[B, K, D]`. Raises ValueError for a condition that these weights do not know."""
        c, null = self.conditioning, self.conditioning.classes
        labels, given, rows = [], [], []
        for row, condition in enumerate(conditions):
            label, vector = condition.class_label, condition.embedding
            if label is not None and not 0 <= label < c.classes:
                known = f"0 to {c.classes - 1}" if c.classes else "none, these weights know no classes"
                raise ValueError(f"class_label is {label}; allowed: {known}")
            if vector is not None and len(vector) != c.embedding:
                known = f"{c.embedding} numbers" if c.embedding else "no embedding, these weights take none"
                raise ValueError(f"the embedding has {len(vector)} numbers; allowed: {known}")
            labels.append(null if label is None else label)
            if vector is not None:
                rows.append(row)
                given.append(vector)
        weight = self.embedding.weight
        found = self.embedding(torch.tensor(labels, device=weight.device))
        if self.projection is not None and given:
            projected = self.projection(torch.tensor(given, dtype=weight.dtype, device=weight.device))
            found = found.index_copy(0, torch.tensor(rows, device=weight.device), projected.to(found.dtype))
        return found.view(len(labels), c.length, self.width)

    def modulations(self, vectors: Tensor) -> list[Tensor]:
        """vectors `[B, 1, D]` -> for each block `[6, B, 1, D]`: shift, scale, gate of the attention, then of the MLP."""
        assert self.modulation is not None
        flat = self.modulation(nn.functional.silu(vectors))
        return list(flat.view(len(vectors), 1, self.num_layers, 6, self.width).permute(2, 3, 0, 1, 4))


def shapes(conditioning: Conditioning, width: int, num_layers: int) -> dict[str, tuple[int, ...]]:
    """Name in a checkpoint -> shape, for a network that declares this conditioning."""
    with torch.device("meta"):
        slots = Conditioner(conditioning, width, num_layers).slots()
    return {name: tuple(tensor.shape) for name, tensor in slots.items()}
