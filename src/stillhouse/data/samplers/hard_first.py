"""The hardest first."""

from __future__ import annotations

import numpy as np

from stillhouse.data.choosing import Ints, Pool
from stillhouse.data.stream import Stream


def hard_first(pieces: Stream, *, by: str = "gap") -> Stream:
    """Of each task the pieces with most to learn first, down to the easiest; then again from the hardest.

    Difficulty is measured once, before the first step. A run that reads less than all of its text reads the hardest of it only.

    Args:
        pieces: what is chosen from.
        by: a measure of difficulty: gap, student_loss, teacher_entropy, agreement.

    """

    def choose(pool: Pool) -> Ints:
        return np.lexsort((pool.draw_n, -pool.score_n, pool.seen_n))

    return pieces.choosing(choose, by)
