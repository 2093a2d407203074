"""Sums over paths against all texts written out, in a world of a few tokens."""

import itertools

import numpy as np
import pytest

from mezzotint.constraint.formats import Regex
from mezzotint.constraint.lattice import Lattice
from mezzotint.constraint.tokens import TokenAutomaton

WORDS = [b"a", b"b", b"ab", b"ba", b"c", None]  # id 5 ends
END = 5


def lattice(pattern):
    return Lattice(TokenAutomaton.of(Regex(pattern).automaton, WORDS, lambda text: [], [END]))


def fillings(pattern, length, room):
    """Every way to fill `length` positions: a text that can be ended in `room` further tokens, end tokens behind its end."""
    automaton = Regex(pattern).automaton
    for ids in itertools.product(range(6), repeat=length):
        count = ids.index(END) if END in ids else length
        if any(i != END for i in ids[count:]):
            continue
        state = automaton.run(b"".join(WORDS[i] for i in ids[:count]))
        if state < 0 or (count < length and not automaton.final[state]):
            continue
        more = (
            b"".join(WORDS[i] for i in rest) for n in range(room + 1) for rest in itertools.product(range(5), repeat=n)
        )
        if count < length or any((end := automaton.run(x, state)) >= 0 and automaton.final[end] for x in more):
            yield ids


@pytest.mark.parametrize(
    "pattern, room", [("(ab|c)*", 0), ("a*b", 1), ("(a|b){3,5}c", 2), ("ab|cc", 0), ("c{2}(ab)?", 1)]
)
def test_marginals_and_paths_are_those_of_all_fillings(pattern, room):
    rng, length = np.random.default_rng(0), 4
    logits = rng.normal(0, 2, (length, 6))
    valid = list(fillings(pattern, length, room))
    weights = np.exp([sum(logits[i, t] for i, t in enumerate(ids)) for ids in valid])
    law = lattice(pattern)
    said = law.marginals(logits, 0, room)
    said = np.exp(said - said.max(-1, keepdims=True))
    said /= said.sum(-1, keepdims=True)
    true = np.zeros((length, 6))
    for ids, weight in zip(valid, weights, strict=True):
        true[range(length), ids] += weight / weights.sum()
    np.testing.assert_allclose(said, true, atol=1e-12)
    best, _ = law.path(logits, 0, room, None)
    assert tuple(best.tolist()) == valid[int(weights.argmax())]
    chances = dict(zip(valid, weights / weights.sum(), strict=True))
    for _ in range(50):  # a drawn filling says how likely it was
        drawn, laws = law.path(logits, 0, room, rng.random(length))
        assert np.isclose(laws[range(length), drawn].prod(), chances[tuple(drawn.tolist())])


def test_what_is_fixed_decides_what_is_certain():
    law = lattice("(abc?|c)*")
    free = np.full(3, -1)
    assert law.certain(0, free, 0).tolist() == [-1, -1, -1]
    assert law.certain(0, np.array([-1, END, -1]), 0).tolist() == [-1, -1, END]
    assert law.possible(0, free, 0) and not law.possible(0, np.array([1, -1, -1]), 5)
    assert lattice("abc?").certain(0, np.array([0, -1, -1]), 0).tolist() == [-1, 1, -1]  # a, then b, then who knows


def test_certainty_far_below_the_floor_of_floats_is_kept():
    law = lattice("ab|cc")
    logits = np.zeros((3, 6))
    logits[:, [0, 1, 2]] = -5000  # all that the format wants, but for c, is next to impossible
    logits[:, 4] = -9000
    path, _ = law.path(logits, 0, 0, None)
    assert path.tolist() == [2, END, END]
    assert np.isfinite(law.marginals(logits, 0, 0)[0, 2])


def test_literals_are_spelled_as_the_tokenizer_does():
    words = [b'{"a', b'":', b"{", b'"', b"a", b":", b" ", b' "', b"}", b"x", None, b" x"]
    spell = {'{"a":': [0, 1], '":': [1], ":": [5], "}": [8]}
    automaton = TokenAutomaton.of(Regex(r'\{"a": (x|a)\}').automaton, words, lambda t: spell.get(t, []), [10])
    assert automaton.certain(0, 99) == [0, 1]  # the space belongs to what follows
    assert automaton.distance[0] == 4


def test_a_format_that_tokens_cannot_spell():
    with pytest.raises(ValueError, match="cannot spell"):
        lattice("ax")
    with pytest.raises(ValueError, match="no end token"):
        TokenAutomaton.of(Regex("a").automaton, WORDS, lambda text: [], [])
