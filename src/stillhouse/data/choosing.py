"""What strategies that choose text are told: a mixture of its tasks, a sampler of the pieces of one task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TaskSize:
    """A task as a mixture knows it.

    Args:
        name: its name.
        tokens: positions that there are to learn from, with loss or without.
        documents: how many documents they are in.
        gap: how far the student is from the teacher on its held-out text, in nats a position, when it was measured last; 0
            for a mixture that does not ask for it.
    """

    name: str
    tokens: int
    documents: int
    gap: float = 0.0


@dataclass(frozen=True)
class Pool:
    """Pieces of one task that a sampler chooses from; entry i of each array is of the i-th of them.

    Args:
        score_n: how much there is to learn from each, by the sampler's measure of difficulty, in nats a position.
        seen_n: how often each was read so far.
        draw_n: a random number each, from 0 to 1, another one in each round.
        progress: share of the run's steps that are taken.
    """

    score_n: Floats
    seen_n: Ints
    draw_n: Floats
    progress: float

    def __len__(self) -> int:
        return len(self.draw_n)

    def shuffled(self, among: Ints | None = None) -> Ints:
        """Pieces in random order, those read least often first: none is read twice before all of them are read once.

        Args:
            among: numbers of the pieces; all if not given.
        """
        chosen = np.arange(len(self)) if among is None else among
        return chosen[np.lexsort((self.draw_n[chosen], self.seen_n[chosen]))]

    def easiest(self, share: float) -> Ints:
        """The given share of the pieces that have the least to learn from, at least one; the easiest first."""
        return np.lexsort((self.draw_n, self.score_n))[: self._count(share)]

    def hardest(self, share: float) -> Ints:
        """The given share of the pieces that have the most to learn from, at least one; the hardest first."""
        return np.lexsort((self.draw_n, -self.score_n))[: self._count(share)]

    def _count(self, share: float) -> int:
        return max(1, int(np.ceil(share * len(self) - 1e-9)))


Choose = Callable[[Pool], Ints]
"""A sampler's choice: which pieces of a pool are read next, in that order; their numbers within it."""
