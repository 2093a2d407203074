"""Networks as a decoder sees them: one that remembers what it said, one that finishes a token which was cut off.

    def add(a, b):\n    |     read: def add(a, b):     due: \n and four spaces     said first: \n and three, then " return"

A text that ends where somebody stopped typing ends in tokens that the tokenizer would have made otherwise with what
follows. They are taken back, and what is written first must spell them (token healing, Lundberg 2023).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.shapes import Tokens

BACK = 8  # tokens that are taken back at most


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


def taken_back(tokenizer: Tokenizer, ids: Sequence[int]) -> int:
    """How many of the last ids are to be spelled again: all of the white space at the end, or of the word, or else one."""
    count = min(1, len(ids))
    while 0 < count < min(BACK, len(ids)):
        before, first = (tokenizer.token_bytes(ids[-n]) for n in (count + 1, count))
        space = before.isspace() and first.isspace()
        if not space and not (_in_word(before[-1:]) and _in_word(first[:1])):
            break
        count += 1
    return count


def _in_word(byte: bytes) -> bool:
    return byte.isalnum() or byte >= b"\x80"


class Spelled:
    """Which ids may come where some bytes are due: those that begin with them. Those that they begin with as well where the bytes
    are white space, of which several tokens are usual, or no id begins with them: else a likely " " would go before half a word.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._spellings = tokenizer.spellings()
        self._sorted = sorted((spelled, id) for id, spelled in enumerate(self._spellings) if spelled)
        self._last = b"\xff" * (tokenizer.longest_token + 1)  # behind all that begins with what stands before it

    def allowed(self, due: bytes) -> Tensor:
        """int64, in order."""
        fits = self._between((due, 0), (due + self._last, 0))
        if due.isspace() or not fits:
            for count in range(1, len(due)):
                fits += self._between((due[:count], 0), (due[:count], len(self._spellings)))
        return torch.tensor(sorted(fits), dtype=torch.int64)

    def _between(self, first: tuple[bytes, int], end: tuple[bytes, int]) -> list[int]:
        return [id for _, id in self._sorted[bisect_left(self._sorted, first) : bisect_left(self._sorted, end)]]

    def after(self, due: bytes, id: int) -> bytes:
        """What is due behind an id."""
        spelled = self._spellings[id] or b""
        return due[len(spelled) :] if due.startswith(spelled) else b""


class Healing(Heard):
    """Logits of one row, -inf for all that does not spell what is `due`. `wrote` tells it what was chosen."""

    def __init__(self, denoiser: Any, spelled: Spelled, due: bytes) -> None:
        super().__init__(denoiser)
        self.spelled, self.due = spelled, due

    def read(self, tokens: Tokens, counts: Tensor, cache: Any, every: bool = False) -> Any:
        said = super().read(tokens, counts, cache, every)
        if not self.due:
            return said
        logits, due = said.logits.clone(), self.due
        drafts = tokens[0, 1:].tolist() if every else []
        for at in range(logits.shape[1]):
            allowed = self.spelled.allowed(due) if due else tokens.new_zeros(0)
            if len(allowed):
                kept = logits[0, at, allowed]
                logits[0, at] = logits[0, at].fill_(-torch.inf).index_copy(0, allowed, kept)
            if at < len(drafts):
                due = self.spelled.after(due, drafts[at])
        self.logits = logits
        return said._replace(logits=logits)

    def wrote(self, ids: Sequence[int]) -> None:
        for id in ids:
            self.due = self.spelled.after(self.due, id)
