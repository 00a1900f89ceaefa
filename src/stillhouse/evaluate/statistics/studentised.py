"""One-sided tests for few clusters of skewed sums: Student's t where its quantiles are drawn from the clusters themselves."""

from __future__ import annotations

import math

import numpy as np

from stillhouse.evaluate.records import FloatArray

DRAW_BELOW = 100
"""Clusters below which t quantiles are checked by drawing."""

_REPLICATES = 1999


def studentised(top_G: FloatArray, size_G: FloatArray) -> tuple[float, float]:
    """One-sided p values (Σtop/Σsize not above 0, not below 0) of the studentised cluster bootstrap.

    Clusters are drawn with replacement; each replicate's distance from the observed ratio in its own jackknife standard errors
    makes the distribution that t is compared with, skewness included. Hall 1992, "The Bootstrap and Edgeworth Expansion", §3.

    Args:
        top_G: sums of each of G clusters.
        size_G: their sizes; the same draws for the same sums.
    """
    clusters = len(top_G)
    value, error = _studentise(top_G[None], size_G[None])
    if error[0] == 0.0:
        return (0.0 if value[0] > 0 else 1.0), (0.0 if value[0] < 0 else 1.0)
    observed = float(value[0] / error[0])
    drawn_RG = np.random.default_rng(0).integers(0, clusters, (_REPLICATES, clusters))
    value_R, error_R = _studentise(top_G[drawn_RG], size_G[drawn_RG])
    away_R = value_R - value[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        t_R = np.where(error_R > 0.0, away_R / error_R, np.sign(away_R) * math.inf)
    t_R = np.nan_to_num(t_R, nan=0.0)
    return float(1 + (t_R >= observed).sum()) / (1 + _REPLICATES), float(1 + (t_R <= observed).sum()) / (
        1 + _REPLICATES
    )


def _studentise(top_RG: FloatArray, size_RG: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Ratios and their jackknife errors, [R]; the same error as ``means.influence``."""
    clusters, whole_R = top_RG.shape[1], size_RG.sum(axis=1)
    value_R = top_RG.sum(axis=1) / whole_R
    rest_RG = np.maximum(whole_R[:, None] - size_RG, 1e-300)
    error_RG = (top_RG - value_R[:, None] * size_RG) / rest_RG
    return value_R, np.sqrt((clusters - 1) / clusters * (error_RG**2).sum(axis=1))
