"""Intervals of whatever is not a mean, by drawing clusters again."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stillhouse.evaluate.records import FloatArray
from stillhouse.evaluate.statistics.distributions import normal_cdf, normal_quantile, t_quantile
from stillhouse.evaluate.statistics.means import Interval, cluster_index


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
    if not len(values):  # no draw of the clusters has such a statistic
        return Interval(value, -math.inf, math.inf, math.inf, clusters, clusters - 1.0)
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
