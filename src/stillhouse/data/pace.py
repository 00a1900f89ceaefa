"""How long the rest of the sources will take, by what they tell of themselves.

Sources take turns, and one record may cost a thousand times another's: a page is read in a millisecond, a batch of answers
is written in a minute. So no rate is taken over their mix: each source has a clock of its own, which runs while it is its
turn, and tells which share of its work is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

_ENOUGH_SECONDS = 0.5
"""Of a source's own time from which its speed is taken; less is mostly start-up."""


class Pace:
    """How far a source has come, and when.

    The speed is that since the source first told of its share, so that what comes before it (finding files, importing) is
    not taken for work that goes on.
    """

    def __init__(self) -> None:
        self.finished = False
        self.told: Callable[[], None] = lambda: None
        self._spent = 0.0
        self._since: float | None = None  # when its turn began, while it is
        self._first: tuple[float, float] | None = None  # share, own seconds
        self._last = (0.0, 0.0)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Let the source's clock run."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._spent, self._since = self.seconds, None

    @property
    def seconds(self) -> float:
        """The source's own time so far."""
        return self._spent + (time.monotonic() - self._since if self._since is not None else 0.0)

    def tell(self, share: float) -> None:
        """Take note of the share of the work that is done, from 0 to 1."""
        self._last = (min(max(share, 0.0), 1.0), self.seconds)
        if self._first is None:
            self._first = self._last
        self.told()

    def left(self) -> float | None:
        """Seconds of its own that it still needs, about; None while that cannot be known."""
        if self.finished:
            return 0.0
        if self._first is None:
            return None
        share, seconds = self._last[0] - self._first[0], self._last[1] - self._first[1]
        if share <= 0.0 or seconds < _ENOUGH_SECONDS:
            return None
        return max(0.0, (1.0 - self._last[0]) * seconds / share - (self.seconds - self._last[1]))


def left(paces: Sequence[Pace], documents: int, most: int | None) -> tuple[float | None, bool]:
    """Seconds that all sources still need, about, and whether that is only a lower bound; None where it cannot be known.

    Args:
        paces: of each source.
        documents: kept so far.
        most: how many will be kept at most.

    """
    known = [seconds for seconds in (pace.left() for pace in paces) if seconds is not None]
    whole = len(known) == len(paces)
    if most is not None and documents:
        # the sources end, or the limit is reached: whichever is first; a source of unknown length ends at the limit
        limit = sum(pace.seconds for pace in paces) * max(0, most - documents) / documents
        return (min(limit, sum(known)), False) if whole else (limit, False)
    return (sum(known), not whole) if any(known) or whole else (None, False)
