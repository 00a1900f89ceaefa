"""Intervals of quantiles, from what they promise: how often they hold the truth."""

from __future__ import annotations

import random

import pytest

from stillhouse.quantiles import quantile


@pytest.mark.parametrize(("share", "n"), [(0.5, 8), (0.5, 60), (0.9, 60), (0.95, 150)])
def test_they_hold_the_true_quantile_as_often_as_they_say(share: float, n: int):
    """Of uniform numbers the quantile is the share itself."""
    draw = random.Random(1)
    held = 0
    for _ in range(1500):
        found = quantile([draw.random() for _ in range(n)], share)
        assert found.low is not None and found.high is not None
        held += found.low <= share <= found.high
    assert held / 1500 > 0.94


@pytest.mark.parametrize(("share", "needed"), [(0.5, 6), (0.9, 36), (0.95, 72), (0.99, 368)])
def test_a_sample_that_is_too_small_says_so(share: float, needed: int):
    """The largest of n is above the quantile with probability 1 − shareⁿ; both ends need 97.5 %."""
    assert 1 - share**needed >= 0.975 > 1 - share ** (needed - 1)
    small, enough = (quantile(list(range(n)), share) for n in (needed - 1, needed))
    assert small.low is None and f"n too small: {needed} needed" in small.words()
    assert enough.low is not None and enough.high is not None
    assert enough.low < enough.value <= enough.high


def test_the_median_of_ten_is_between_the_second_and_the_ninth():
    """The table in every book: 97.9 %."""
    found = quantile([float(x) for x in range(1, 11)], 0.5)
    assert (found.low, found.high) == (2.0, 9.0)
