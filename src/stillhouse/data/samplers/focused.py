"""Only what there is much to learn from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stillhouse.data.choosing import Ints, Pool
from stillhouse.data.stream import Stream


def focused(pieces: Stream, *, keep: Annotated[float, Field(gt=0, le=1)] = 0.5, by: str = "gap") -> Stream:
    """Of each task only the pieces with most to learn, in random order; the others are never read.

    Difficulty is measured once, before the first step.

    Args:
        pieces: what is chosen from.
        keep: the share of each task's pieces that is kept.
        by: a measure of difficulty: gap, student_loss, teacher_entropy, agreement.

    """

    def choose(pool: Pool) -> Ints:
        return pool.shuffled(pool.hardest(keep))

    return pieces.choosing(choose, by)
