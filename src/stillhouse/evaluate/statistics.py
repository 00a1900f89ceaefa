"""Intervals, tests and plans for paired, clustered scores. numpy only; no models, no files.

Items of one document depend on each other, so documents (clusters) are what is counted. Every mean here is a ratio of sums
over items, ``ΣA / ΣB`` (a plain mean has B = 1), and its standard error is the cluster jackknife

    SE² = (G−1)/G · Σ_g ((A_g − R·B_g) / (B − B_g))²

with a t quantile at G_eff − 1 degrees of freedom, ``G_eff = (ΣB)² / ΣB_g²``. For clusters of equal size this is exactly the
usual CR1 with t at G − 1. For documents of unequal length CR1 is too narrow (95 % intervals of 5 to 40 documents with
log-normal lengths, σ = 1, cover .87 to .92) and this is not (.95 to .96).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stillhouse.evaluate.records import FloatArray, IntArray, Verdict

_NORMAL = NormalDist()
_FLIP_BELOW = 20  # clusters; all 2^19 sign patterns are enumerated at most


# --------------------------------------------------------------------------------------------------------- distributions


def normal_cdf(z: float) -> float:
    """P(Z ≤ z) of a standard normal."""
    return _NORMAL.cdf(z)


def normal_quantile(p: float) -> float:
    """The z with P(Z ≤ z) = p, for 0 < p < 1."""
    return _NORMAL.inv_cdf(p)


def t_cdf(t: float, df: float) -> float:
    """P(T ≤ t) of Student's t with ``df`` > 0 degrees of freedom (any real number)."""
    if math.isinf(t):
        return 0.0 if t < 0 else 1.0
    square = t * t
    # the smaller of x and 1 − x keeps its digits; both are formed without cancellation
    tail = 0.5 * _incomplete_beta(df / 2, 0.5, df / (df + square), square / (df + square))
    return tail if t < 0 else 1.0 - tail


@lru_cache(maxsize=4096)
def t_quantile(p: float, df: float) -> float:
    """The t with P(T ≤ t) = p, for 0 < p < 1; by bisection of ``t_cdf``."""
    assert 0.0 < p < 1.0 and df > 0.0
    if p == 0.5:
        return 0.0
    if p > 0.5:
        return -t_quantile(1.0 - p, df)
    low, high = -1.0, 0.0
    while t_cdf(low, df) > p:
        low *= 2.0
    while high - low > 1e-12 * max(1.0, -low):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if t_cdf(middle, df) < p else (low, middle)
    return 0.5 * (low + high)


def _incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """Regularised I_x(a, b), ``rest`` = 1 − x: the continued fraction of Numerical Recipes §6.4, by Lentz's method."""
    if x <= 0.0 or rest <= 0.0:
        return 0.0 if x <= 0.0 else 1.0
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - _incomplete_beta(b, a, rest, x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)) / a
    tiny = 1e-300
    c, d = 1.0, 1.0 / max(1.0 - (a + b) * x / (a + 1.0), tiny)
    value = d
    for m in range(1, 10_000):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 + numerator * d
            c = 1.0 + numerator / c
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = c if abs(c) > tiny else tiny
            value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return front * value


# -------------------------------------------------------------------------------------------------------- means, clusters


@dataclass(frozen=True)
class Interval:
    """A number with its interval. With a single cluster nothing is known of its error: the bounds are infinite.

    Args:
        value: the estimate.
        low: lower bound.
        high: upper bound.
        se: standard error.
        clusters: how many clusters it is from.
        df: degrees of freedom of its t quantile: effective clusters − 1.
    """

    value: float
    low: float
    high: float
    se: float
    clusters: int
    df: float

    def bounds(self, confidence: float) -> tuple[float, float]:
        """The interval at another confidence."""
        if not math.isfinite(self.se):
            return -math.inf, math.inf
        half = t_quantile(0.5 + confidence / 2, self.df) * self.se
        return self.value - half, self.value + half

    def scaled(self, factor: float) -> Interval:
        """The same in another unit; ``factor`` may be negative."""
        low, high = sorted((self.low * factor, self.high * factor))
        return Interval(self.value * factor, low, high, self.se * abs(factor), self.clusters, self.df)


def cluster_index(cluster_N: NDArray[np.generic]) -> tuple[IntArray, int]:
    """Clusters numbered 0 … G − 1, and G."""
    names, index_N = np.unique(cluster_N, return_inverse=True)
    return index_N.astype(np.int64), len(names)


def cluster_totals(values_N: FloatArray, index_N: IntArray, clusters: int) -> FloatArray:
    """The sum of the values of each cluster, [G]."""
    return np.bincount(index_N, weights=values_N, minlength=clusters).astype(np.float64)


def ratio(
    numerator_N: FloatArray, denominator_N: FloatArray, cluster_N: NDArray[np.generic], *, confidence: float = 0.95
) -> Interval:
    """Σ numerator / Σ denominator, such as bits per byte, with its cluster-robust interval.

    Args:
        numerator_N: what is summed above.
        denominator_N: what is summed below; not negative, not all zero. It is also what a cluster's size is measured in.
        cluster_N: the cluster of each item.
        confidence: of the interval.
    """
    index_N, clusters = cluster_index(cluster_N)
    top_G = cluster_totals(numerator_N, index_N, clusters)
    size_G = cluster_totals(denominator_N, index_N, clusters)
    value = float(top_G.sum() / size_G.sum())
    error_G, df = _influence(top_G, size_G)
    se = math.sqrt(float(error_G @ error_G))
    interval = Interval(value, -math.inf, math.inf, se, clusters, df)
    low, high = interval.bounds(confidence)
    return Interval(value, low, high, se, clusters, df)


def mean(values_N: FloatArray, cluster_N: NDArray[np.generic], *, confidence: float = 0.95) -> Interval:
    """The mean over items with its cluster-robust interval. Of a paired difference, give the differences."""
    return ratio(values_N, np.ones(len(values_N)), cluster_N, confidence=confidence)


def _influence(top_G: FloatArray, size_G: FloatArray) -> tuple[FloatArray, float]:
    """How far leaving out each cluster moves Σtop/Σsize, scaled so that its products are (co)variances; and the df."""
    clusters, whole = len(top_G), float(size_G.sum())
    if clusters < 2 or float(size_G.max()) >= whole:
        return np.full(clusters, math.inf), 1.0
    value = float(top_G.sum()) / whole
    effective = whole**2 / float(size_G @ size_G)
    error_G = math.sqrt((clusters - 1) / clusters) * (top_G - value * size_G) / (whole - size_G)
    return error_G, max(1.0, effective - 1.0)


# -------------------------------------------------------------------------------------------------------------- retention


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
    Fieller set and needs no ratio. Below 20 clusters it is an exact sign-flip test of the cluster sums of d.

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
        error_G, df = _influence(total_G, size_G)
        value, se = float(total_G.sum() / size_G.sum()), math.sqrt(float(error_G @ error_G))
        low, high = Interval(value, 0.0, 0.0, se, clusters, df).bounds(confidence)
        return Interval(value, low, high, se, clusters, df), error_G

    gap, teacher_error_G = interval(teacher_G)
    kept, student_error_G = interval(student_G)
    surplus, _ = interval(surplus_G)
    unknown = Retention(math.nan, -math.inf, math.inf, "NOT MEASURED", gap, surplus, 1.0, 1.0, None)
    if not math.isfinite(gap.se):
        return unknown
    low, high = fieller(
        gap.value,
        kept.value,
        gap.se**2,
        kept.se**2,
        float(teacher_error_G @ student_error_G),
        t_quantile(0.5 + confidence / 2, gap.df),
    )
    if gap.value < 3.0 * gap.se or gap.bounds(0.95)[0] < margin or gap.value <= 0.0 or not math.isfinite(high - low):
        return Retention(math.nan, -math.inf, math.inf, "UNINFORMATIVE", gap, surplus, 1.0, 1.0, None)

    p_above, p_below = sign_flip(surplus_G) if clusters < _FLIP_BELOW else _t_tests(surplus)
    verdict: Verdict = "PASS" if p_above <= alpha else "FAIL" if p_below <= alpha else "INCONCLUSIVE"
    needed = clusters_needed(surplus, alpha=alpha) if verdict == "INCONCLUSIVE" else None
    return Retention(kept.value / gap.value, low, high, verdict, gap, surplus, p_above, p_below, needed)


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


def _t_tests(d: Interval) -> tuple[float, float]:
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


# -------------------------------------------------------------------------------------------------------------- bootstrap


def bootstrap(
    statistic: Callable[[FloatArray], FloatArray],
    clusters: int,
    *,
    seed: int = 0,
    replicates: int = 2000,
    kind: Literal["bca", "percentile"] = "bca",
    confidence: float = 0.95,
) -> Interval:
    """Cluster bootstrap of any statistic; its standard error is the standard deviation of the replicates.

    The replicates depend on seed, clusters and count alone: statistics of the same clusters are resampled alike, so they
    stay paired. Quantiles are taken at ±t·√(G/(G−1)) instead of ±1.96, which widens the interval where clusters are few
    (Hesterberg 2015, arXiv:1411.5279, "expanded percentile").

    Args:
        statistic: weights of the clusters [R, G] (how often each was drawn) → values [R].
        clusters: G.
        seed: of the resampling.
        replicates: how many.
        kind: ``bca`` corrects bias and skewness (Efron 1987); ``percentile`` suits quantiles.
        confidence: of the interval.
    """
    value = float(statistic(np.ones((1, clusters)))[0])
    if clusters < 2:
        return Interval(value, -math.inf, math.inf, math.inf, clusters, 1.0)
    rng = np.random.default_rng(seed)
    rows = max(1, min(replicates, 1_000_000 // clusters))
    parts = []
    for start in range(0, replicates, rows):
        count = min(rows, replicates - start)
        drawn = rng.integers(0, clusters, size=(count, clusters)) + clusters * np.arange(count)[:, None]
        weights_RG = np.bincount(drawn.ravel(), minlength=count * clusters).reshape(count, clusters)
        parts.append(statistic(weights_RG.astype(np.float64)))
    values = np.concatenate(parts)
    values = values[np.isfinite(values)]
    se = float(np.std(values, ddof=1)) if len(values) > 1 else math.inf
    reach = t_quantile(0.5 + confidence / 2, clusters - 1) * math.sqrt(clusters / (clusters - 1))
    bias, acceleration = 0.0, 0.0
    below = float(np.mean(values < value) + 0.5 * np.mean(values == value))
    if kind == "bca" and 0.0 < below < 1.0:
        bias, acceleration = normal_quantile(below), _acceleration(statistic, clusters)
    low, high = (float(np.quantile(values, _level(side * reach, bias, acceleration))) for side in (-1.0, 1.0))
    return Interval(value, min(low, value), max(high, value), se, clusters, clusters - 1.0)


def _level(z: float, bias: float, acceleration: float) -> float:
    """Which quantile of the replicates BCa takes for a bound at z."""
    shrink = 1.0 - acceleration * (bias + z)
    if shrink <= 0.0:
        return 0.0 if z < 0 else 1.0
    return normal_cdf(bias + (bias + z) / shrink)


def _acceleration(statistic: Callable[[FloatArray], FloatArray], clusters: int) -> float:
    rows = max(1, 1_000_000 // clusters)
    parts = []
    for start in range(0, clusters, rows):
        left_out = np.arange(start, min(start + rows, clusters))
        weights_RG = np.ones((len(left_out), clusters))
        weights_RG[np.arange(len(left_out)), left_out] = 0.0
        parts.append(statistic(weights_RG))
    values = np.concatenate(parts)
    distance = values.mean() - values
    spread = float(distance @ distance)
    return float((distance**3).sum()) / (6.0 * spread**1.5) if spread > 0.0 and np.isfinite(spread) else 0.0


def quantile_statistic(
    values_N: FloatArray, cluster_N: NDArray[np.generic], level: float
) -> Callable[[FloatArray], FloatArray]:
    """For ``bootstrap``: the smallest value below or at which a share ``level`` of the (weighted) items lies."""
    index_N, clusters = cluster_index(cluster_N)
    order = np.argsort(values_N, kind="stable")
    sorted_N, index_N = values_N[order], index_N[order]
    # two steps, so that a replicate does not walk over all items: which stretch of them, then where in it
    stretches = max(1, min(512, len(order), 4_000_000 // clusters))
    edges = np.linspace(0, len(order), stretches + 1).astype(np.int64)
    counts_MG = np.stack([np.bincount(index_N[a:b], minlength=clusters) for a, b in pairwise(edges.tolist())]).astype(
        np.float64
    )

    def statistic(weights_RG: FloatArray) -> FloatArray:
        mass_RM = np.cumsum(weights_RG @ counts_MG.T, axis=1)
        target_R = level * mass_RM[:, -1] * (1 - 1e-12)
        stretch_R = np.minimum((mass_RM < target_R[:, None]).sum(axis=1), stretches - 1)
        found = np.empty(len(weights_RG))
        for r, m in enumerate(stretch_R.tolist()):
            start, stop = int(edges[m]), int(edges[m + 1])
            before = mass_RM[r, m - 1] if m else 0.0
            mass_N = np.cumsum(weights_RG[r][index_N[start:stop]])
            place = start + int(np.searchsorted(mass_N, target_R[r] - before))
            found[r] = sorted_N[min(place, stop - 1)]
        return found

    return statistic


# ------------------------------------------------------------------------------------------------- counts, multiplicity


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


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values: reject where ≤ α; no more than α false alarms in a family. Order is kept."""
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's adjusted p values: of those ≤ q, an expected share q is false. Order is kept."""
    adjusted, smallest = [1.0] * len(p_values), 1.0
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for rank in range(len(order), 0, -1):
        i = order[rank - 1]
        smallest = min(smallest, p_values[i] * len(p_values) / rank)
        adjusted[i] = smallest
    return adjusted


# ---------------------------------------------------------------------------------------------------------------- planning


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
