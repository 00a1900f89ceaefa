"""Only what the teacher is sure of."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stillhouse.data.choosing import Ints, Pool
from stillhouse.data.stream import Stream


def confident(
    pieces: Stream, *, keep: Annotated[float, Field(gt=0, le=1)] = 0.8, by: str = "teacher_entropy"
) -> Stream:
    """Of each task only the pieces that the teacher is surest of, in random order: what it guesses at is not taught.

    A filter, to stand before others: ``sampler: [confident, {name: focused, keep: 0.3}]``. Measured once, before the first step.

    Args:
        pieces: what is chosen from.
        keep: the share of each task's pieces that is kept.
        by: what is to be low: teacher_entropy, or another measure of difficulty.

    """

    def choose(pool: Pool) -> Ints:
        return pool.shuffled(pool.easiest(keep))

    return pieces.choosing(choose, by)
