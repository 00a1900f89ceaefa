"""Certainty: of the teacher."""

from __future__ import annotations

import numpy as np

from stillhouse.evaluate.answers import Answered
from stillhouse.evaluate.records import FloatArray, Items


def certainty(table: Answered | Items) -> FloatArray | None:
    """How sure the teacher is of its answer: the probability of its first choice, of options the share of the likeliest."""
    if isinstance(table, Items):
        return table.roles["teacher"].conf
    if table.kind != "choice":
        return None
    return np.asarray(table.shares("teacher").max(axis=1), dtype=np.float64)
