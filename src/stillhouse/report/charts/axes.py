"""From values to units: ticks, axes and the lines of reference values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from stillhouse.report.charts.ink import fit, join, rule, wide, words
from stillhouse.report.charts.parts import Mark


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers, about ``count`` of them, that enclose or fill the range."""
    if not high > low:
        low, high = low - 0.5, low + 0.5
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1.0, 2.0, 2.5, 5.0, 10.0) if power * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


@dataclass(frozen=True)
class Axis:
    """Values to units; tick labels are divided by a power of ten so that two decimals are enough."""

    low: float
    high: float
    start: float
    stop: float
    count: int = 5

    def __call__(self, value: float) -> float:
        """Where a value stands, in units."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    @property
    def power(self) -> int:
        """The power of ten that tick labels are divided by; 0 as a rule."""
        size = max(abs(self.low), abs(self.high))
        step = (self.high - self.low) / self.count
        if size >= 1e5:
            return 3 * (math.floor(math.log10(size)) // 3)
        return math.floor(math.log10(size)) if step < 0.009 and size < 1 else 0

    def marks(self) -> list[tuple[float, str]]:
        """Where ticks stand and what they say."""
        values = ticks(self.low, self.high, self.count)
        step = (values[1] - values[0] if len(values) > 1 else 1.0) / 10.0**self.power
        digits = next((d for d in (0, 1) if abs(step - round(step, d)) < 1e-6 * step), 2)
        return [(v, f"{v / 10.0**self.power + 0.0:.{digits}f}".replace("-", "−")) for v in values]

    def label(self, text: str) -> str:
        """The axis' name, with the power of ten if there is one."""
        raised = str(self.power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"{text} (×10{raised})" if self.power else text


def domain_of(values: Iterable[float | None], include: Iterable[float] = (), pad: float = 0.05) -> tuple[float, float]:
    """From the least to the largest of the values that are there, with some room; never of no width."""
    known = [v for v in (*values, *include) if v is not None]
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    if high - low < 1e-9 * max(1.0, abs(high)):
        grow = abs(high) * 0.1 or 0.5
        return low - grow, high + grow
    room = (high - low) * pad
    return low - room, high + room


def rounded(domain: tuple[float, float], count: int) -> tuple[float, float]:
    """The domain widened until it begins and ends at its own ticks."""
    low, high = domain if domain[1] > domain[0] else (domain[0], domain[0] + 1.0)
    for _ in range(4):  # a wider domain may have a wider step
        values = ticks(low, high, count)
        if len(values) < 2:
            return low, high
        step = values[1] - values[0]
        before = (low, high)
        low = values[0] - step if values[0] - low > 1e-6 * step else values[0]
        high = values[-1] + step if high - values[-1] > 1e-6 * step else values[-1]
        if (low, high) == before:
            break
    return low, high


def reference_lines(
    marks: Sequence[Mark], axis: Axis, top: float, bottom: float, left: float, right: float
) -> tuple[Markup, float]:
    """Vertical dashed lines with their names above, on as many levels as needed; and the height the names take."""
    taken: list[float] = []
    parts = []
    placed = []
    for mark in sorted(marks, key=lambda m: m.value):
        label = fit(mark.label, 150)
        half = wide(label) / 2
        centre = min(max(axis(mark.value), left + half), right - half)
        level = next((i for i, end in enumerate(taken) if centre - half > end + 8), len(taken))
        if level == len(taken):
            taken.append(0.0)
        taken[level] = centre + half
        placed.append((mark, label, centre, level))
    height = 16.0 * len(taken)
    for mark, label, centre, level in placed:
        y = top + height - 16.0 * level
        parts.append(rule(axis(mark.value), y + 1, axis(mark.value), bottom, "ref"))
        parts.append(words(centre, y - 4, label, "middle", "t small"))
    return join(parts), height


def horizontal_axis(axis: Axis, top: float, bottom: float, label: str, right: float) -> Markup:
    """Grid lines and numbers below a plot, and the axis' name."""
    parts = []
    for value, text in axis.marks():
        parts.append(rule(axis(value), top, axis(value), bottom))
        parts.append(words(axis(value), bottom + 16, text, "middle", "t small"))
    if label:
        parts.append(words(right, bottom + 33, fit(axis.label(label), right - 8), "end", "t small"))
    elif axis.power:
        parts.append(words(right, bottom + 33, axis.label("").strip(), "end", "t small"))
    return join(parts)
