"""Place: how far into its document."""

from __future__ import annotations

import numpy as np

from stillhouse.evaluate.answers import Answered
from stillhouse.evaluate.records import FloatArray, Items


def place(table: Answered | Items) -> FloatArray | None:
    """Tokens that stand before this one in its document; nothing of questions."""
    if isinstance(table, Answered) or table.bytes is None:
        return None
    return table.position.astype(np.float64)
