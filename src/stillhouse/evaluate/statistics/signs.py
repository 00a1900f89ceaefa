"""One-sided tests that a sum over clusters is above or below 0."""

from __future__ import annotations

import numpy as np

from stillhouse.evaluate.records import FloatArray
from stillhouse.evaluate.statistics.distributions import t_cdf
from stillhouse.evaluate.statistics.means import Interval

FLIP_BELOW = 20
"""Clusters below which the test is exact; all 2^19 sign patterns are enumerated at most."""


def t_tests(d: Interval) -> tuple[float, float]:
    """One-sided p values (d not above 0, d not below 0) by Student's t."""
    if d.se == 0.0:
        return (0.0 if d.value > 0 else 1.0), (0.0 if d.value < 0 else 1.0)
    below = t_cdf(d.value / d.se, d.df)
    return 1.0 - below, below


def sign_flip(total_G: FloatArray) -> tuple[float, float]:
    """Exact one-sided p values (sum not above 0, sum not below 0) over all 2^G signs of the cluster sums, G < 24."""
    assert len(total_G) < 24, "2^G sums do not fit"
    sums = np.zeros(1)
    for total in total_G:
        sums = np.concatenate([sums + total, sums - total])
    observed, slack = float(total_G.sum()), 1e-9 * float(np.abs(total_G).sum())
    return float(np.mean(sums >= observed - slack)), float(np.mean(sums <= observed + slack))
