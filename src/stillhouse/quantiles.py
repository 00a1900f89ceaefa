"""Quantiles of times with intervals from order statistics: no assumption about the shape of their distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Quantile:
    """A quantile of a sample.

    Args:
        share: which, such as 0.95.
        value: the smallest observation that at least this share of the sample does not exceed.
        low: lower end of the interval; None where the sample is too small for one.
        high: upper end.
        needed: the smallest sample that has an interval.

    """

    share: float
    value: float
    low: float | None
    high: float | None
    needed: int

    def words(self, scale: float = 1.0) -> str:
        """As people read it: ``12.3 [12.1, 12.9]``, or ``12.3 (n too small: 124 needed)``."""
        value = _short(self.value * scale)
        if self.low is None or self.high is None:
            return f"{value} (n too small: {self.needed} needed)"
        return f"{value} [{_short(self.low * scale)}, {_short(self.high * scale)}]"


def _short(value: float) -> str:
    """Three digits, or all that stand before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def quantile(values: Sequence[float], share: float, confidence: float = 0.95) -> Quantile:
    """A quantile with a two-sided interval between two order statistics.

    How many of n independent observations lie below the true quantile is binomial(n, share), whatever their distribution; the
    ends leave at most (1 − confidence) / 2 on each side. Times that follow one another are not independent, so the interval is
    a little too narrow. Hahn and Meeker 1991, Statistical Intervals, §5.2.

    Args:
        values: the sample.
        share: in (0, 1).
        confidence: of the interval.

    """
    ordered = sorted(values)
    n, rest = len(ordered), (1.0 - confidence) / 2.0
    below = 0.0
    first, last = None, None
    for count in range(n):  # below: probability that at most `count` observations are below the true quantile
        chance = math.lgamma(n + 1) - math.lgamma(count + 1) - math.lgamma(n - count + 1)
        below += math.exp(chance + count * math.log(share) + (n - count) * math.log1p(-share))
        if below <= rest:
            first = count  # ordered[count] exceeds the true quantile with at most that probability
        if last is None and below >= 1.0 - rest:
            last = count
    value = ordered[max(0, math.ceil(share * n) - 1)]
    needed = max(math.ceil(math.log(rest) / math.log(edge)) for edge in (share, 1.0 - share))
    if first is None or last is None:
        return Quantile(share, value, None, None, needed)
    return Quantile(share, value, ordered[first], ordered[last], needed)
