"""Tokens: a byte automaton read through a vocabulary.

    state --token--> state      for every token whose bytes lead somewhere from which a text can still be ended

- Tokens that lead to the same places from every state are one *class*; a large vocabulary has a few hundred of them.
- Where only one byte can follow, what is certain is spelled as the tokenizer itself would spell it, so that literals (keys,
  braces) are single-token steps and need no call. A space at its end is left open: it belongs to the next word's token.
- After the last byte stands an end token, behind it nothing but end tokens: state END.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mezzotint.constraint.language import Automaton, Bools, Ints

CHUNK = 1 << 22  # (state, token) pairs looked at together
FAR = 1 << 30


@dataclass(frozen=True, eq=False)
class TokenAutomaton:
    """State 0 is the start, the last state END.

    next int64 `[S, K]`: where a class of tokens leads, -1 where no text goes on; class_of int64 `[V]`; distance int64
    `[S]`: tokens that are needed at least until the text may end; final bool `[S]`: it may end here.
    """

    next: Ints
    class_of: Ints
    distance: Ints
    final: Bools
    end_ids: tuple[int, ...]

    @property
    def end(self) -> int:
        """The state behind an end token."""
        return len(self.next) - 1

    @classmethod
    def of(
        cls,
        automaton: Automaton,
        spellings: Sequence[bytes | None],
        encode: Callable[[str], list[int]],
        end_ids: Sequence[int],
    ) -> TokenAutomaton:
        """spellings: bytes of each id, None for ids that no text holds. Raises ValueError when no tokens spell such a text."""
        if not end_ids:
            raise ValueError("this checkpoint has no end token, so a format cannot end its text")
        table = _Table(automaton, spellings)
        first_of = {state: _literal(automaton, state, encode) for state in range(len(automaton.next))}
        lone = {state: token for state, token in first_of.items() if token is not None}
        size = len(automaton.next)
        rng = np.random.default_rng(0)
        factors = rng.integers(1, 2**62, size, dtype=np.int64) | 1
        keys = np.zeros(len(spellings), np.int64)
        step = max(1, CHUNK // max(len(spellings), 1))

        def rows(first: int, tokens: Ints) -> Ints:
            states = np.arange(first, min(first + step, size))
            found = table.walk(states, tokens)
            for row, state in enumerate(states.tolist()):
                if state in lone:
                    only = tokens == lone[state]
                    found[row] = np.where(only, found[row], -1)
            return found

        every = np.arange(len(spellings))
        with np.errstate(over="ignore"):
            for first in range(0, size, step):
                part = rows(first, every)
                keys += ((part + 1) * factors[first : first + len(part), None]).sum(0)
        ends = np.zeros(len(spellings), np.int64)  # end tokens are classes of their own: the first, and the others
        for number, index in enumerate(end_ids):
            ends[index] = 1 if number == 0 else 2
        pairs = np.stack((keys, ends), 1)
        _, kinds, class_of = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
        following = np.concatenate([rows(first, kinds) for first in range(0, size, step)])
        following[:, ends[kinds] > 0] = -1
        end = size
        final = np.append(automaton.final, True)
        following = np.concatenate((following, np.full((1, len(kinds)), -1)))
        following[np.ix_(final, ends[kinds] > 0)] = end
        following[end] = np.where(ends[kinds] == 1, end, -1)
        following, distance = _alive(following, final)
        if distance[0] >= FAR:
            raise ValueError("this checkpoint's tokens cannot spell any text that satisfies the format")
        return cls(following, class_of.reshape(-1), distance, final, tuple(end_ids))

    # -- one text ------------------------------------------------------------------------------------------------------

    def step(self, state: int, token: int) -> int:
        """-1 when no text goes on so."""
        return int(self.next[state, self.class_of[token]])

    def allowed(self, state: int, room: int) -> Bools:
        """Tokens that may stand here when `room` tokens are left, this one included: bool `[V]`."""
        return self._open(state, room)[self.class_of]

    def _open(self, state: int, room: int) -> Bools:
        targets = self.next[state]
        return (targets >= 0) & (self.distance[targets] <= room - 1)

    def certain(self, state: int, room: int) -> list[int]:
        """The tokens that must follow, up to the next choice; end tokens are none of them."""
        out: list[int] = []
        while len(out) < room:
            classes = self._open(state, room - len(out)).nonzero()[0]
            if len(classes) != 1 or (token := int(self.sole[classes[0]])) < 0 or token in self.end_ids:
                break
            out.append(token)
            state = int(self.next[state, classes[0]])
        return out

    def over(self, state: int) -> bool:
        """Nothing may follow but an end token."""
        return bool(self.final[state]) and all(self.next[state][self.next[state] >= 0] == self.end)

    @cached_property
    def sole(self) -> Ints:
        """The token of a class that has only one, else -1: `[K]`."""
        counts = np.bincount(self.class_of, minlength=self.next.shape[1])
        some = np.zeros(self.next.shape[1], np.int64)
        some[self.class_of] = np.arange(len(self.class_of))
        return np.where(counts == 1, some, -1)


class _Table:
    """Bytes of a vocabulary as an array, to walk an automaton with all tokens at once."""

    def __init__(self, automaton: Automaton, spellings: Sequence[bytes | None]) -> None:
        self.next = automaton.next
        self.lengths = np.array([len(spelled or b"") for spelled in spellings], np.int64)
        self.bytes = np.zeros((len(spellings), max(1, int(self.lengths.max(initial=0)))), np.uint8)
        for index, spelled in enumerate(spellings):
            if spelled:
                self.bytes[index, : len(spelled)] = np.frombuffer(spelled, np.uint8)

    def walk(self, states: Ints, tokens: Ints) -> Ints:
        """Where each token leads from each state, -1 where nowhere: `[len(states), len(tokens)]`."""
        lengths, spelled = self.lengths[tokens], self.bytes[tokens]
        out = np.full((len(states), len(tokens)), -1, np.int64)
        at = self.next[np.ix_(states, spelled[:, 0])]
        at[:, lengths == 0] = -1
        row, column = (at >= 0).nonzero()
        now = at[row, column]
        for depth in range(1, spelled.shape[1] + 1):
            done = lengths[column] == depth
            out[row[done], column[done]] = now[done]
            row, column, now = row[~done], column[~done], now[~done]
            if not len(row):
                break
            now = self.next[now, spelled[column, depth]]
            going = now >= 0
            row, column, now = row[going], column[going], now[going]
        return out


def _literal(automaton: Automaton, state: int, encode: Callable[[str], list[int]]) -> int | None:
    """The first token of what must follow, None where that is not certain."""
    data = b""
    while not automaton.final[state] and len(data) < 4096:
        following = (automaton.next[state] >= 0).nonzero()[0]
        if len(following) != 1:
            break
        data += bytes([int(following[0])])
        state = int(automaton.next[state, following[0]])
    try:
        ids = encode(data.decode().rstrip(" ")) if not automaton.final[state] else encode(data.decode())
    except UnicodeDecodeError:
        return None
    return ids[0] if ids else None


def _alive(following: Ints, final: Bools) -> tuple[Ints, Ints]:
    """Distance to a final state, and the steps without those that lead nowhere."""
    distance = np.where(final, 0, FAR)
    targets = np.where(following >= 0, following, 0)
    while True:
        nearest = np.where(following >= 0, distance[targets], FAR).min(1) + 1
        closer = np.minimum(distance, nearest)
        if (closer == distance).all():
            break
        distance = closer
    return np.where((following >= 0) & (distance[targets] < FAR), following, -1), distance
