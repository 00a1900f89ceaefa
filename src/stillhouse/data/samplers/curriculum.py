"""From easy to hard."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from stillhouse.data.choosing import Ints, Pool
from stillhouse.data.stream import Stream


def curriculum(
    pieces: Stream,
    *,
    begin: Annotated[float, Field(gt=0, le=1)] = 0.1,
    until: Annotated[float, Field(gt=0, le=1)] = 0.5,
    by: str = "gap",
) -> Stream:
    """Of each task the easiest part at first, in random order, and more and more of the rest until all is read.

    After Platanios et al. 2019, arXiv:1903.09848, §2.2: at share t of the run the easiest √(t (1 − begin²) / until + begin²) of
    the pieces are in play. Difficulty is measured once, before the first step.

    Args:
        pieces: what is chosen from.
        begin: the part in play at the first step.
        until: the share of the run at which all is in play.
        by: a measure of difficulty: gap, student_loss, teacher_entropy, agreement.

    """

    def choose(pool: Pool) -> Ints:
        in_play = math.sqrt(pool.progress * (1.0 - begin**2) / until + begin**2)
        return pool.shuffled(pool.easiest(min(in_play, 1.0)))

    return pieces.choosing(choose, by)
