"""Lattice: all ways in which a token automaton can fill a row of positions, weighed by the denoiser.

    position      0        1        2      ...     n
    state      start --a--> s --b--> s' --c--> ... can still end in the room that is left

A denoiser gives each position a distribution of its own; together they weigh every path. Forward and backward sums over
(position, state) then give, exactly, what no position knows alone:

    marginal   p(token at i | the whole is valid)       what rules call confidence
    path       the likeliest valid filling (Viterbi), or one drawn from p(. | valid) (backward sums, drawn left to right)

Any part of a path may be accepted: the rest of the path shows that it can be completed. DINGO (arXiv 2505.23061) does the
same by Viterbi alone. Sums are kept as logarithms; a step that exists never vanishes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mezzotint.constraint.language import Ints
from mezzotint.constraint.tokens import TokenAutomaton

Floats = NDArray[np.float64]
TINY = 1e-300  # the least mass of a class that may stand at a position


class _Groups(NamedTuple):
    """Places of an array gathered by a key: `order` sorts them, each key's run begins at `starts` and is `counts` long."""

    order: Ints
    keys: Ints
    starts: Ints
    counts: Ints

    @classmethod
    def by(cls, key: Ints) -> _Groups:
        order = key.argsort(kind="stable")
        keys, starts, counts = np.unique(key[order], return_index=True, return_counts=True)
        return cls(order, keys, starts, counts)

    def log_sums(self, values: Floats) -> Floats:
        """log(sum(exp)) of each group along the last axis; -inf only where all of it is."""
        values = values[..., self.order]
        top = np.maximum.reduceat(values, self.starts, -1)
        safe = np.where(np.isfinite(top), top, 0)
        with np.errstate(divide="ignore", under="ignore"):
            sums = np.add.reduceat(np.exp(values - safe.repeat(self.counts, -1)), self.starts, -1)
            return np.log(sums) + safe

    def tops(self, values: Floats) -> Floats:
        return np.maximum.reduceat(values[..., self.order], self.starts, -1)

    def scatter(self, values: Floats, size: int) -> Floats:
        out = np.full((*values.shape[:-1], size), -np.inf)
        out[..., self.keys] = values
        return out


@dataclass(frozen=True, eq=False)
class Lattice:
    """The steps of an automaton, gathered: all tokens between two states are one *edge*, edges with the same classes one
    *label*."""

    automaton: TokenAutomaton

    @cached_property
    def _edges(self) -> tuple[Ints, Ints, Ints, Ints, Ints]:
        """source, target and label `[P]` of each edge; label and class `[E]` of each member of a label."""
        table = self.automaton.next
        sources, classes = (table >= 0).nonzero()
        targets = table[sources, classes]
        pair, edge_of = np.unique(sources * len(table) + targets, return_inverse=True)
        edge_of = edge_of.reshape(-1)
        rng = np.random.default_rng(1)
        salt = rng.integers(-(2**62), 2**62, (table.shape[1],), dtype=np.int64)
        keys = np.zeros(len(pair), np.int64)
        with np.errstate(over="ignore"):
            np.add.at(keys, edge_of, salt[classes])
        _, first, label = np.unique(keys, return_index=True, return_inverse=True)
        label = label.reshape(-1)
        member = first[label[edge_of]] == edge_of  # one edge speaks for each label
        source, target = np.divmod(pair, len(table))
        return source, target, label, label[edge_of][member], classes[member]

    @cached_property
    def _groups(self) -> tuple[_Groups, _Groups, _Groups, _Groups, _Groups]:
        """Edges by source, by target, by label; members by label, by class."""
        source, target, label, member_label, member_class = self._edges
        return (*map(_Groups.by, (source, target, label, member_label, member_class)),)  # type: ignore[return-value]  # five in, five out

    @cached_property
    def _by_class(self) -> _Groups:
        """Tokens by class."""
        return _Groups.by(self.automaton.class_of)

    def _weights(self, logits: Floats, best: bool) -> Floats:
        """What each edge weighs at each position, as a logarithm `[n, P]`: the sum of its tokens, or the best of them."""
        top = logits.max(-1, keepdims=True)
        x = logits - top
        with np.errstate(under="ignore"):
            mass = (
                self._by_class.tops(x)
                if best
                else np.add.reduceat(np.exp(x)[:, self._by_class.order], self._by_class.starts, -1)
            )
        if best:
            with np.errstate(under="ignore"):
                mass = np.exp(mass)
        possible = self._by_class.tops(x) > -np.inf
        return self._edge_weights(np.where(possible, np.maximum(mass, TINY), 0), best) + top

    def _edge_weights(self, mass: Floats, best: bool) -> Floats:
        """mass `[n, K]` of the classes."""
        by_label, classes, label = self._groups[3], self._edges[4], self._edges[2]
        members = mass[:, classes[by_label.order]]
        gather = np.maximum.reduceat if best else np.add.reduceat
        with np.errstate(divide="ignore"):
            return np.log(gather(members, by_label.starts, -1))[:, label]

    def _backward(self, weights: Floats, room: int, best: bool) -> Floats:
        """log of what can follow each state at each position, `[n + 1, S]`; `room`: tokens that may still come behind."""
        target = self._edges[1]
        by_source = self._groups[0]
        out = np.full((len(weights) + 1, len(self.automaton.next)), -np.inf)
        out[-1, self.automaton.distance <= room] = 0
        for i in range(len(weights) - 1, -1, -1):
            values = weights[i] + out[i + 1, target]
            found = by_source.tops(values) if best else by_source.log_sums(values)
            out[i] = by_source.scatter(found, out.shape[1])
        return out

    def _forward(self, weights: Floats, start: int) -> Floats:
        """log of what leads to each state at each position, `[n + 1, S]`."""
        source = self._edges[0]
        by_target = self._groups[1]
        out = np.full((len(weights) + 1, len(self.automaton.next)), -np.inf)
        out[0, start] = 0
        for i, row in enumerate(weights):
            out[i + 1] = by_target.scatter(by_target.log_sums(row + out[i, source]), out.shape[1])
        return out

    def _around(self, weights: Floats, start: int, room: int) -> Floats:
        """log of the paths around each class at each position, `[n, K]`: all that is valid, the class's own mass left out."""
        source, target, _, member_label, _ = self._edges
        by_label, by_class = self._groups[2], self._groups[4]
        before, after = self._forward(weights, start), self._backward(weights, room, False)
        labels = by_label.log_sums(before[:-1, source] + after[1:, target])  # one label a key, in order
        return by_class.scatter(by_class.log_sums(labels[:, member_label]), self.automaton.next.shape[1])

    # -- what the sampler asks -----------------------------------------------------------------------------------------

    def possible(self, start: int, fixed: Ints, room: int) -> bool:
        """Can the positions be filled? fixed int64 `[n]`: ids that stand already, -1 where free."""
        after = self._backward(self._uniform(fixed), room, False)
        return bool(after[0, start] > -np.inf)

    def certain(self, start: int, fixed: Ints, room: int) -> Ints:
        """The only token that a free position can hold, -1 where there is a choice: int64 `[n]`."""
        around = self._around(self._uniform(fixed), start, room) > -np.inf
        single = around.sum(-1) == 1
        token = self.automaton.sole[around.argmax(-1)]
        return np.where(single & (fixed < 0), token, -1)

    def _uniform(self, fixed: Ints) -> Floats:
        mass = np.ones((len(fixed), self.automaton.next.shape[1]))
        given = (fixed >= 0).nonzero()[0]
        mass[given] = 0
        mass[given, self.automaton.class_of[fixed[given]]] = 1
        return self._edge_weights(mass, False)

    def marginals(self, logits: Floats, start: int, room: int) -> Floats:
        """logits `[n, V]` -> those of p(token at i | valid), not normalised. A fixed position holds one finite logit."""
        around = self._around(self._weights(logits, False), start, room)
        return logits + around[:, self.automaton.class_of]

    def path(self, logits: Floats, start: int, room: int, uniform: Floats | None) -> tuple[Ints, Floats | None]:
        """A valid filling int64 `[n]`: the likeliest, or with `uniform` `[n]` a drawn one.

        Also, when drawn, the law of each token given those on its left, `[n, V]`.
        """
        automaton, best = self.automaton, uniform is None
        after = self._backward(self._weights(logits, best), room, best)
        tokens, state = np.zeros(len(logits), np.int64), start
        laws = None if uniform is None else np.zeros(logits.shape)
        for i, row in enumerate(logits):
            targets = automaton.next[state]
            follow = np.where(targets >= 0, after[i + 1, targets], -np.inf)
            score = row + follow[automaton.class_of]
            if uniform is None or laws is None:
                tokens[i] = score.argmax()
            else:
                law = np.exp(score - score.max())
                law /= law.sum()
                cdf = law.cumsum()
                found = np.searchsorted(cdf, uniform[i] * cdf[-1], side="right")
                laws[i], tokens[i] = law, min(int(found), int(law.nonzero()[0][-1]))
            state = automaton.step(state, int(tokens[i]))
        return tokens, laws
