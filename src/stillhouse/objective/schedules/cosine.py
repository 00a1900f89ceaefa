"""A value that moves along half a cosine."""

from __future__ import annotations

import math


def cosine(progress: float, *, start: float, end: float) -> float:
    """From start to end along half a cosine: slow, fast, slow.

    Args:
        progress: share of the steps taken, 0 to 1.
        start: the value at the first step.
        end: the value at the last.

    """
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * progress))
