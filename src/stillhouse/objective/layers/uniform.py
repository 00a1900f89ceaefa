"""Layers at even distances."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field


def uniform(student: int, teacher: int, *, count: Annotated[int, Field(ge=1)] = 4) -> list[tuple[int, int]]:
    """Layers at even distances in both, the last with the last: 3, 6, 9, 12 of 12 learn from 12, 24, 36, 48 of 48.

    The embedding is no layer, and the student's first never learns from the teacher's first for standing at the same number.

    Args:
        student: how many layers it has.
        teacher: how many layers it has.
        count: how many pairs; no more than either has layers.

    Returns:
        pairs (student's layer, teacher's layer), counted from 1.

    """
    pairs = min(count, student, teacher)
    return [(i * student // pairs, i * teacher // pairs) for i in range(1, pairs + 1)]
