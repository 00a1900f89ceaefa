"""Confidence against correctness: signed gap, Cox slope, calibration error with what chance alone would give. numpy only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillhouse.evaluate.records import FloatArray
from stillhouse.evaluate.statistics import Interval, cluster_index, cluster_totals, mean, t_quantile

_DRAWS = 2_000_000  # uniform numbers that exist at one time


@dataclass(frozen=True)
class Bin:
    """Items of neighbouring confidence.

    Args:
        confidence: their mean confidence.
        accuracy: their share of correct.
        low: 2.5 % quantile of that share, were they correct with the probability they claim.
        high: 97.5 % quantile of it.
        n: how many.
    """

    confidence: float
    accuracy: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class CalibrationError:
    """Expected calibration error in equal-mass bins, beside its distribution for a perfectly calibrated model.

    Args:
        value: Σ_b n_b/n · |accuracy_b − confidence_b|.
        null_mean: what it is on average where there is no error at all.
        null_low: 2.5 % quantile of that.
        null_high: 97.5 % quantile of that.
        p: share of the null at or above the value.
        excess: value − null_mean.
        debiased_square: Σ_b n_b/n · [(accuracy_b − confidence_b)² − accuracy_b(1 − accuracy_b)/(n_b − 1)].
        bins: for the reliability diagram.
    """

    value: float
    null_mean: float
    null_low: float
    null_high: float
    p: float
    excess: float
    debiased_square: float
    bins: tuple[Bin, ...]


def bins_for(n: int) -> int:
    """How many bins n items bear: one per 50, at most 15."""
    return min(15, n // 50)


def calibration_error(
    conf_N: FloatArray, correct_N: FloatArray, *, seed: int = 0, replicates: int = 2000
) -> CalibrationError | None:
    """Calibration error with its null band by consistency resampling; None below 50 items.

    The null redraws ``correct ~ Bernoulli(conf)`` (Bröcker and Smith 2007): the error of a perfect model is not 0, and at
    300 items it is about 0.05.

    Args:
        conf_N: probability of the predicted outcome.
        correct_N: 1 where it was right.
        seed: of the resampling.
        replicates: how many.
    """
    n = len(conf_N)
    if bins_for(n) == 0:
        return None
    rng = np.random.default_rng(seed)
    order = np.argsort(conf_N, kind="stable")
    groups = np.array_split(order, bins_for(n))
    bins, null_R, value, square = [], np.zeros(replicates), 0.0, 0.0
    for group in groups:
        size = len(group)
        claimed = conf_N[group]
        confidence, accuracy = float(claimed.mean()), float(correct_N[group].mean())
        rows = max(1, _DRAWS // size)
        right_R = np.concatenate([_draw(rng, claimed, min(rows, replicates - r)) for r in range(0, replicates, rows)])
        null_R += size / n * np.abs(right_R / size - confidence)
        value += size / n * abs(accuracy - confidence)
        square += size / n * ((accuracy - confidence) ** 2 - accuracy * (1 - accuracy) / (size - 1))
        low, high = np.quantile(right_R / size, (0.025, 0.975)).tolist()
        bins.append(Bin(confidence, accuracy, low, high, size))
    low, high = np.quantile(null_R, (0.025, 0.975)).tolist()
    p = (1 + int(np.count_nonzero(null_R >= value - 1e-12))) / (replicates + 1)
    centre = float(null_R.mean())
    return CalibrationError(value, centre, low, high, p, value - centre, square, tuple(bins))


def _draw(rng: np.random.Generator, claimed: FloatArray, rows: int) -> FloatArray:
    """How many of the items come out right, [rows] times."""
    drawn = rng.random((rows, len(claimed)), dtype=np.float32) < claimed.astype(np.float32)
    return np.asarray(np.count_nonzero(drawn, axis=1), dtype=np.float64)


def brier(conf_N: FloatArray, correct_N: FloatArray, cluster_N: NDArray[np.generic]) -> Interval:
    """Brier score of "my first choice is right": mean (conf − correct)², with its cluster-robust interval."""
    return mean((conf_N - correct_N) ** 2, cluster_N)


def cox(conf_N: FloatArray, correct_N: FloatArray, cluster_N: NDArray[np.generic]) -> tuple[Interval, Interval] | None:
    """Intercept and slope of ``logit P(correct) = a + b · logit(conf)``; a perfect model has 0 and 1 (Cox 1958).

    b < 1: confidences are spread too far apart. Fitted by Newton's method; standard errors by the cluster sandwich (CR1).
    None where it cannot be fitted: all right, all wrong, one confidence, perfectly separated, or a single cluster.
    """
    index_N, clusters = cluster_index(cluster_N)
    if clusters < 2 or correct_N.min(initial=1.0) == correct_N.max(initial=0.0) or float(np.ptp(conf_N)) < 1e-9:
        return None
    clipped = np.clip(conf_N, 1e-6, 1 - 1e-6)
    x_N2 = np.stack([np.ones(len(clipped)), np.log(clipped) - np.log1p(-clipped)], axis=1)
    beta = np.array([0.0, 1.0])
    for _ in range(50):
        expected_N = 1.0 / (1.0 + np.exp(-np.clip(x_N2 @ beta, -500, 500)))
        information = (x_N2 * (expected_N * (1 - expected_N))[:, None]).T @ x_N2
        if np.linalg.cond(information) > 1e12:
            return None
        step = np.linalg.solve(information, x_N2.T @ (correct_N - expected_N))
        step *= min(1.0, 5.0 / max(1e-12, float(np.abs(step).max())))
        beta = beta + step
        if float(np.abs(step).max()) < 1e-10:
            break
    else:
        return None
    score_G2 = np.stack(
        [cluster_totals(x_N2[:, j] * (correct_N - expected_N), index_N, clusters) for j in (0, 1)], axis=1
    )
    bread = np.linalg.inv(information)
    covariance = clusters / (clusters - 1) * bread @ (score_G2.T @ score_G2) @ bread
    size_G = np.bincount(index_N).astype(np.float64)
    df = max(1.0, float(size_G.sum() ** 2 / (size_G @ size_G)) - 1.0)
    found = []
    for j in (0, 1):
        value, se = float(beta[j]), math.sqrt(max(0.0, float(covariance[j, j])))
        half = t_quantile(0.975, df) * se
        found.append(Interval(value, value - half, value + half, se, clusters, df))
    return found[0], found[1]
