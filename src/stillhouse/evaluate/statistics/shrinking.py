"""Many means of one kind: each moved towards the others by how little is known of it, so that the worst is not the smallest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def shrunk(values: Sequence[float], errors: Sequence[float]) -> list[float]:
    """Normal–normal empirical Bayes with the moment estimate of DerSimonian and Laird 1986 of the spread between them.

    Args:
        values: K estimates.
        errors: their standard errors, above 0.
    """
    value_K = np.array(values, dtype=np.float64)
    variance_K = np.array(errors, dtype=np.float64) ** 2
    weight_K = 1 / variance_K
    centre = float((weight_K * value_K).sum() / weight_K.sum())
    excess = float((weight_K * (value_K - centre) ** 2).sum()) - (len(value_K) - 1)
    scale = float(weight_K.sum() - (weight_K**2).sum() / weight_K.sum())
    between = max(0.0, excess / scale) if scale > 0 else 0.0
    if between > 0.0:
        weight_K = 1 / (between + variance_K)
        centre = float((weight_K * value_K).sum() / weight_K.sum())
    trust_K = between / (between + variance_K)
    return [float(x) for x in centre + trust_K * (value_K - centre)]
