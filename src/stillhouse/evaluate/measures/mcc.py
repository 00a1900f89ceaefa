"""Matthews' correlation of what is said with what is true."""

from __future__ import annotations

import numpy as np

from stillhouse.evaluate.confusion import Asked, judged
from stillhouse.evaluate.records import Finding, FloatArray, Items


def mcc(items: Items, *, retention: float = 0.9, margin: float = 0.03, seed: int = 0) -> Finding:
    """How strongly does what is said go with what is true?

    The correlation of the two, from −1 to 1 (Matthews 1975, doi:10.1016/0005-2795(75)90109-9), in the form for any number of
    classes (Gorodkin 2004, doi:10.1016/j.compbiolchem.2004.09.006); 0 for one who says the same of everything. The measure of CoLA.

    Args:
        items: the table.
        retention: the share of the teacher's that must be kept; the floor is 0.
        margin: by how much the teacher's must surely be above 0.
        seed: of the bootstrap.
    """
    asked = Asked("mcc", "How strongly does what is said go with what is true?", "Matthews' correlation", _mcc)
    return judged(items, asked, retention=retention, margin=margin, seed=seed)


def _mcc(true_RC: FloatArray, said_RC: FloatArray, right_RC: FloatArray) -> FloatArray:
    total_R = true_RC.sum(axis=1)
    covariance_R = right_RC.sum(axis=1) * total_R - (true_RC * said_RC).sum(axis=1)
    spread_R = (total_R**2 - (true_RC**2).sum(axis=1)) * (total_R**2 - (said_RC**2).sum(axis=1))
    return np.asarray(covariance_R / np.sqrt(np.where(spread_R > 0, spread_R, 1.0)) * (spread_R > 0))
