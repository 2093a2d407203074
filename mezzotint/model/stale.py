"""Networks whose clean text is not causal: what is cached of it holds only up to a border, the rest is read again.

    blocks of 4     [k k k k | k k k k | t t ? ?]    whole blocks are kept; the tail is part of the canvas's block
    after a prompt  [k k | k k k k | ? ? ? ?]        the same, but blocks are counted from where the prompt ends
    full            [t t t t t t t t t t ? ? ? ?]    nothing is kept: every pass computes the whole text

A cache of such a network knows the ids of its text (`cache.text`). Behind the border its slots hold keys of an earlier pass,
which the next one overwrites. Sources: SDAR, LLaDA2 and Fast-dLLM v2 (blocks), dllm (after a prompt), LLaDA and Dream (full).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mezzotint.model.cache import PIECE, KVCache
from mezzotint.model.visibility import CANVAS, CLEAN, Places, Visibility, blocks, blocks_by_start, full
from mezzotint.shapes import Logits, Tokens, Where

if TYPE_CHECKING:
    from mezzotint.model.denoiser import Denoiser, Prediction


@dataclass(frozen=True)
class BlockReader:
    """size: positions of a block that starts at a multiple of it; None when everyone sees everyone.

    after_prompt: the text that is read first ends a block, whatever its length; the block that begins it may be shorter.
    """

    size: int | None = None
    after_prompt: bool = False

    @property
    def visible(self) -> Visibility:
        if self.size is None:
            return full()
        return blocks_by_start() if self.after_prompt else blocks(self.size)

    def border(self, length: int, prompt: int = 0) -> int:
        """How much of a text of this length is final; prompt: the length of what was read first."""
        if self.size is None:
            return 0
        first = prompt % self.size if self.after_prompt else 0
        return 0 if length < first else first + (length - first) // self.size * self.size

    def room(self, start: int, prompt: int = 0) -> int | None:
        """Positions left in the block that a canvas at `start` belongs to; None: as many as one likes."""
        if self.size is None:
            return None
        return self.border(start + self.size, prompt) - start

    def read(self, denoiser: Denoiser, tokens: Tokens, counts: Tensor, cache: KVCache) -> Prediction:
        """Append clean text to the cache's; compute the blocks that it completes, and only those.

        `cache.ahead` is then the last row of a text that ends with a block (what a shifted network says of the next
        position), else None. The prediction has one row of logits a text: that, or zeros.
        """
        from mezzotint.model.denoiser import Prediction

        length = cache.lengths
        cache.began = [
            began if ids else n for began, ids, n in zip(cache.began, cache.text, counts.tolist(), strict=True)
        ]
        text = [ids + row[:n] for ids, row, n in zip(cache.text, tokens.tolist(), counts.tolist(), strict=True)]
        old = torch.tensor([self.border(n, began) for n, began in zip(length.tolist(), cache.began, strict=True)])
        new = torch.tensor([self.border(len(ids), began) for ids, began in zip(text, cache.began, strict=True)])
        ends = [len(ids) for ids in text]
        cache.ahead, cache.text = None, text
        vocabulary, width = denoiser.config.vocab_size, denoiser.config.width
        logits = denoiser.embedding.weight.new_zeros(len(text), 1, vocabulary)
        hidden = denoiser.embedding.weight.new_zeros(len(text), 1, width)
        while bool((new > old).any()):  # a piece at a time, each whole blocks: it sees only what is before its end
            ahead = old + max(PIECE, self.size or 0)
            edges = [self.border(n, began) for n, began in zip(ahead.tolist(), cache.began, strict=True)]
            upto = new.minimum(torch.tensor(edges))
            pieces = [ids[a:b] for ids, a, b in zip(text, old.tolist(), upto.tolist(), strict=True)]
            rows, valid = _padded(pieces, tokens.device)
            places = self._places(rows, old, valid, CLEAN, cache.began)
            cache.rewind(old)
            last = (upto - old - 1).clamp(min=0)[:, None].to(tokens.device)
            said = denoiser(rows, places, self.visible, cache, last)
            reads = (upto > old)[:, None, None].to(tokens.device)
            logits, hidden = torch.where(reads, said.logits, logits), torch.where(reads, said.hidden, hidden)
            old = upto
            if bool((new == torch.tensor(ends)).all()):
                cache.ahead = logits[:, 0]
        cache.rewind(torch.tensor(ends))
        return Prediction(logits, torch.tensor(ends)[:, None], hidden)

    def denoise(
        self, denoiser: Denoiser, tokens: Tokens, valid: Where, cache: KVCache, sigma: Tensor | None = None
    ) -> Logits:
        """As `Denoiser.denoise`, the text behind the border read again before the canvas."""
        lengths = cache.lengths
        border = torch.tensor([self.border(n, began) for n, began in zip(lengths.tolist(), cache.began, strict=True)])
        tails = [ids[b:] for ids, b in zip(cache.text, border.tolist(), strict=True)]
        rows, real = _padded(
            [[*tail, *row[:n]] for tail, row, n in zip(tails, tokens.tolist(), valid.sum(-1).tolist(), strict=True)],
            tokens.device,
        )
        first = torch.tensor([len(tail) for tail in tails], device=tokens.device)[:, None]
        wanted = first + torch.arange(tokens.shape[1], device=tokens.device) - denoiser.shift  # [B, C]
        cache.rewind(border)
        places = self._places(rows, border, real, CANVAS, cache.began)
        want = wanted.clamp(0, rows.shape[1] - 1)  # of the text before the canvas nobody asks
        found = denoiser(rows, places, self.visible, cache, want, sigma=sigma).logits
        cache.rewind(lengths)
        if cache.ahead is None:
            return found
        return torch.where((wanted < 0)[..., None], cache.ahead[:, None].to(found.dtype), found)

    def _places(self, rows: Tensor, start: Tensor, valid: Tensor, role: int, began: list[int]) -> Places:
        position = start[:, None].to(rows.device) + torch.arange(rows.shape[1], device=rows.device)
        position = torch.where(valid, position, 0)
        block = position
        if self.size is not None and self.after_prompt:  # where each one's block begins
            first = torch.tensor(began, device=rows.device)[:, None] % self.size
            block = ((position - first).div(self.size, rounding_mode="floor") * self.size + first).clamp(min=0)
        return Places.of(position, torch.full_like(position, role), start=block, valid=valid)


def _padded(rows: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """ids `[B, T]`, zeros behind the end, and which of them are real."""
    width = max(1, *map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
    counts = torch.tensor([len(row) for row in rows], device=device)
    return ids, torch.arange(width, device=device) < counts[:, None]
