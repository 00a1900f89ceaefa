"""More often what there is still more to learn from."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from stillhouse.data.choosing import Ints, Pool
from stillhouse.data.stream import Stream


def dynamic(
    pieces: Stream,
    *,
    every: Annotated[int, Field(ge=1)] = 100,
    power: Annotated[float, Field(ge=0)] = 1.0,
    by: str = "gap",
) -> Stream:
    """Of each task pieces are drawn the likelier the more there is to learn from them, and that is measured again and again.

    Each measurement lets teacher and student read all pieces: about a third of what training on them costs. What it took is
    written beside the losses.

    Args:
        pieces: what is chosen from.
        every: steps between two measurements.
        power: that the difficulty is raised to; 0 draws all alike.
        by: a measure of difficulty: gap, student_loss, teacher_entropy, agreement.

    """

    def choose(pool: Pool) -> Ints:
        # Weighted draws without replacement: the smallest −log(u) / weight first (Efraimidis & Spirakis 2006).
        weight_n = np.maximum(pool.score_n, 1e-6) ** power
        return np.argsort(-np.log1p(-pool.draw_n) / weight_n, kind="stable")

    return pieces.choosing(choose, by, every)
