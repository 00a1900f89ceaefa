"""After how many requests the time that distilling took is won back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stillhouse.files import read_json
from stillhouse.profile.timed import Timed
from stillhouse.quantiles import quantile

NOT_COUNTED = ("train control", "evaluate")
"""Stages of a run's clock that measure and teach nothing."""


@dataclass(frozen=True)
class Payback:
    """When a model or file has paid for itself, in this machine's time.

    Args:
        name: the model or file.
        requests: how many; None if a request is no faster than the teacher's.
        low: fewest that the intervals of the times allow.
        high: most; None where they do not show that it is faster.
    """

    name: str
    requests: float | None
    low: float | None
    high: float | None

    def words(self) -> str:
        """As people read it."""
        if self.requests is None:
            return f"{self.name} never wins it back: a request is no faster than the teacher's"
        least = "?" if self.low is None else f"{self.low:,.0f}"
        most = "no upper end" if self.high is None else f"{self.high:,.0f}"
        return f"{self.name} wins it back after {self.requests:,.0f} requests [{least}, {most}]"


def spent(folder: Path) -> float:
    """Seconds that distilling took, by the clocks of a run and of its stages: control and evaluation are left out."""
    clocks = [folder / "seconds.json", *sorted(folder.glob("stages/*/seconds.json"))]
    stages = [item for clock in clocks for item in read_json(clock, {}).items()]
    return float(sum(seconds for stage, seconds in stages if stage not in NOT_COUNTED))


def payback(rows: Sequence[Timed], seconds: float) -> list[Payback]:
    """Requests after which each is worth what was spent: that, over the time saved a request.

    A request is the profile's: a prompt and the tokens after it. Its time is the median over the blocks, with the interval
    between order statistics; the ends of the answer take the ends of both intervals, and are therefore wide.

    Args:
        rows: what was timed, the teacher among them; else there is nothing to compare with.
        seconds: that distilling took.
    """
    teacher = next((row for row in rows if row.name == "teacher"), None)
    if teacher is None or not seconds:
        return []
    slow = quantile(requests(teacher), 0.5)
    found = []
    for row in rows:
        if row.name == "teacher":
            continue
        fast = quantile(requests(row), 0.5)
        saved = slow.value - fast.value
        low = high = None
        if slow.high is not None and fast.low is not None and slow.high > fast.low:
            low = seconds / (slow.high - fast.low)
        if slow.low is not None and fast.high is not None and slow.low > fast.high:
            high = seconds / (slow.low - fast.high)
        found.append(Payback(row.name, seconds / saved if saved > 0 else None, low, high))
    return found


def requests(row: Timed) -> list[float]:
    """Seconds of each block's request: the prompt, and the tokens after it."""
    each = len(row.steps) // max(1, len(row.prefill))
    return [first + sum(row.steps[i * each : (i + 1) * each]) for i, first in enumerate(row.prefill)]
