"""How much of the teacher's skill is kept over several tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stillhouse.evaluate.records import Verdict
from stillhouse.evaluate.statistics.distributions import t_quantile
from stillhouse.evaluate.statistics.keeping import Retention, fieller
from stillhouse.evaluate.statistics.means import Interval
from stillhouse.evaluate.statistics.signs import t_tests


@dataclass(frozen=True)
class Together:
    """What is kept over K tasks of equal weight.

    Args:
        value: R = Σ_k (student − floor) / Σ_k (teacher − floor) of the tasks' means.
        low: lower bound of its 95 % Fieller interval.
        high: upper bound.
        verdict: PASS, FAIL or INCONCLUSIVE against the threshold.
        surplus: mean over tasks of (student − floor) − threshold · (teacher − floor).
        p_above: one-sided p value of "R is not above the threshold".
        p_below: one-sided p value of "R is not below the threshold".
    """

    value: float
    low: float
    high: float
    verdict: Verdict
    surplus: Interval
    p_above: float
    p_below: float


def together(kept: Sequence[Retention], *, alpha: float = 0.05, confidence: float = 0.95) -> Together:
    """The ratio of sums over informative tasks, never the mean of their ratios: one small denominator would rule that.

    Tasks are fixed strata: this speaks of new items of these tasks, not of new tasks. Variances add; the degrees of freedom are
    Satterthwaite's.

    Args:
        kept: of each task; none UNINFORMATIVE or NOT MEASURED.
        alpha: one-sided level of the verdict.
        confidence: of the interval.
    """
    assert kept and all(math.isfinite(r.value) for r in kept), "only informative tasks have a share that is kept"
    gap, student, surplus = (_mean(parts) for parts in zip(*((r.gap, r.kept, r.surplus) for r in kept), strict=True))
    covariance = sum(r.covariance for r in kept) / len(kept) ** 2
    quantile = t_quantile(0.5 + confidence / 2, gap.df)
    low, high = fieller(gap.value, student.value, gap.se**2, student.se**2, covariance, quantile)
    p_above, p_below = t_tests(surplus)
    verdict: Verdict = "PASS" if p_above <= alpha else "FAIL" if p_below <= alpha else "INCONCLUSIVE"
    return Together(student.value / gap.value, low, high, verdict, surplus, p_above, p_below)


def _mean(parts: Sequence[Interval]) -> Interval:
    """The mean of independent estimates."""
    variances = [part.se**2 for part in parts]
    total = sum(variances)
    spread = sum(v**2 / part.df for v, part in zip(variances, parts, strict=True))
    df = max(1.0, total**2 / spread) if spread > 0.0 else max(part.df for part in parts)
    value, se = sum(part.value for part in parts) / len(parts), math.sqrt(total) / len(parts)
    half = t_quantile(0.975, df) * se
    return Interval(value, value - half, value + half, se, sum(part.clusters for part in parts), df)
