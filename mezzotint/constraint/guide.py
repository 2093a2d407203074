"""Guide: the formats of a batch of rows, and how far the text of each has come.

Two uses, one state a row. Left to right: which tokens may stand after a draft, and which must. On a canvas: what is certain
is given before a call, and what a call says is made into a valid filling of the open positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mezzotint.constraint.language import Ints
from mezzotint.constraint.lattice import Floats, Lattice
from mezzotint.draws import categorical
from mezzotint.shapes import Logits, Probs, Tokens, Where


class Guide:
    """lattices: one a row, None where a row has no format. Raises ValueError when `max_tokens` cannot hold any valid text."""

    def __init__(self, lattices: Sequence[Lattice | None], max_tokens: int) -> None:
        self.lattices = list(lattices)
        self.states = [0 for _ in lattices]
        self.left = [max_tokens for _ in lattices]
        for lattice in self.lattices:
            if lattice is not None and (least := int(lattice.automaton.distance[0])) > max_tokens:
                raise ValueError(f"the shortest text of this format has {least} tokens, max_tokens is {max_tokens}")

    def advance(self, row: int, tokens: Sequence[int]) -> None:
        """These tokens have been written."""
        self.left[row] -= len(tokens)
        lattice = self.lattices[row]
        if lattice is None:
            return
        for token in tokens:
            self.states[row] = lattice.automaton.step(self.states[row], token)
            assert self.states[row] >= 0, "a token was committed that the format does not allow"

    # -- left to right -------------------------------------------------------------------------------------------------

    def certain(self, row: int) -> list[int]:
        """The tokens that must come next."""
        lattice = self.lattices[row]
        return [] if lattice is None else lattice.automaton.certain(self.states[row], self.left[row])

    def end(self, row: int) -> list[int]:
        """The end token, when nothing else can come and there is room for it."""
        lattice = self.lattices[row]
        if lattice is None or self.left[row] < 1 or self.states[row] == lattice.automaton.end:
            return []
        if not lattice.automaton.over(self.states[row]):
            return []
        return list(lattice.automaton.end_ids[:1])

    def masked(self, logits: Logits, rows: Sequence[int], drafts: Tokens) -> Logits:
        """logits `[B, k + 1, V]` after each of the k draft tokens, -inf for what must not stand there.

        Behind a draft token that must not stand there nothing is masked: it is never kept.
        """
        if all(self.lattices[row] is None for row in rows):
            return logits
        forbidden = torch.zeros(logits.shape, dtype=torch.bool)
        for i, row in enumerate(rows):
            lattice, state = self.lattices[row], self.states[row]
            if lattice is None:
                continue
            for j in range(min(logits.shape[1], self.left[row])):
                allowed = lattice.automaton.allowed(state, self.left[row] - j)
                forbidden[i, j, : len(allowed)] = torch.from_numpy(~allowed)
                forbidden[i, j, len(allowed) :] = True
                token = int(drafts[i, j]) if j < drafts.shape[1] else -1
                if not 0 <= token < len(allowed) or not allowed[token]:
                    break
                state = lattice.automaton.step(state, token)
        return logits.masked_fill(forbidden.to(logits.device), -torch.inf)

    def drafted(
        self, logits: Logits, rows: Sequence[int], lock: Tokens, temperature: float, uniform: Tensor, tokens: Tokens,
        laws: Probs | None,
    ) -> tuple[Tokens, Probs | None]:  # fmt: skip
        """Drafts `[B, k]` chosen position by position, made valid texts; likewise the laws `[B, k, V]` they were drawn from."""
        tokens, laws = tokens.clone(), None if laws is None else laws.clone()
        for i, row in enumerate(rows):
            lattice = self.lattices[row]
            n = min(logits.shape[1], self.left[row])
            if lattice is None or n < 1:
                continue
            x = _fixed(_floats(logits[i, :n], lattice), lock[i, :n].numpy())
            heat, drawn = (temperature, uniform[i, :n].numpy()) if temperature else (1.0, None)
            path, law = lattice.path(x / heat, self.states[row], self.left[row] - n, drawn)
            tokens[i, :n] = torch.from_numpy(path)
            if laws is not None and law is not None:
                laws[i, :n] = 0
                laws[i, :n, : law.shape[1]] = torch.from_numpy(law)
        return tokens, laws


class CanvasGuide:
    """A guide for one canvas. rows: which of the guide's rows it has."""

    def __init__(self, guide: Guide, rows: Sequence[int]) -> None:
        self.guide, self.rows = guide, list(rows)

    def _spans(self, width: int) -> list[tuple[int, Lattice, int, int, int]]:
        """Row of the canvas, its lattice, its state, how many positions it may fill, and how many tokens may come behind."""
        out = []
        for i, row in enumerate(self.rows):
            if (lattice := self.guide.lattices[row]) is not None:
                n = min(width, self.guide.left[row])
                out.append((i, lattice, self.guide.states[row], n, self.guide.left[row] - n))
        return out

    def certain(self, tokens: Tokens, still_open: Where) -> tuple[Tokens, Where]:
        """What only one token can fill: the tokens `[B, C]`, and where; end tokens among them are told apart by `ends`."""
        out, where = tokens.clone(), torch.zeros_like(still_open)
        for i, lattice, state, n, room in self._spans(tokens.shape[1]):
            if not bool(still_open[i, :n].any()):
                continue
            found = lattice.certain(state, torch.where(still_open[i, :n], -1, tokens[i, :n]).numpy(), room)
            there = torch.from_numpy(found) >= 0
            out[i, :n] = torch.where(there, torch.from_numpy(found), out[i, :n])
            where[i, :n] = there
        return out, where

    def ends(self, tokens: Tokens) -> Where:
        """Where an end token stands, bool `[B, C]`."""
        ids = [i for lattice in self.guide.lattices if lattice is not None for i in lattice.automaton.end_ids]
        return torch.isin(tokens, torch.tensor(ids, dtype=torch.int64))

    def filled(
        self, logits: Logits, tokens: Tokens, still_open: Where, given: Where, heat: Tensor | None, uniform: Tensor
    ) -> tuple[Logits, Tokens]:
        """What a call says `[B, C, V]` -> the logits of the marginals at open positions, and a valid filling `[B, C]`.

        heat `[B]`: temperatures of a drawn filling, None for the likeliest. What is decided stands; where it cannot be
        completed (noise that looks decided), only what is given does.
        """
        logits = logits.clone()
        if heat is None:
            path = logits.argmax(-1)
        else:
            path = categorical((logits / heat[:, None, None].to(logits.device)).softmax(-1), uniform)
        for i, lattice, state, n, room in self._spans(tokens.shape[1]):
            here = still_open[i, :n]
            if not bool(here.any()):
                path[i, :n] = tokens[i, :n].to(path.device)
                continue
            fixed = torch.where(here, -1, tokens[i, :n]).numpy()
            if not lattice.possible(state, fixed, room):
                fixed = torch.where(given[i, :n], tokens[i, :n], -1).numpy()
            x = _fixed(_floats(logits[i, :n], lattice), fixed)
            warm = 1.0 if heat is None else float(heat[i])
            found, _ = lattice.path(x / warm, state, room, None if heat is None else uniform[i, :n].cpu().numpy())
            path[i, :n] = torch.from_numpy(found).to(path.device)
            said = torch.full_like(logits[i, :n], -torch.inf)
            said[:, : x.shape[1]] = torch.from_numpy(lattice.marginals(x, state, room)).to(logits)
            logits[i, :n] = torch.where(here[:, None].to(logits.device), said, logits[i, :n])
        return logits, path


def _floats(logits: Tensor, lattice: Lattice) -> Floats:
    """Logits about the tokens that the tokenizer knows, `[n, V]`; a network may have more rows."""
    return logits.to(torch.float64).cpu().numpy()[:, : len(lattice.automaton.class_of)].copy()


def _fixed(logits: Floats, fixed: Ints) -> Floats:
    """Certainty at positions whose token is fixed (-1 where it is not)."""
    there = (fixed >= 0).nonzero()[0]
    logits[there] = -np.inf
    logits[there, fixed[there]] = 0
    return logits
