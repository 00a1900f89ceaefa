"""Answer: which one is right, such as a class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stillhouse.evaluate.answers import Answered
from stillhouse.evaluate.records import Items


def answer(table: Answered | Items) -> NDArray[np.object_] | None:
    """The right answer's words, or the number of the class: where few answers are possible, each is a slice."""
    if isinstance(table, Items):
        return None if table.bytes is not None else table.label.astype(str).astype(np.object_)
    if not table.options or table.kind == "write":
        return None
    return np.array(
        [o[gold].strip() for o, gold in zip(table.options, table.gold.tolist(), strict=True)], dtype=np.object_
    )
