"""Length: of what is asked."""

from __future__ import annotations

import numpy as np

from stillhouse.evaluate.answers import Answered
from stillhouse.evaluate.records import FloatArray, Items


def length(table: Answered | Items) -> FloatArray | None:
    """Characters of the question, its longest option included."""
    if isinstance(table, Items) or not table.contexts:
        return None
    pairs = zip(table.contexts, np.nan_to_num(table.characters_NK).max(axis=1).tolist(), strict=True)
    return np.array([max(map(len, contexts), default=0) + option for contexts, option in pairs], dtype=np.float64)
