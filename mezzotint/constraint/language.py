"""Language: a set of texts, as an expression over characters, and the smallest automaton over UTF-8 bytes that knows it.

    chars("a-c"), text("true"), seq, alt, repeat, members     expression
    -> byte NFA (a character is one to four byte ranges) -> subset construction -> merged states -> Automaton

There is no stack: nesting is unrolled by whoever writes the expression, so every question has an exact answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

MAX_STATES = 4000  # of a byte automaton
MAX_PARTS = 50_000  # states of the non-deterministic one
MAX_WORK = 6_000_000  # of making a deterministic one: about a second
LAST = 0x10FFFF
Ranges = tuple[tuple[int, int], ...]  # of code points, sorted, apart
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

Node = Callable[["Nfa", int], int]  # adds itself to an automaton behind a state, and gives the state after it


class TooLarge(ValueError):
    """The automaton has more states than are handled."""


@dataclass
class Nfa:
    """States are numbers; `edges[s]`: (low byte, high byte, target); `skips[s]`: targets without a byte."""

    edges: list[list[tuple[int, int, int]]] = field(default_factory=list)
    skips: list[list[int]] = field(default_factory=list)

    def state(self) -> int:
        if len(self.edges) >= MAX_PARTS:
            raise TooLarge("its repetitions and alternatives unroll into too many parts; lower its bounds")
        self.edges.append([])
        self.skips.append([])
        return len(self.edges) - 1

    def closure(self, states: Iterable[int]) -> frozenset[int]:
        found, todo = set(states), list(states)
        while todo:
            for target in self.skips[todo.pop()]:
                if target not in found:
                    found.add(target)
                    todo.append(target)
        return frozenset(found)


# -- expressions ------------------------------------------------------------------------------------------------------


def chars(ranges: Ranges) -> Node:
    """One character out of code point ranges. Surrogates have no bytes and are left out."""

    def add(nfa: Nfa, start: int) -> int:
        end = nfa.state()
        for low, high in ranges:
            for sequence in utf8_ranges(low, high):
                at = start
                for low_byte, high_byte in sequence[:-1]:
                    target = nfa.state()
                    nfa.edges[at].append((low_byte, high_byte, target))
                    at = target
                nfa.edges[at].append((*sequence[-1], end))
        return end

    return add


def text(literal: str) -> Node:
    """These characters."""

    def add(nfa: Nfa, start: int) -> int:
        for byte in literal.encode():
            target = nfa.state()
            nfa.edges[start].append((byte, byte, target))
            start = target
        return start

    return add


def seq(*parts: Node) -> Node:
    """One after the other; nothing, without parts."""

    def add(nfa: Nfa, start: int) -> int:
        for part in parts:
            start = part(nfa, start)
        return start

    return add


def alt(*parts: Node) -> Node:
    """Any of them; no text at all, without parts."""

    def add(nfa: Nfa, start: int) -> int:
        end = nfa.state()
        for part in parts:
            first = nfa.state()
            nfa.skips[start].append(first)
            nfa.skips[part(nfa, first)].append(end)
        return end

    return add


def repeat(part: Node, least: int = 0, most: int | None = None) -> Node:
    """`least` to `most` times (None: without end)."""

    def add(nfa: Nfa, start: int) -> int:
        for _ in range(least):
            start = part(nfa, start)
        if most is None:
            loop = nfa.state()
            nfa.skips[start].append(loop)
            nfa.skips[part(nfa, loop)].append(loop)
            return loop
        end = nfa.state()
        for _ in range(most - least):
            nfa.skips[start].append(end)
            start = part(nfa, start)
        nfa.skips[start].append(end)
        return end

    return add


def members(parts: Sequence[tuple[Node, bool]], comma: Node) -> Node:
    """Parts in order, commas between those that are there; `(part, True)` must be there."""

    def add(nfa: Nfa, start: int) -> int:
        none: int | None = start  # nothing has been written yet
        some: int | None = None  # something has
        for part, required in parts:
            before = nfa.state()
            if none is not None:
                nfa.skips[none].append(before)
            if some is not None:
                nfa.skips[comma(nfa, some)].append(before)
            after = nfa.state()
            nfa.skips[part(nfa, before)].append(after)
            if required:
                none = None
            elif some is not None:
                nfa.skips[some].append(after)
            some = after
        end = nfa.state()
        for last in (none, some):
            if last is not None:
                nfa.skips[last].append(end)
        return end

    return add


def separated(part: Node, comma: Node, least: int = 0, most: int | None = None) -> Node:
    """`least` to `most` parts with commas between them (None: without end)."""

    def add(nfa: Nfa, start: int) -> int:
        end = nfa.state()
        if least == 0:
            nfa.skips[start].append(end)
        if most == 0:
            return end
        before = nfa.state()
        nfa.skips[start].append(before)
        for number in range(1, max(least, 1) if most is None else most):
            after = part(nfa, before)
            if number >= least:
                nfa.skips[after].append(end)
            before = comma(nfa, after)
        loop = nfa.state()
        nfa.skips[before].append(loop)
        after = part(nfa, loop)
        nfa.skips[after].append(end)
        if most is None:
            nfa.skips[comma(nfa, after)].append(loop)
        return end

    return add


def both(first: Node, second: Node) -> Node:
    """Texts that belong to both."""

    def add(nfa: Nfa, start: int) -> int:
        product = intersection(Automaton.of(first), Automaton.of(second))
        inner = [nfa.state() for _ in product.next]
        nfa.skips[start].append(inner[0])
        end = nfa.state()
        for state, row in enumerate(product.next):
            for byte in (row >= 0).nonzero()[0].tolist():
                nfa.edges[inner[state]].append((byte, byte, inner[row[byte]]))
            if product.final[state]:
                nfa.skips[inner[state]].append(end)
        return end

    return add


# -- characters -------------------------------------------------------------------------------------------------------


def merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Sorted, with those that touch joined."""
    out: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if out and low <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], high))
        else:
            out.append((low, high))
    return tuple(out)


def without(ranges: Ranges, taken: Ranges) -> Ranges:
    """What of `ranges` is not in `taken`."""
    out = []
    for low, high in ranges:
        for start, end in taken:
            if end < low or start > high:
                continue
            if start > low:
                out.append((low, start - 1))
            low = end + 1
        if low <= high:
            out.append((low, high))
    return tuple(out)


def utf8_ranges(low: int, high: int) -> list[list[tuple[int, int]]]:
    """The code points `low` to `high` as sequences of byte ranges, surrogates left out."""
    out: list[list[tuple[int, int]]] = []
    for start, end, size in (
        (0, 0x7F, 1),
        (0x80, 0x7FF, 2),
        (0x800, 0xD7FF, 3),
        (0xE000, 0xFFFF, 3),
        (0x10000, LAST, 4),
    ):
        if (a := max(low, start)) <= (b := min(high, end)):
            out += _split(a, b, size)
    return out


def _split(low: int, high: int, size: int) -> list[list[tuple[int, int]]]:
    """Cut where the bytes behind the first do not cover their whole range."""
    for tail in range(1, size):
        mask = (1 << 6 * tail) - 1
        if low >> 6 * tail != high >> 6 * tail:
            if low & mask:
                return _split(low, low | mask, size) + _split((low | mask) + 1, high, size)
            if high & mask != mask:
                return _split(low, (high & ~mask) - 1, size) + _split(high & ~mask, high, size)
    return [list(zip(chr(low).encode(), chr(high).encode(), strict=True))]


# -- automaton --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Automaton:
    """Deterministic, over bytes, starting in state 0. next int64 `[S, 256]`, -1 where no text goes on; final bool `[S]`.

    From every state some text is accepted, so a prefix that has a state can be completed.
    """

    next: Ints
    final: Bools

    @classmethod
    def of(cls, node: Node) -> Automaton:
        """The smallest automaton of an expression. Raises ValueError when no text belongs to it, TooLarge."""
        nfa = Nfa()
        start = nfa.state()
        end = node(nfa, start)
        first = nfa.closure([start])
        number, order, rows, work = {first: 0}, [first], [], 0
        for states in order:
            row = np.full(256, -1, np.int64)
            edges = [edge for state in states for edge in nfa.edges[state]]
            cuts = sorted({low for low, _, _ in edges} | {high + 1 for _, high, _ in edges})
            work += 10 * len(states) + len(edges) * len(cuts)
            if work > MAX_WORK:
                raise TooLarge("it takes too long to be made an automaton of; lower its bounds")
            for low, above in pairwise(cuts):
                targets = frozenset(target for a, b, target in edges if a <= low and above <= b + 1)
                if not targets:
                    continue
                reached = nfa.closure(targets)
                if reached not in number:
                    if len(order) >= MAX_STATES:
                        raise TooLarge(f"it needs an automaton of more than {MAX_STATES} states; lower its bounds")
                    number[reached] = len(order)
                    order.append(reached)
                row[low:above] = number[reached]
            rows.append(row)
        return cls(np.stack(rows), np.array([end in states for states in order])).reduced()

    def reduced(self) -> Automaton:
        """Without dead ends and with equivalent states merged. Raises ValueError when nothing is left."""
        live = self.final.copy()
        targets = np.where(self.next >= 0, self.next, 0)
        while True:
            grown = live | (live[targets] & (self.next >= 0)).any(1)
            if (grown == live).all():
                break
            live = grown
        if not live[0]:
            raise ValueError("no text satisfies it")
        table = np.where((self.next >= 0) & live[targets], self.next, -1)
        table, final = table[live], self.final[live]
        renumber = np.append(live.cumsum() - 1, -1)  # -1 stays -1
        table = renumber[table]
        columns, back = np.unique(table, axis=1, return_inverse=True)
        weights = np.random.default_rng(0).integers(1, 2**62, columns.shape[1] + 1, dtype=np.int64) | 1
        group, count = final.astype(np.int64), 0
        while True:  # Moore: split states whose bytes lead to different groups
            seen = np.append(group, -1)[columns] + 2
            with np.errstate(over="ignore"):
                keys = seen @ weights[:-1] + group * weights[-1]
            _, first, group = np.unique(keys, return_index=True, return_inverse=True)
            if len(first) == count:
                break
            count = len(first)
        order = np.argsort(first)  # state 0 stays first
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        group, first = rank[group], first[order]
        small = np.append(group, -1)[columns[first]]
        return Automaton(small[:, back.reshape(-1)], final[first])

    def run(self, data: bytes, state: int = 0) -> int:
        """The state after these bytes, -1 if no text begins so."""
        for byte in data:
            state = int(self.next[state, byte])
            if state < 0:
                return -1
        return state

    def accepts(self, string: str) -> bool:
        state = self.run(string.encode())
        return state >= 0 and bool(self.final[state])


def intersection(first: Automaton, second: Automaton) -> Automaton:
    """Texts of both. Raises ValueError when there are none, TooLarge."""
    number, order, rows = {(0, 0): 0}, [(0, 0)], []
    for a, b in order:
        pairs = np.stack((first.next[a], second.next[b]), 1)
        row = np.full(256, -1, np.int64)
        for byte in np.flatnonzero((pairs >= 0).all(1)).tolist():
            pair = (int(pairs[byte, 0]), int(pairs[byte, 1]))
            if pair not in number:
                if len(order) >= 4 * MAX_STATES:
                    raise TooLarge("its conditions together need too many states; lower its bounds")
                number[pair] = len(order)
                order.append(pair)
            row[byte] = number[pair]
        rows.append(row)
    return Automaton(np.stack(rows), np.array([first.final[a] & second.final[b] for a, b in order])).reduced()
