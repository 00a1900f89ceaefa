"""How many items or clusters a decision takes, and what these ones could have decided."""

from __future__ import annotations

import math

import numpy as np

from stillhouse.evaluate.statistics.distributions import normal_cdf, normal_quantile, t_quantile
from stillhouse.evaluate.statistics.means import Interval


def clusters_needed(d: Interval, *, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """Clusters at which a one-sided test of d ≠ 0 is decided with this power, if d and its spread stay what they are.

    None if d is exactly 0 or its error is unknown, or if it would take more than a million.
    """
    if d.value == 0.0 or not math.isfinite(d.se):
        return None
    single = d.se * math.sqrt(d.clusters) / abs(d.value)  # of one cluster, in units of the effect
    needed = ((normal_quantile(1 - alpha) + normal_quantile(power)) * single) ** 2
    if needed > 1e6:
        return None
    needed = max(5.0, needed)  # with 4 clusters or fewer no sign-flip test reaches 5 %
    for _ in range(3):  # t quantiles of the count that comes out
        df = max(1.0, math.ceil(needed) - 1.0)
        needed = max(5.0, ((t_quantile(1 - alpha, df) + t_quantile(power, df)) * single) ** 2)
    return math.ceil(needed)


def smallest_decided(d: Interval, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true difference that a one-sided test on as many clusters would have decided with this power."""
    return (t_quantile(1 - alpha, d.df) + t_quantile(power, d.df)) * d.se


def items_needed(
    *,
    teacher: float,
    floor: float,
    threshold: float = 0.9,
    true_retention: float = 1.0,
    correlation: float = 0.7,
    alpha: float = 0.05,
    power: float = 0.8,
) -> int | None:
    """How many independent right-or-wrong items a PASS needs; None if the student's true retention cannot pass.

    n = (z_{1−α} + z_{power})² · Var(d) / ((R − ρ)² (T − c)²), Var(d) = V(s) + ρ²V(t) − 2ρ·Cov(s, t).

    Args:
        teacher: the teacher's accuracy T.
        floor: the floor c.
        threshold: ρ, the share that must be kept.
        true_retention: R, what the student truly keeps.
        correlation: of the normal variables of which "right" is one side (latent, not that of the 0/1 scores).
        alpha: one-sided level.
        power: chance of a PASS.
    """
    assert 0.0 <= floor < 1.0 and 0.0 < teacher < 1.0 and 0.0 <= correlation < 1.0
    student = floor + true_retention * (teacher - floor)
    if true_retention <= threshold or teacher <= floor or not 0.0 < student < 1.0:
        return None
    # P(both right): one latent variable integrated over, the other conditional on it
    a, b = normal_quantile(1 - teacher), normal_quantile(1 - student)
    points = np.linspace(a, max(a, 0.0) + 9.0, 20_001)
    rest = math.sqrt(1 - correlation**2)
    inner = np.array([normal_cdf((correlation * x - b) / rest) for x in points.tolist()])
    both = float(np.trapezoid(np.exp(-(points**2) / 2) / math.sqrt(2 * math.pi) * inner, points))
    covariance = both - teacher * student
    variance = student * (1 - student) + threshold**2 * teacher * (1 - teacher) - 2 * threshold * covariance
    effect = (true_retention - threshold) * (teacher - floor)
    return math.ceil((normal_quantile(1 - alpha) + normal_quantile(power)) ** 2 * variance / effect**2)
