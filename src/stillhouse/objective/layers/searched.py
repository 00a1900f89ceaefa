"""Layers that are most alike."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field
from torch import Tensor


def searched(
    student: int, teacher: int, similarity_ST: Tensor, *, count: Annotated[int, Field(ge=1)] = 4
) -> list[tuple[int, int]]:
    """Layers that are most alike on a sample of the text, in the same order in both.

    Of all maps in which a later layer of the student learns from a later layer of the teacher, the one of the highest total
    similarity, by dynamic programming. Similarity is linear CKA: Kornblith et al. 2019, arXiv:1905.00414, §3.

    Args:
        student: how many layers it has.
        teacher: how many layers it has.
        similarity_ST: of each student layer to each teacher layer, [student, teacher]; what is not finite counts as 0.
        count: how many pairs; no more than either has layers.

    Returns:
        pairs (student's layer, teacher's layer), counted from 1.

    """
    assert similarity_ST.shape == (student, teacher), "one similarity for each two layers"
    similar = [[x if math.isfinite(x) else 0.0 for x in row] for row in similarity_ST.tolist()]
    # best[c][s][t]: total of the best c pairs among the first s and t layers, and the pairs
    best: list[list[list[tuple[float, list[tuple[int, int]]]]]]
    best = [[[(0.0, [])] * (teacher + 1) for _ in range(student + 1)]]
    for _ in range(min(count, student, teacher)):
        before = best[-1]
        table: list[list[tuple[float, list[tuple[int, int]]]]] = [[(-math.inf, [])] * (teacher + 1)]
        for s in range(1, student + 1):
            row: list[tuple[float, list[tuple[int, int]]]] = [(-math.inf, [])]
            for t in range(1, teacher + 1):
                total, pairs = before[s - 1][t - 1]
                paired = (total + similar[s - 1][t - 1], [*pairs, (s, t)])
                row.append(max(paired, table[s - 1][t], row[t - 1], key=lambda found: found[0]))
            table.append(row)
        best.append(table)
    return best[-1][student][teacher][1]
