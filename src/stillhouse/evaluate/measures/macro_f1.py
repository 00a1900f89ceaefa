"""The F1 of the classes, each class counting alike."""

from __future__ import annotations

import numpy as np

from stillhouse.evaluate.confusion import Asked, judged
from stillhouse.evaluate.records import Finding, FloatArray, Items


def macro_f1(items: Items, *, retention: float = 0.9, margin: float = 0.03, seed: int = 0) -> Finding:
    """How well are the classes told apart, each counting alike, the rare as the common?

    F1 of a class is 2 · right / (true + said): the harmonic mean of precision and recall; the mean is over classes that are
    true or said of some text.

    Args:
        items: the table.
        retention: the share of the teacher's above the floor that must be kept.
        margin: by how much the teacher's must surely be above that of always saying the commonest class.
        seed: of the bootstrap.
    """
    asked = Asked(
        "macro_f1", "How well are the classes told apart, each counting alike?", "macro-F1", _macro_f1, "%", 100.0
    )
    return judged(items, asked, retention=retention, margin=margin, seed=seed)


def _macro_f1(true_RC: FloatArray, said_RC: FloatArray, right_RC: FloatArray) -> FloatArray:
    there_RC = true_RC + said_RC
    f1_RC = 2.0 * right_RC / np.where(there_RC > 0, there_RC, 1.0)
    return np.asarray(f1_RC.sum(axis=1) / (there_RC > 0).sum(axis=1))
