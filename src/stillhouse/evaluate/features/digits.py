"""Digits: whether numbers are spoken of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stillhouse.evaluate.answers import Answered
from stillhouse.evaluate.records import Items


def digits(table: Answered | Items) -> NDArray[np.object_] | None:
    """Whether the question has digits in it: ``some`` or ``none``."""
    if isinstance(table, Items) or not table.contexts:
        return None
    pairs = zip(table.contexts, table.options, strict=True)
    return np.array(
        ["some" if any(map(str.isdigit, "".join((*c, *o)))) else "none" for c, o in pairs], dtype=np.object_
    )
