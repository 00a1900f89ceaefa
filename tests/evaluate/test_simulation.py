"""Promised error rates, in a few cells; ``simulate.py`` has the whole table."""

from __future__ import annotations

import math

import numpy as np
import pytest
from simulate import SEVERAL, Cell, Rates, drawn, rates, together_rates

from stillhouse.evaluate import statistics as st
from stillhouse.evaluate.statistics import Interval


def holds(got: Rates, runs: int) -> None:
    """Within what is promised, give or take 2.6 standard errors of so many runs."""
    slack = 2.6 * math.sqrt(0.05 * 0.95 / runs)
    assert 0.93 - slack <= got.covered <= 0.97 + slack, got
    assert got.wrong_pass <= 0.065 + slack / 2, got
    assert got.wrong_fail <= 0.07 + slack / 2, got


@pytest.mark.parametrize("cell", [Cell(300, 1), Cell(300, 5), Cell(300, 1, 0.9, 0.5), Cell(1000, 5, 0.4, 0.0)])
def test_one_task(cell: Cell):
    holds(rates(cell, 700), 700)


def test_three_tasks_together():
    holds(together_rates(SEVERAL, 500), 500)


def test_a_task_of_small_denominator_does_not_rule():
    """The ratio of sums, not the mean of ratios: 0.02 of 0.02 lost in one task weighs as 0.02."""
    rng = np.random.default_rng(0)
    n = 20_000
    strong = (rng.random(n) < 0.8).astype(float)
    weak = (rng.random(n) < 0.55).astype(float)
    gone = (rng.random(n) < 0.5).astype(float)
    parts = [st.retention(strong, strong, 0.5, np.arange(n)), st.retention(weak, gone, 0.5, np.arange(n))]
    assert parts[1].value < 0.3
    assert st.together(parts).value == pytest.approx((0.3 + gone.mean() - 0.5) / (0.3 + 0.05), abs=0.02)


def test_a_difference_of_two_sets_covers():
    rng = np.random.default_rng(3)
    inside = 0
    for _ in range(500):
        parts = []
        for cell in (Cell(300, 1), Cell(400, 1, 0.85, 0.5, 0.8)):
            teacher, student, cluster = drawn(rng, cell)
            parts.append(st.retention(teacher, student, cell.floor, cluster))
        got = st.difference(parts[0], parts[1])
        inside += got.low <= 0.9 - 0.8 <= got.high
    assert 0.92 <= inside / 500 <= 0.98


def test_together_of_one_is_that_one():
    rng = np.random.default_rng(1)
    t, s = ((rng.random(400) < p).astype(float) for p in (0.8, 0.75))
    one = st.retention(t, s, 0.5, np.arange(400) // 2)
    both = st.together([one])
    assert both.value == pytest.approx(one.value)
    assert (both.low, both.high) == (pytest.approx(one.low), pytest.approx(one.high))
    assert both.p_above == pytest.approx(one.p_above)


def test_degrees_of_freedom_are_satterthwaites():
    a, b = Interval(1.0, 0, 0, 0.3, 5, 4.0), Interval(3.0, 0, 0, 0.1, 50, 49.0)
    from stillhouse.evaluate.statistics.together import _mean

    got = _mean([a, b])
    assert got.value == 2.0
    assert got.se == pytest.approx(math.sqrt(0.09 + 0.01) / 2)
    assert got.df == pytest.approx((0.09 + 0.01) ** 2 / (0.09**2 / 4 + 0.01**2 / 49))


def test_the_smallest_difference_that_is_decided_is_decided_with_its_power():
    rng = np.random.default_rng(2)
    sample = st.mean(rng.normal(size=200), np.arange(200))
    shift = st.smallest_decided(sample)
    found = 0
    for _ in range(1500):
        got = st.mean(rng.normal(shift * 1.0, sample.se * math.sqrt(200), 200), np.arange(200))
        found += st.t_tests(got)[0] <= 0.05
    assert found / 1500 == pytest.approx(0.8, abs=0.04)


def test_none_of_sixty_is_not_surely_none():
    none, all_, some = (st.share(np.array(x, dtype=float), np.arange(60)) for x in ([0] * 60, [1] * 60, [1, 0] * 30))
    assert (none.low, none.high) == (0.0, pytest.approx(st.wilson(0, 60)[1]))
    assert (all_.low, all_.high) == (pytest.approx(st.wilson(60, 60)[0]), 1.0)
    assert some.high == pytest.approx(st.mean(np.array([1.0, 0.0] * 30), np.arange(60)).high)
    twins = st.share(np.zeros(60), np.arange(60) // 10)
    assert twins.high == pytest.approx(st.wilson(0, 6)[1]), "six clusters know less than sixty items"
