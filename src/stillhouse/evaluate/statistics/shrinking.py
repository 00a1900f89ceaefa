"""Many means of one kind: each moved towards the others by how little is known of it, so that the worst is not the smallest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def shrunk(values: Sequence[float], errors: Sequence[float]) -> list[float]:
    """Normal–normal empirical Bayes; the spread between them is their variance less the mean of the squared errors (Hedges 1983).

    Each counts alike in that spread. Weighted by what is known of each (DerSimonian and Laird 1986), a few that seem known exactly, since
    all of their answers are right, would hide one that is gone.

    Args:
        values: K estimates.
        errors: their standard errors, above 0.
    """
    value_K = np.array(values, dtype=np.float64)
    variance_K = np.array(errors, dtype=np.float64) ** 2
    between = max(0.0, float(value_K.var(ddof=1) - variance_K.mean())) if len(value_K) > 1 else 0.0
    weight_K = 1 / (between + variance_K)
    centre = float((weight_K * value_K).sum() / weight_K.sum())
    trust_K = between / (between + variance_K)
    return [float(x) for x in centre + trust_K * (value_K - centre)]
