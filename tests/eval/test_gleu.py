"""GLEU against values worked out by hand from the formula, and its behaviour where the formula says little."""

import math

import pytest

from mezzotint.eval import gleu


def _(text):
    return text.split()


def test_a_sentence_by_hand():
    """S: They was here .   R: They were here .   H = S. The n-grams of S that R lacks are taken off once for each match.

    1-grams of H: They, was, here, '.': in R 3; in S \\ R (was): 1; 3 - 1 = 2 of 4
    2-grams: They was, was here, 'here .': in R 1; in S \\ R 2; max(0, -1) = 0 of 3
    3-grams: 0 of 2, 4-grams: 0 of 1
    """
    source, reference = _("They was here ."), _("They were here .")
    assert gleu.stats(source, reference, source).tolist() == [4, 4, 2, 4, 0, 3, 0, 2, 0, 1]
    smoothed = math.exp((math.log(2 / 4) + math.log(1 / 3) + math.log(1 / 2) + math.log(1 / 1)) / 4)
    assert gleu.sentence("They was here.", ["They were here."], "They was here.") == pytest.approx(smoothed)
    assert gleu.score(gleu.stats(source, reference, source)) == 0.0
    assert gleu.score(gleu.stats(source, reference, reference)) == pytest.approx(1.0)


def test_leaving_an_error_costs_more_than_bleu_takes():
    """H leaves "a" where R has "the". 1-grams 5 - 1 of 6; 2-grams 3 - 2 of 5; 3-grams 2 - 2 of 4; 4-grams 1 - 2 -> 0 of 3."""
    source = _("we went to a big house")
    reference = _("we went to the big house")
    assert gleu.stats(source, reference, source).tolist() == [6, 6, 4, 6, 1, 5, 0, 4, 0, 3]
    other = _("we went to one big house")  # wrong too, but not what stood there: nothing is taken off
    assert gleu.stats(source, reference, other).tolist() == [6, 6, 5, 6, 3, 5, 1, 4, 0, 3]


def test_what_the_reference_says_too_is_no_error_however_often():
    """S \\ R leaves out n-grams that R has, whatever their number: no penalty for a second "very"."""
    source, reference = _("a very very good day"), _("a very good day")
    assert gleu.stats(source, reference, source)[2:4].tolist() == [4, 5]


def test_short_texts_pay_for_what_they_lack():
    """H = the first 5 of 10 tokens, all right: every p is 1 and the penalty is exp(1 - 10/5)."""
    reference = _("a b c d e f g h i j")
    sums = gleu.stats(reference, reference, reference[:5])
    assert gleu.score(sums) == pytest.approx(math.exp(-1))
    assert gleu.score(gleu.stats(reference, reference, reference + reference)) < 1  # and long ones lose precision


def test_a_corpus_is_summed_before_it_is_scored():
    """One reference each: no draws matter. Sentence 1 is right (6 of 6, 5 of 5, 4 of 4, 3 of 3); sentence 2 is left as it was
    (4 of 6, 1 of 5, 0 of 4, 0 of 3)."""
    right, source = "we went to the big house", "we went to a big house"
    rows = [(source, [right], right), (source, [right], source)]
    value, error = gleu.corpus(rows)
    assert value == pytest.approx((10 / 12 * 6 / 10 * 4 / 8 * 3 / 6) ** 0.25)
    assert 0 < error < 0.5
    assert gleu.corpus(rows) == (value, error)


def test_of_several_references_one_is_drawn():
    """H equals one of two references: GLEU is 1 when that is drawn, else 0 (no 4-gram of H stands in the other)."""
    value, _ = gleu.corpus(
        [("one two three four", ["five six seven eight", "one two three 4"], "five six seven eight")]
    )
    assert 0.4 < value < 0.6
    with pytest.raises(ValueError, match="a reference for each"):
        gleu.corpus([("a", [], "a")])


def test_tokens():
    assert gleu.words("I don't know, (really).") == ["I", "don't", "know", ",", "(", "really", ")", "."]
