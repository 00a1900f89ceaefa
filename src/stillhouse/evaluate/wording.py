"""Numbers as people read them: few digits, the interval beside them, the unit once."""

from __future__ import annotations

import math

from stillhouse.evaluate.records import Estimate, Finding, Items
from stillhouse.evaluate.statistics import Interval, Retention


def number(value: float) -> str:
    """Two decimals at most for numbers above 0.1, two digits below, none where they would not matter."""
    if not math.isfinite(value):
        return "unknown" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    value = 0.0 if abs(value) < 1e-9 else value  # what rounding leaves of 0
    size = abs(value)
    if size >= 100:
        text = f"{value:,.0f}"
    elif size >= 10:
        text = f"{value:.1f}"
    elif size >= 0.1 or size == 0:
        text = f"{value:.2f}"
    elif size >= 0.0001:
        text = f"{value:.{1 - math.floor(math.log10(size))}f}"
    else:
        text = f"{value:.1e}"
    text = text.replace("-", "−")
    return text.removeprefix("−") if not text.strip("−0.") else text


def plain(value: float) -> str:
    """A number somebody chose, as they would write it: ``90``, ``0.03``."""
    return f"{value:g}".replace("-", "−")


def with_interval(value: float, low: float, high: float, unit: str = "") -> str:
    """Such as ``93.1 % [90.2, 96.0]``; an interval without bounds is said to be unknown."""
    unit = f" {unit}" if unit else ""
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{number(value)}{unit} [interval unknown]"
    return f"{number(value)}{unit} [{number(low)}, {number(high)}]"


def say(interval: Interval, unit: str = "") -> str:
    """An interval in words."""
    return with_interval(interval.value, interval.low, interval.high, unit)


def estimate(label: str, role: str, interval: Interval, unit: str, n: int) -> Estimate:
    """An interval as an entry of a finding."""
    return Estimate(label, role, interval.value, interval.low, interval.high, unit, n)


def within(interval: Interval, low: float, high: float) -> Interval:
    """An interval cut to what is possible, such as shares to 0 … 1."""
    return Interval(
        interval.value, max(low, interval.low), min(high, interval.high), interval.se, interval.clusters, interval.df
    )


def count(n: int, one: str) -> str:
    """Such as ``1 document`` or ``1,200 documents``."""
    return f"{n:,} {one}" if n == 1 else f"{n:,} {one}s"


def p_value(p: float) -> str:
    """Such as ``p = 0.03`` or ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p = {number(p)}"


ONE_SIDED = "Verdicts are one-sided tests at 5 % (the 90 % interval decides); the intervals shown are 95 %."
ITEMS_NOT_TASKS = "Tasks are taken as they are: this speaks of more questions of their kind, not of other tasks."
ONE_SEED = "One training run: the intervals cover which documents were tested on, not which seed was trained with."


def sample_limits(items: Items) -> list[str]:
    """What every measure says of the size of the sample."""
    limits = []
    if items.documents < 30:
        limits.append(
            f"Only {count(items.documents, 'document')}: items of one document depend on each other, so intervals are wide."
        )
    return [*limits, ONE_SEED]


def to_decide(needed: int | None, clusters: int, one: str = "document") -> str:
    """How much more would decide an inconclusive verdict.

    Args:
        needed: clusters at which it would be decided; None if no number of them would do.
        clusters: that there are.
        one: what one of them is called.
    """
    if clusters < 5:
        return f"{count(clusters, one)} can hardly decide anything: five is the least, thirty are better."
    if needed is None:
        return f"No practical number of {one}s would decide it: the student sits at the threshold."
    if needed <= clusters:
        return f"It was close: a few more {one}s than these {clusters:,} should decide it."
    return f"About {count(needed, one)} like these (here {clusters:,}) would decide it with 80 % power."


def kept_reason(result: Retention, asked: str, one: str = "document") -> str:
    """Why a retention passes, fails or is open.

    Args:
        result: of the test, informative.
        asked: the share that must be kept, as it is shown.
        one: what a cluster is called.
    """
    number_of = count(result.gap.clusters, one)
    if result.verdict == "PASS":
        return f"It keeps {asked} or more ({p_value(result.p_above)}, {number_of})."
    if result.verdict == "FAIL":
        return f"It keeps less than {asked} ({p_value(result.p_below)}, {number_of})."
    surely = f"Neither more nor less than {asked} can be shown at the 5 % level."
    return f"{surely} {to_decide(result.needed, result.gap.clusters, one)}"


def not_measured(name: str, question: str, reason: str) -> Finding:
    """The finding of a measure that has nothing to judge from."""
    return Finding(name, question, "NOT MEASURED", f"Not measured: {reason}.", f"{reason[0].upper()}{reason[1:]}.")
