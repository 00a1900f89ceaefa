"""Tests and intervals of right and wrong, lost and gained."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stillhouse.evaluate.records import FloatArray
from stillhouse.evaluate.statistics.distributions import normal_quantile
from stillhouse.evaluate.statistics.means import Interval, mean


def mcnemar(lost: int, gained: int) -> float:
    """Mid-p value of McNemar's exact test that items are lost as often as gained.

    2·P(X ≤ k) − P(X = k) with X ~ Bin(lost + gained, ½) and k the smaller count; 1 where there is none.
    Fagerland et al. 2013, doi:10.1186/1471-2288-13-91.
    """
    trials, k = lost + gained, min(lost, gained)
    base = math.lgamma(trials + 1) - trials * math.log(2.0)
    mass = [math.exp(base - math.lgamma(i + 1) - math.lgamma(trials - i + 1)) for i in range(k + 1)]
    return min(1.0, 2.0 * math.fsum(mass) - mass[-1])


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share of independent items; (0, 1) of none."""
    if n == 0:
        return 0.0, 1.0
    z = normal_quantile(0.5 + confidence / 2)
    share, shrink = successes / n, 1.0 + z**2 / n
    middle = (share + z**2 / (2 * n)) / shrink
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / shrink
    return (0.0 if successes == 0 else middle - half), (1.0 if successes == n else middle + half)


def share(right_N: FloatArray, cluster_N: NDArray[np.generic]) -> Interval:
    """The share of items that are right, with its cluster-robust interval inside 0 … 1.

    Where all are right, or none, the spread that was seen is 0 and says nothing: Wilson's interval for as many clusters.

    Args:
        right_N: scores from 0 to 1.
        cluster_N: the cluster of each item.
    """
    found = mean(right_N, cluster_N)
    if found.value in (0.0, 1.0):
        low, high = wilson(round(found.value) * found.clusters, found.clusters)
        return replace(found, low=low, high=high)
    return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))
