"""Who may look at whom, as a pure function of places.

    clean stream   causal:          a clean position sees the clean positions up to itself
    canvas stream  bidirectional:   a canvas position sees all of its own canvas and the clean positions before it

    shadows        leave-one-out:   a shadow sees the same, except the canvas position that it speaks about; nobody sees it

A place is a position with a role, the first position of its canvas and the document it belongs to; under no rule does a
place see another document's (packed training rows). A cached key is a clean place like any other. Every rule has two
forms that tests hold equal: `dense`, a boolean table (the truth), and `flex`, the same rule as a mask function for
`torch.nn.attention.flex_attention`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

CLEAN, CANVAS, SHADOW = 0, 1, 2


class Places(NamedTuple):
    """Where each of T positions stands. All int64 `[B, T]`; `valid` bool `[B, T]`, False for padding."""

    position: Tensor
    role: Tensor
    start: Tensor  # first position of the canvas that a CANVAS or SHADOW place belongs to; for CLEAN its own position
    document: Tensor
    valid: Tensor

    @classmethod
    def of(
        cls,
        position: Tensor,
        role: Tensor,
        start: Tensor | None = None,
        document: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> Places:
        """Fill in what is not given: one canvas a row that starts at its lowest valid position, one document, no padding."""
        valid = torch.ones_like(position, dtype=torch.bool) if valid is None else valid
        if start is None:
            on_canvas = (role != CLEAN) & valid
            first = torch.where(on_canvas, position, torch.iinfo(torch.int64).max).amin(-1, keepdim=True)
            start = torch.where(role != CLEAN, first, position)
        document = torch.zeros_like(position) if document is None else document
        return cls(position, role, start, document, valid)

    def cat(self, other: Places) -> Places:
        return Places(*(torch.cat(pair, -1) for pair in zip(self, other, strict=True)))


Rule = Callable[[Places, Places], Tensor]  # places broadcast against each other -> bool


def _causal(q: Places, k: Places) -> Tensor:
    return k.position <= q.position


def _full(q: Places, k: Places) -> Tensor:
    return torch.ones_like(k.position <= q.position)


def _context_causal(q: Places, k: Places) -> Tensor:
    clean = (q.role == CLEAN) & (k.role == CLEAN) & (k.position <= q.position)
    own = (q.role == CANVAS) & (k.role == CANVAS) & (k.start == q.start)
    before = (q.role == CANVAS) & (k.role == CLEAN) & (k.position < q.start)
    return clean | own | before


@dataclass(frozen=True)
class Visibility:
    """A rule and its restrictions. `cacheable`: is a cached clean prefix exact under it, or an approximation?"""

    name: str
    rules: tuple[Rule, ...]
    cacheable: bool

    def within(self, window: int) -> Visibility:
        """Only keys less than `window` positions away."""
        if window < 1:
            raise ValueError(f"window is {window}; it must be at least 1")
        return Visibility(
            f"{self.name} within {window}",
            (*self.rules, lambda q, k: (q.position - k.position).abs() < window),
            self.cacheable,
        )

    def within_context(self, window: int) -> Visibility:
        """Only keys less than `window` positions before a clean place, or before the canvas of one that is on it.

        So a canvas sees the whole of itself and the same clean keys from everywhere (DiffusionGemma's sliding layers).
        """
        if window < 1:
            raise ValueError(f"window is {window}; it must be at least 1")
        return Visibility(
            f"{self.name} within context {window}",
            (*self.rules, lambda q, k: q.start - k.position < window),
            self.cacheable,
        )

    def allowed(self, q: Places, k: Places) -> Tensor:
        seen = k.valid & q.valid & (q.document == k.document)
        for rule in self.rules:
            seen = seen & rule(q, k)
        return seen

    def dense(self, q: Places, k: Places) -> Tensor:
        """The whole table: bool `[B, T, S]`, True where query t may attend to key s."""
        return self.allowed(Places(*(x[:, :, None] for x in q)), Places(*(x[:, None, :] for x in k)))

    def flex(self, q: Places, k: Places) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        """The same rule as a mask function `(b, h, q_idx, kv_idx) -> bool` for FlexAttention."""

        def mask_mod(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            return self.allowed(Places(*(x[b, q_idx] for x in q)), Places(*(x[b, kv_idx] for x in k)))

        return mask_mod

    def block_mask(self, places: Places) -> BlockMask:
        """The rule over T places themselves, for FlexAttention. Padding sees everything, as in a dense pass."""
        from torch.nn.attention.flex_attention import create_block_mask

        rule, (rows, count) = self.flex(places, places), places.position.shape

        def mask_mod(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            return rule(b, h, q_idx, kv_idx) | ~places.valid[b, q_idx]

        return create_block_mask(mask_mod, rows, None, count, count, device=places.position.device)


def full() -> Visibility:
    """Everyone sees everyone (LLaDA, Dream)."""
    return Visibility("full", (_full,), cacheable=False)


def causal() -> Visibility:
    """Everyone sees what stands at or before it: the AR model."""
    return Visibility("causal", (_causal,), cacheable=True)


def blocks(size: int) -> Visibility:
    """Bidirectional inside absolute blocks of `size`, causal between them (SDAR, LLaDA2)."""
    if size < 1:
        raise ValueError(f"block size is {size}; it must be at least 1")
    return Visibility(f"blocks of {size}", (lambda q, k: k.position // size <= q.position // size,), cacheable=True)


def blocks_by_start() -> Visibility:
    """Bidirectional inside blocks, causal between them; `Places.start` says where each one's block begins (dllm's BD3LM)."""
    return Visibility("blocks by start", (lambda q, k: k.start <= q.start,), cacheable=True)


def context_causal() -> Visibility:
    """Causal clean stream, bidirectional canvas that reads the clean positions before it: ours, for any set of canvases.

    With one canvas a row it is the pass that decodes; with `two_stream_places` the pass that trains.
    """
    return Visibility("context-causal", (_context_causal,), cacheable=True)


def branches() -> Visibility:
    """Clean texts side by side, each going on from a place of what is kept: it sees what stands before that place, and itself.

    start: of such a place -1 - the first position of its branch (no two branches have the same); what is kept has its own.
    """

    def rule(q: Places, k: Places) -> Tensor:
        return (k.start == q.start) | ((k.start >= 0) & (k.position < -1 - q.start))

    return Visibility("branches", (_causal, rule), cacheable=True)


def with_shadows(shift: int = 0) -> Visibility:
    """`context_causal` and shadow places: a query at a canvas position that speaks about position + `shift`.

    It sees itself and the clean and canvas positions that its canvas sees, but neither the canvas position that it speaks
    about nor the one it stands for: what it says is the canvas's opinion without that token (WINO, arXiv 2507.18578). The
    other canvas positions have seen the token, so from the second layer on something of it can come back through them.
    """

    def shadow(q: Places, k: Places) -> Tensor:
        spoken = (k.position == q.position) | (k.position == q.position + shift)
        own = (k.role == CANVAS) & (k.start == q.start) & ~spoken
        itself = (k.role == SHADOW) & (k.position == q.position)
        before = (k.role == CLEAN) & (k.position < q.start)
        return (q.role == SHADOW) & (own | itself | before)

    return Visibility("with shadows", (lambda q, k: _context_causal(q, k) | shadow(q, k),), cacheable=True)


def two_stream_places(
    length: int, size: int, rows: int = 1, offset: Tensor | int = 0, document: Tensor | None = None
) -> Places:
    """Places of a training row `[canvas (L) | clean (L)]`, both at positions 0..L-1, in canvases of `size`.

    offset int64 `[B]`: canvases start at positions congruent to it modulo `size`, the first may be shorter. -> `[B, 2L]`
    """
    if size < 1:
        raise ValueError(f"block size is {size}; it must be at least 1")
    position = torch.arange(length).expand(rows, -1)
    shift = torch.as_tensor(offset, dtype=torch.int64).reshape(-1, 1) % size
    start = ((position - shift) // size * size + shift).clamp(min=0)
    ones = torch.ones_like(position)
    canvas = Places.of(position, ones * CANVAS, start, document)
    return canvas.cat(Places.of(position, ones * CLEAN, None, document))
