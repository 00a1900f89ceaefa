"""A value that stays."""

from __future__ import annotations


def constant(progress: float, *, value: float) -> float:
    """The same value throughout.

    Args:
        progress: share of the steps taken, 0 to 1.
        value: the value.

    """
    return value
