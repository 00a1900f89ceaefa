"""How much of the teacher's skill above a floor is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillhouse.evaluate.records import FloatArray, Verdict
from stillhouse.evaluate.statistics.distributions import t_quantile
from stillhouse.evaluate.statistics.means import Interval, cluster_index, cluster_totals, influence
from stillhouse.evaluate.statistics.planning import clusters_needed
from stillhouse.evaluate.statistics.signs import FLIP_BELOW, sign_flip, t_tests
from stillhouse.evaluate.statistics.studentised import DRAW_BELOW, studentised


@dataclass(frozen=True)
class Retention:
    """How much of the teacher's skill above the floor is kept.

    Args:
        value: R = Σ(student − floor) / Σ(teacher − floor); NaN where the teacher is not above the floor.
        low: lower bound of its Fieller interval; −inf where the set is unbounded.
        high: upper bound.
        verdict: PASS, FAIL or INCONCLUSIVE against the threshold; UNINFORMATIVE where the teacher is at the floor;
            NOT MEASURED with a single cluster.
        gap: teacher above floor, per unit of size.
        kept: student above floor, per unit of size.
        covariance: of the errors of ``gap`` and ``kept``.
        surplus: student above floor − threshold · (teacher above floor), per unit of size: what the verdict tests.
        p_above: one-sided p value of "R is not above the threshold".
        p_below: one-sided p value of "R is not below the threshold".
        needed: clusters at which an inconclusive verdict would be decided with 80 % power if the surplus stays what it
            is; None if it is decided, or if no number of them would.
    """

    value: float
    low: float
    high: float
    verdict: Verdict
    gap: Interval
    kept: Interval
    covariance: float
    surplus: Interval
    p_above: float
    p_below: float
    needed: int | None


def retention(
    teacher_N: FloatArray,
    student_N: FloatArray,
    floor_N: FloatArray | float,
    cluster_N: NDArray[np.generic],
    *,
    size_N: FloatArray | None = None,
    threshold: float = 0.9,
    margin: float = 0.03,
    lower_is_better: bool = False,
    alpha: float = 0.05,
    confidence: float = 0.95,
) -> Retention:
    """Retention above a floor: paired, cluster-robust Fieller interval and linearised non-inferiority verdict.

    The verdict tests d = (s − c) − threshold · (t − c) on each side at level alpha: it is the dual of the 1 − 2·alpha
    Fieller set and needs no ratio. Below 20 clusters it is an exact sign-flip test of the cluster sums of d; below 100 the
    studentised cluster bootstrap must agree with Student's t.

    Args:
        teacher_N: scores of the teacher.
        student_N: scores of the student on the same items.
        floor_N: what is scored without any skill.
        cluster_N: the cluster of each item.
        size_N: what an item counts in the units of ``margin`` (bytes); ones if not given.
        threshold: the share that must be kept.
        margin: the teacher must be above the floor by this much per unit of size (lower 95 % bound) and by three
            standard errors, else UNINFORMATIVE.
        lower_is_better: the scores are losses.
        alpha: one-sided level of the verdict.
        confidence: of the interval.
    """
    sign = -1.0 if lower_is_better else 1.0
    index_N, clusters = cluster_index(cluster_N)
    size_G = cluster_totals(np.ones(len(teacher_N)) if size_N is None else size_N, index_N, clusters)
    teacher_G = cluster_totals(sign * (teacher_N - floor_N), index_N, clusters)
    student_G = cluster_totals(sign * (student_N - floor_N), index_N, clusters)
    surplus_G = student_G - threshold * teacher_G

    def interval(total_G: FloatArray) -> tuple[Interval, FloatArray]:
        error_G, df = influence(total_G, size_G)
        value, se = float(total_G.sum() / size_G.sum()), math.sqrt(float(error_G @ error_G))
        low, high = Interval(value, 0.0, 0.0, se, clusters, df).bounds(confidence)
        return Interval(value, low, high, se, clusters, df), error_G

    gap, teacher_error_G = interval(teacher_G)
    kept, student_error_G = interval(student_G)
    surplus, _ = interval(surplus_G)
    covariance = float(teacher_error_G @ student_error_G)

    def nothing(verdict: Verdict) -> Retention:
        return Retention(math.nan, -math.inf, math.inf, verdict, gap, kept, covariance, surplus, 1.0, 1.0, None)

    if not math.isfinite(gap.se):
        return nothing("NOT MEASURED")
    quantile = t_quantile(0.5 + confidence / 2, gap.df)
    low, high = fieller(gap.value, kept.value, gap.se**2, kept.se**2, covariance, quantile)
    if gap.value < 3.0 * gap.se or gap.bounds(0.95)[0] < margin or gap.value <= 0.0 or not math.isfinite(high - low):
        return nothing("UNINFORMATIVE")

    p_above, p_below = sign_flip(surplus_G) if clusters < FLIP_BELOW else t_tests(surplus)
    if (
        FLIP_BELOW <= clusters < DRAW_BELOW and min(p_above, p_below) < 2 * alpha
    ):  # skewed answers: both tests must agree
        p_above, p_below = map(max, (p_above, p_below), studentised(surplus_G, size_G))
    verdict: Verdict = "PASS" if p_above <= alpha else "FAIL" if p_below <= alpha else "INCONCLUSIVE"
    needed = clusters_needed(surplus, alpha=alpha) if verdict == "INCONCLUSIVE" else None
    value = kept.value / gap.value
    return Retention(value, low, high, verdict, gap, kept, covariance, surplus, p_above, p_below, needed)


def fieller(
    below: float, above: float, below_variance: float, above_variance: float, covariance: float, quantile: float
) -> tuple[float, float]:
    """The set of R with (above − R·below)² ≤ quantile² · Var(above − R·below); (−inf, inf) where it is unbounded.

    Fieller 1954, "Some problems in interval estimation". The variances are those of the two means.
    """
    square = quantile**2
    a = below**2 - square * below_variance
    half_b = below * above - square * covariance
    c = above**2 - square * above_variance
    if a <= 0.0:
        return -math.inf, math.inf
    root = math.sqrt(max(0.0, half_b**2 - a * c))
    return (half_b - root) / a, (half_b + root) / a


def difference(one: Retention, other: Retention) -> Interval:
    """What one set of items keeps less what another keeps, of different items and so independent.

    Square-and-add of the two Fieller intervals (the method of variance estimates recovery, Zou and Donner 2008): each bound is as far from
    the difference as the two bounds that lead there, added as right angles.

    Args:
        one: informative.
        other: informative; no item of it is among the other's.
    """
    value = one.value - other.value
    low = value - math.hypot(one.value - one.low, other.high - other.value)
    high = value + math.hypot(one.high - one.value, other.value - other.low)
    df = min(one.gap.df, other.gap.df)
    se = (high - low) / 2 / t_quantile(0.975, df)
    return Interval(value, low, high, se, one.gap.clusters + other.gap.clusters, df)
