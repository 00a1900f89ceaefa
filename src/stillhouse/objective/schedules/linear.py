"""A value that moves in a straight line."""

from __future__ import annotations


def linear(progress: float, *, start: float, end: float) -> float:
    """From start to end in a straight line.

    Args:
        progress: share of the steps taken, 0 to 1.
        start: the value at the first step.
        end: the value at the last.

    """
    return start + (end - start) * progress
