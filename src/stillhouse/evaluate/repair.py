"""Whether one number would repair a model's confidence: a temperature, fitted on one half of the documents and tried on the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillhouse.evaluate import statistics
from stillhouse.evaluate.records import FloatArray
from stillhouse.evaluate.statistics import Interval

_GRID = np.exp(np.linspace(np.log(0.2), np.log(5.0), 161))
_FEWEST = 100


@dataclass(frozen=True)
class Repair:
    """What a temperature would do.

    Args:
        temperature: geometric mean of the two halves'; above 1 the model is too sure of itself.
        gap: confidence − accuracy after it, each half at the temperature of the other.
    """

    temperature: float
    gap: Interval


def repair(conf_N: FloatArray, correct_N: FloatArray, cluster_N: NDArray[np.generic]) -> Repair | None:
    """Fit ``sigmoid(logit(conf) / T)`` to being right, cross-fitted over two halves of the clusters; None of too few.

    After Guo et al. 2017, arXiv:1706.04599, §4.2, on the first choice's odds instead of all logits, which the table does not hold.

    Args:
        conf_N: probability of the first choice.
        correct_N: 1 where it was right.
        cluster_N: the cluster of each item.
    """
    index_N, clusters = statistics.cluster_index(cluster_N)
    if len(conf_N) < _FEWEST or clusters < 4:
        return None
    clipped = np.clip(conf_N, 1e-6, 1 - 1e-6)
    odds_N = np.log(clipped) - np.log1p(-clipped)
    first_N = index_N % 2 == 0
    found, after_N = [], np.empty(len(conf_N))
    for fit, use in ((first_N, ~first_N), (~first_N, first_N)):
        temperature = _fitted(odds_N[fit], correct_N[fit])
        found.append(temperature)
        after_N[use] = 1 / (1 + np.exp(-odds_N[use] / temperature))
    return Repair(float(np.sqrt(found[0] * found[1])), statistics.mean(after_N - correct_N, cluster_N))


def _fitted(odds_N: FloatArray, correct_N: FloatArray) -> float:
    """The temperature of the least loss."""
    loss = [float((np.logaddexp(0, odds_N / t) - correct_N * odds_N / t).sum()) for t in _GRID.tolist()]
    return float(_GRID[int(np.argmin(loss))])
