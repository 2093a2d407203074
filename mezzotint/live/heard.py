"""Heard: what a decoder's network said last, for those who want more of it than tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mezzotint.shapes import Tokens


class Heard:
    """A denoiser that remembers what it said last: `[B, T, V]` logits."""

    def __init__(self, denoiser: Any) -> None:
        self.denoiser = denoiser
        self.logits: Tensor | None = None

    def new_cache(self, rows: int, capacity: int) -> Any:
        return self.denoiser.new_cache(rows, capacity)

    def read(self, tokens: Tokens, counts: Tensor, cache: Any, every: bool = False) -> Any:
        said = self.denoiser.read(tokens, counts, cache, every)
        self.logits = said.logits
        return said
