"""How much further from 0 one mean is than another, whatever their signs."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from stillhouse.evaluate.records import FloatArray
from stillhouse.evaluate.statistics.means import Interval, mean


def further(
    student_N: FloatArray, teacher_N: FloatArray, cluster_N: NDArray[np.generic]
) -> tuple[Interval, float, float]:
    """|mean student| − |mean teacher| with one-sided 95 % bounds that hold whatever the true signs are.

    Above: the worse sign for the student, and the observed one for the teacher. Were that the wrong one, the bounded mean
    would only be larger; but it was chosen by looking, so each of the two gets half of the 5 %. Below: the other way round.

    Args:
        student_N: paired with ``teacher_N``.
        teacher_N: likewise.
        cluster_N: the cluster of each item.

    Returns:
        the estimate, its lower and its upper bound.
    """
    student_sign, teacher_sign = (math.copysign(1.0, float(x.mean())) for x in (student_N, teacher_N))

    def combined(student: float, teacher: float) -> Interval:
        return mean(student * student_N - teacher * teacher_N, cluster_N)

    high = max(combined(sign, teacher_sign).bounds(0.95)[1] for sign in (-1.0, 1.0))
    low = min(combined(student_sign, sign).bounds(0.95)[0] for sign in (-1.0, 1.0))
    return combined(student_sign, teacher_sign), low, high
