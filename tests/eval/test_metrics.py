"""Measures against values worked out by hand or by scipy."""

import math

import pytest
import torch

from mezzotint.eval.metrics import auroc, bootstrap, f_beta, pass_at, repetition, unigram_entropy, wilson


def test_entropy_and_repetition():
    assert unigram_entropy([1, 2, 3, 4]) == pytest.approx(math.log(4)) and unigram_entropy([]) == 0
    assert unigram_entropy([7] * 9) == 0
    assert repetition([1, 2, 3, 1, 2, 3], 3) == pytest.approx(1 / 4) and repetition([1, 2], 4) == 0
    assert repetition([5] * 10, 4) == pytest.approx(6 / 7)


def test_intervals_cover():
    low, high = wilson(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(0, 0) == (0.0, 1.0) and wilson(0, 50)[0] == pytest.approx(0)
    low, high = bootstrap([0.0, 1.0] * 200)
    assert low < 0.5 < high and high - low == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.1)


def test_auroc_counts_pairs_and_halves_ties():
    scores, positive = torch.tensor([0.9, 0.4, 0.4, 0.1]), torch.tensor([True, True, False, False])
    assert auroc(scores, positive) == pytest.approx((2 + 1.5) / 4)
    assert math.isnan(auroc(scores, torch.ones(4, dtype=torch.bool)))


def test_f_half_prefers_precision():
    assert f_beta(0, 5, 5) == 0 and f_beta(5, 5, 5) == 1
    assert f_beta(4, 5, 10) == pytest.approx(1.25 * 0.8 * 0.4 / (0.25 * 0.8 + 0.4))
    assert f_beta(4, 5, 10) > f_beta(4, 10, 5)


def test_pass_at_k_counts_draws():
    assert (
        pass_at(1, 4, 1) == 0.25
        and pass_at(4, 4, 1) == 1
        and pass_at(2, 4, 2) == pytest.approx(1 - 1 / 6)
        and pass_at(2, 3, 0) == 0
    )
