"""Latency and erasure against cases counted by hand."""

import sys

import pytest

from mezzotint.live.latency import (
    Step,
    average_lagging,
    average_proportion,
    aware,
    delays,
    differentiable,
    erased,
    length_adaptive,
    normalised_erasure,
    quality,
)  # fmt: skip

STEPS = [
    Step(1, "", "le", 0.5), Step(2, "un", "un deux", 2.0), Step(3, "un deux", "un deux trois", 0.5),
    Step(4, "un deux trois", "un deux trois", 1.0),
]  # fmt: skip


def test_delays_are_counted_when_a_whole_word_is_committed():
    assert delays(STEPS) == [2, 3, 4]
    assert delays([Step(2, "cha", "cha"), Step(3, "chats dor", "chats dor"), Step(1, "chats dorment", "")]) == [3, 3]
    with pytest.raises(ValueError, match="update 1 changed committed text: 'un' became 'le'"):
        delays([Step(1, "un", ""), Step(2, "le", "")])
    with pytest.raises(ValueError, match="no updates"):
        delays([])


@pytest.mark.parametrize(
    ("given", "source", "reference", "al", "laal", "dal", "ap"),
    [
        # wait-1, equal lengths: always one word behind; a step is 1, so DAL is 1 too; (1 + 2 + 3) / 9
        ([1, 2, 3], 3, 3, 1, 1, 1, 2 / 3),
        # all at the end: the first word has read everything and is the last that counts; DAL 3, 4, 5 less 0, 1, 2
        ([3, 3, 3], 3, 3, 3, 3, 3, 1),
        # 4 words to 3: (2 + (3 - 4/3) + (4 - 8/3)) / 3 = 5/3; DAL 2, 10/3, 14/3 less 0, 4/3, 8/3 = 2
        ([2, 3, 4], 4, 3, 5 / 3, 5 / 3, 2, 9 / 12),
        # the reference has 2: AL steps by 2, (2 + 1 + 0) / 3; LAAL by 4/3 as before
        ([2, 3, 4], 4, 2, 1, 5 / 3, 2, 9 / 12),
        # the reference has 6: both step by 2/3, (2 + 7/3 + 8/3) / 3
        ([2, 3, 4], 4, 6, 7 / 3, 7 / 3, 2, 9 / 12),
        # no reference: the target's own length
        ([2, 3, 4], 4, None, 5 / 3, 5 / 3, 2, 9 / 12),
        # of those that have read all the first counts: (2 + (4 - 1)) / 2; DAL 2, 4, 5, 6 less 0, 1, 2, 3: (2 + 3 + 3 + 3) / 4
        ([2, 4, 4, 4], 4, 4, 2.5, 2.5, 2.75, 14 / 16),
        # it never reads all: every word counts, (1 + 0) / 2
        ([1, 1], 2, 2, 0.5, 0.5, 1, 0.5),
    ],
)
def test_lagging(given, source, reference, al, laal, dal, ap):
    assert average_lagging(given, source, reference) == pytest.approx(al)
    assert length_adaptive(given, source, reference) == pytest.approx(laal)
    assert differentiable(given, source) == pytest.approx(dal)
    assert average_proportion(given, source) == pytest.approx(ap)


def test_computation_counts_in_time():
    # updates end at 1.5, 4 (it began at 2), 4.5 (it began at 4), 5.5 seconds
    assert aware(STEPS, 1.0) == pytest.approx([4, 4.5, 5.5])
    # twice as fast a speaker: 1, 3, 3.5, 4.5 seconds, in words of half a second
    assert aware(STEPS, 0.5) == pytest.approx([6, 7, 9])
    assert average_lagging(aware(STEPS, 1.0), 4, 3) == pytest.approx(4)  # the first is past the end already
    with pytest.raises(ValueError, match="pace is 0"):
        aware(STEPS, 0)


def test_erasure():
    shown = ["a b", "a c d", "a c"]
    # characters: "b" for "c d" 1, " d" 2; words: b 1, d 1
    assert (erased(shown), erased(shown, "words")) == (3, 2)
    assert normalised_erasure(shown) == 1.0 and normalised_erasure(shown, "words") == 1.0
    assert normalised_erasure(["le", "le chat", "le chat noir"]) == 0
    assert normalised_erasure([]) == 0 and normalised_erasure(["a", ""]) == float("inf")
    with pytest.raises(ValueError, match="allowed: characters, words"):
        erased(shown, "letters")


@pytest.mark.parametrize("given", [([], 3, 3), ([1], 0, 3), ([1], 3, 0)])
def test_lengths_that_cannot_be(given):
    with pytest.raises(ValueError, match="at least 1"):
        average_lagging(*given)


def test_quality(monkeypatch):
    pytest.importorskip("sacrebleu")
    assert quality(["le chat dort bien"], ["le chat dort bien"]) == pytest.approx({"chrF": 100, "BLEU": 100})
    assert quality(["rien"], ["le chat dort bien"])["chrF"] < 20
    with pytest.raises(ValueError, match="1 translations and 2 references"):
        quality(["a"], ["a", "b"])
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(ValueError, match=r"mezzotint\[translate\]"):
        quality(["a"], ["a"])
