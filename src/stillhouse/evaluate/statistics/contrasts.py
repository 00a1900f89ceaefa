"""How much larger a mean is inside a part of the items than outside it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from stillhouse.evaluate.records import FloatArray
from stillhouse.evaluate.statistics.distributions import t_quantile
from stillhouse.evaluate.statistics.means import Interval

_TOGETHER = 64  # parts whose sums exist at one time


def contrasts(
    values_N: FloatArray, inside_CN: NDArray[np.bool_], cluster_N: NDArray[np.generic], *, confidence: float = 0.95
) -> list[Interval]:
    """Mean inside less mean outside, of each of C parts, with cluster-robust intervals.

    SE² = G/(G−1) · Σ_g e_g², e_g = Σ_{i∈g} (v_i − mean of its side) / ± size of its side; the degrees of freedom are those of the
    side with fewer effective clusters, (Σ n_g)² / Σ n_g² − 1.

    Args:
        values_N: what is averaged.
        inside_CN: of each part, which items are in it; neither none nor all.
        cluster_N: the cluster of each item.
        confidence: of the intervals.
    """
    order_N = np.argsort(cluster_N, kind="stable")
    value_N = values_N[order_N]
    starts_G = np.unique(cluster_N[order_N], return_index=True)[1]
    whole_G, size_G = (np.add.reduceat(x, starts_G) for x in (value_N, np.ones(len(value_N))))
    found = []
    for first in range(0, len(inside_CN), _TOGETHER):
        inside_cN = inside_CN[first : first + _TOGETHER][:, order_N].astype(np.float64)
        top_cG = np.add.reduceat(inside_cN * value_N, starts_G, axis=1)
        count_cG = np.add.reduceat(inside_cN, starts_G, axis=1)
        found += [
            _contrast(top, whole_G - top, count, size_G - count, confidence)
            for top, count in zip(top_cG, count_cG, strict=True)
        ]
    return found


def _contrast(top_G: FloatArray, other_G: FloatArray, n_G: FloatArray, m_G: FloatArray, confidence: float) -> Interval:
    clusters = len(top_G)
    inside, outside = float(top_G.sum() / n_G.sum()), float(other_G.sum() / m_G.sum())
    error_G = (top_G - inside * n_G) / n_G.sum() - (other_G - outside * m_G) / m_G.sum()
    se = math.sqrt(clusters / (clusters - 1) * float(error_G @ error_G)) if clusters > 1 else math.inf
    effective = min(float(x.sum()) ** 2 / float(x @ x) for x in (n_G, m_G))
    df = max(1.0, effective - 1.0)
    half = t_quantile(0.5 + confidence / 2, df) * se
    value = inside - outside
    return Interval(value, value - half, value + half, se, clusters, df)
