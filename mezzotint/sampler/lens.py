"""Lens: what stands between a network and its sampler. It tilts logits as a request asks, and notes what the network said.

    network -> logits -> noted: log-probabilities of what becomes text -> tilted: penalties, bias, truncation -> sampler

- Penalties count committed tokens. In a causal pass that is all text before a position, the draft being checked included, so
  `verified` stays equal to `ar`; on a canvas it is what stands before the canvas.
- Truncation (top_k, top_p, min_p) rules out tokens that are unlikely at the request's temperature, each counted in the
  whole law; it does nothing at temperature 0. On a canvas confidence is that of the law that is left, as in Dream.
- Log-probabilities are the network's own: before all this and before temperature. Of three kinds:

      commit    what the call said that wrote the token as it now stands        no further call
      final     what a call says that sees the whole finished canvas            one more call a canvas
      causal    what the causal pass says, given the text before the token      one more call a canvas

  Without canvases (`ar`, `verified`) the three are one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mezzotint.sampler.canvas import GIVEN, OPEN
from mezzotint.sampler.trace import Frame
from mezzotint.shapes import Logits, Tokens, Where

LOGPROBS = ("commit", "final", "causal")


@dataclass(frozen=True)
class Tilt:
    """What a request does to logits; false if that is nothing.

    bias: {id: nats}. presence: nats taken from every id that the answer has; frequency: for every time it has it.
    repetition: ids of prompt and answer have positive logits divided by it and negative ones multiplied (arXiv 1909.05858).
    top_k: the k likeliest ids stay, 0 all; top_p: the fewest likeliest ids that have this share together
    (arXiv 1904.09751); min_p: those with at least this share of the likeliest's chance (arXiv 2407.01082); temperature: of
    the law that is so cut. Raises ValueError for values out of range.
    """

    bias: Mapping[int, float] = field(default_factory=dict)
    presence: float = 0.0
    frequency: float = 0.0
    repetition: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    temperature: float = 0.0

    def __post_init__(self) -> None:
        for name in ("presence", "frequency"):
            if not -2 <= (value := getattr(self, name)) <= 2:
                raise ValueError(f"{name} penalty is {value}; it must lie between -2 and 2")
        if not 0 < self.repetition <= 10:
            raise ValueError(f"repetition penalty is {self.repetition}; it must be above 0 and at most 10")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}; it must be at least 0, which keeps all")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p is {self.min_p}; it must lie between 0 and 1")
        for token, nats in self.bias.items():
            if token < 0 or not -100 <= nats <= 100:
                raise ValueError(f"bias of id {token} is {nats}; ids start at 0, and a bias lies between -100 and 100")

    def __bool__(self) -> bool:
        return bool(self.bias) or self._penalises or self._truncates

    @property
    def _penalises(self) -> bool:
        return bool(self.presence or self.frequency or self.repetition != 1)

    @property
    def _truncates(self) -> bool:
        return bool(self.temperature and (self.top_k or self.top_p < 1 or self.min_p))

    def of(self, logits: Logits, read: Sequence[int], answer: int) -> Logits:
        """Tilted copies of logits `[..., V]` behind ids `read`, of which those from `answer` on are the answer's."""
        out = logits.clone()
        size = logits.shape[-1]
        if self._penalises:
            seen = torch.bincount(torch.tensor(read, dtype=torch.int64), minlength=size).to(out.device) > 0
            said = torch.bincount(torch.tensor(read[answer:], dtype=torch.int64), minlength=size).to(out)
            kept = torch.where(out > 0, out / self.repetition, out * self.repetition)
            out = torch.where(seen, kept, out) - self.frequency * said - self.presence * (said > 0)
        if self.bias:
            ids = [token for token in self.bias if token < size]
            out[..., ids] += torch.tensor([self.bias[token] for token in ids], dtype=out.dtype, device=out.device)
        return self._likely(out) if self._truncates else out

    def _likely(self, logits: Logits) -> Logits:
        """-inf for what is too unlikely; the likeliest always stays."""
        law = (logits.to(torch.float64) / self.temperature).softmax(-1)
        sure, order = law.sort(dim=-1, descending=True, stable=True)
        drop = (sure.cumsum(-1) - sure >= self.top_p) | (sure < self.min_p * sure[..., :1])
        if self.top_k:
            drop[..., self.top_k :] = True
        drop[..., 0] = False
        return logits.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), -torch.inf)


NONE = Tilt()


class Scored(NamedTuple):
    """A token and its log-probability in nats, and the likeliest ones with theirs."""

    token: int
    nats: float
    top: list[tuple[int, float]]


class Rows:
    """A cache that knows which rows it holds, and what each of them has read."""

    def __init__(self, inner: Any, rows: list[int], read: list[list[int]]) -> None:
        self.inner, self.rows, self.read = inner, rows, read

    @property
    def lengths(self) -> Tensor:
        return self.inner.lengths

    def fork(self, rows: Tensor | Sequence[int]) -> Rows:
        index = torch.as_tensor(rows, dtype=torch.int64).tolist()
        return Rows(self.inner.fork(index), [self.rows[i] for i in index], [list(self.read[i]) for i in index])

    def truncate(self, lengths: Tensor | Sequence[int]) -> None:
        self.inner.truncate(lengths)
        self.read = [ids[:length] for ids, length in zip(self.read, torch.as_tensor(lengths).tolist(), strict=True)]


class Note:
    """What the network said of each row's next tokens, kept until a frame says what became of them. top: how many others."""

    def __init__(self, kind: str, top: int) -> None:
        self.kind, self.top = kind, top
        self.calls = self.positions = 0
        self._law, self._cache = torch.empty(0), Rows(None, [], [])
        self._network: Any = None
        self._canvas: dict[int, tuple[int, list[Scored | None]]] = {}  # row -> its block and what it holds

    def hear(self, network: Any, cache: Rows, logits: Logits) -> None:
        """logits `[B, W, V]` of a call, before anything is done to them."""
        self._network, self._cache, self._law = network, cache, logits.log_softmax(-1)

    def cost(self) -> tuple[int, int]:
        """Its own calls and positions since this was last asked."""
        spent, self.calls, self.positions = (self.calls, self.positions), 0, 0
        return spent

    def take(self, frame: Frame) -> list[Scored]:
        """What the tokens are worth that this frame commits; to be asked of every frame in turn."""
        if frame.kind in ("denoise", "commit"):
            return self._of_canvas(frame)
        law = self._law[self._cache.rows.index(frame.row)]
        return [self._score(law[j], token) for j, token in enumerate(frame.tokens[: frame.committed])]

    def _of_canvas(self, frame: Frame) -> list[Scored]:
        number, held = self._canvas.pop(frame.row, (-1, []))
        if number != frame.block:
            held = [None] * len(frame.tokens)
        if frame.kind == "commit":
            tokens = frame.tokens[: frame.committed]
            if self.kind != "commit":
                return self._again(frame, tokens)
            certain = [Scored(token, 0.0, [(token, 0.0)]) for token in tokens]  # a locked token never was a question
            return [entry or sure for entry, sure in zip(held, certain, strict=False)]
        law = self._law[self._cache.rows.index(frame.row)]
        for i, (token, status) in enumerate(zip(frame.tokens, frame.status, strict=True)):
            entry = held[i]
            if status in (OPEN, GIVEN):
                held[i] = None
            elif entry is None or entry.token != token:
                held[i] = self._score(law[i], token)
        self._canvas[frame.row] = frame.block, held
        return []

    def _again(self, frame: Frame, tokens: list[int]) -> list[Scored]:
        """The finished canvas in one more call. It leaves the cache as it is."""
        here = self._cache.inner.fork([self._cache.rows.index(frame.row)])
        ids = torch.tensor([tokens])
        self.calls, self.positions = self.calls + 1, self.positions + len(tokens)
        if self.kind == "final":
            positions = frame.start + torch.arange(len(tokens))[None]
            logits = self._network.denoise(ids, positions, torch.ones_like(ids, dtype=torch.bool), here)[0]
        else:
            first = here.ahead
            after = self._network.read(ids, torch.tensor([len(tokens)]), here, every=True).logits[0]
            logits = torch.cat((first, after[:-1]))
        law = logits.log_softmax(-1)
        return [self._score(law[j], token) for j, token in enumerate(tokens)]

    def _score(self, law: Tensor, token: int) -> Scored:
        """law `[V]`: log-probabilities."""
        values, ids = law.topk(self.top) if self.top else (law[:0], law[:0])
        top = [(int(i), v) for i, v in zip(ids.tolist(), values.tolist(), strict=True)]
        return Scored(token, float(law[token]), top)


class Lens:
    """A network seen through it: both passes of `Denoiser`, tilted row by row, noted before that.

    tilts, answers: one a row, and how many ids are its prompt.
    """

    def __init__(self, network: Any, tilts: Sequence[Tilt], answers: Sequence[int], note: Note | None = None) -> None:
        self.network, self.tilts, self.answers, self.note = network, tilts, answers, note

    def new_cache(self, rows: int, capacity: int) -> Rows:
        return Rows(self.network.new_cache(rows, capacity), list(range(rows)), [[] for _ in range(rows)])

    def read(self, tokens: Tokens, counts: Tensor, cache: Rows, every: bool = False) -> Any:
        """`Denoiser.read`."""
        found = self.network.read(tokens, counts, cache.inner, every)
        if self.note is not None:
            self.note.hear(self.network, cache, found.logits)
        logits = found.logits
        for i, (row, count) in enumerate(zip(cache.rows, counts.tolist(), strict=True)):
            before, new = cache.read[i], tokens[i, :count].tolist()
            cache.read[i] = before + new
            if not self.tilts[row] or not count:
                continue
            logits = logits.clone() if logits is found.logits else logits
            if every:
                for j in range(count):
                    logits[i, j] = self._tilted(row, found.logits[i, j], before + new[: j + 1])
            else:
                logits[i] = self._tilted(row, found.logits[i], cache.read[i])
        return found._replace(logits=logits)

    @property
    def level_input(self) -> Any:
        return getattr(self.network, "level_input", None)

    def denoise(self, tokens: Tokens, positions: Tensor, valid: Where, cache: Rows, **more: Any) -> Logits:
        """`Denoiser.denoise`, feedback and sigma included."""
        logits: Logits = self.network.denoise(tokens, positions, valid, cache.inner, **more)
        return self._canvas(cache, logits)

    def denoise_with_shadow(
        self, tokens: Tokens, positions: Tensor, valid: Where, cache: Rows, masks: Tokens
    ) -> tuple[Logits, Logits]:
        """`Denoiser.denoise_with_shadow`; shadows are asked how sure they are, and so not tilted."""
        logits, shadow = self.network.denoise_with_shadow(tokens, positions, valid, cache.inner, masks)
        return self._canvas(cache, logits), shadow

    def encode_feedback(self, logits: Logits) -> Tensor | None:
        found: Tensor | None = self.network.encode_feedback(logits)
        return found

    def _canvas(self, cache: Rows, logits: Logits) -> Logits:
        if self.note is not None:
            self.note.hear(self.network, cache, logits)
        return self._rows(cache, logits)

    def _rows(self, cache: Rows, logits: Logits) -> Logits:
        if not any(self.tilts[row] for row in cache.rows):
            return logits
        return torch.stack([self._tilted(row, logits[i], cache.read[i]) for i, row in enumerate(cache.rows)])

    def _tilted(self, row: int, logits: Logits, read: list[int]) -> Logits:
        return self.tilts[row].of(logits, read, self.answers[row]) if self.tilts[row] else logits


class BranchLens(Lens):
    """The same for a network of two branches: a tilt of both is a tilt of what they make together."""

    def denoise_branches(
        self, tokens: Tokens, positions: Tensor, valid: Where, cache: Rows, **more: Any
    ) -> tuple[Logits, Logits]:
        told, untold = self.network.denoise_branches(tokens, positions, valid, cache.inner, **more)
        return self._rows(cache, told), self._rows(cache, untold)
