"""Things by two numbers, with a border that nothing beats."""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup

from stillhouse.report.charts.axes import Axis, domain_of, rounded
from stillhouse.report.charts.ink import fit, legend_of, marker, nothing, rule, svg, tag, words
from stillhouse.report.charts.parts import WIDE, Chart, dash_of
from stillhouse.report.words import one_line


def scatter(chart: Chart, ident: str, width: float = WIDE) -> Markup:
    """Things by two numbers: each series of one point is a marker with its interval; the first word of its name, a number say, stands
    beside it, and the whole in the key below.

    A series of more points is a border in steps, as a Pareto front has it: level to the next point, then up to it. The
    horizontal axis is logarithmic where the largest value is more than three times the smallest.
    """
    named = [(s, [p for p in s.points if isinstance(p.x, int | float) and p.y is not None]) for s in chart.series]
    things = [(s, points[0]) for s, points in named if len(s.points) == 1 and points]
    if not things:
        return nothing(chart, ident, width)
    narrow = width < WIDE
    xs = [float(p.x) for _, p in things]  # type: ignore[arg-type]
    logarithmic = min(xs) > 0 and max(xs) > 3 * min(xs)

    def place(x: Any) -> float:
        return math.log10(float(x)) if logarithmic else float(x)

    left, right, top = 46.0, width - 16.0, 28.0
    bottom = top + (210.0 if narrow else 260.0)
    x_axis = Axis(*domain_of(map(place, xs), pad=0.08), left, right, 4 if narrow else 7)
    ys = [v for _, p in things for v in (p.y, p.low, p.high)]
    y_axis = Axis(*rounded(domain_of(ys, [m.value for m in chart.marks], pad=0.0), 5), bottom, top, 5)
    parts = [words(6.0, top - 15, fit(y_axis.label(chart.y_label), width - 10), kind="t small")]
    for value, text in y_axis.marks():
        parts.append(rule(left, y_axis(value), right, y_axis(value)))
        parts.append(words(left - 6, y_axis(value) + 4, text, "end", "t small"))
    for value, text in _powers(x_axis, 3 if narrow else 8) if logarithmic else x_axis.marks():
        parts.append(rule(x_axis(value), bottom, x_axis(value), bottom + 4, "base"))
        parts.append(words(x_axis(value), bottom + 18, text, "middle", "t small"))
    parts.append(rule(left, bottom, right, bottom, "base"))
    label = f"{chart.x_label}, logarithmic" if logarithmic else x_axis.label(chart.x_label)
    parts.append(words(right, bottom + 35, fit(label, right - left), "end", "t small"))
    for mark in chart.marks:
        parts.append(rule(left, y_axis(mark.value), right, y_axis(mark.value), "ref"))
        parts.append(words(left + 6, y_axis(mark.value) - 5, fit(mark.label, right - left - 12), kind="t small halo"))
    for series, points in named:
        if len(points) > 1:
            steps = [(x_axis(place(p.x)), y_axis(p.y)) for p in sorted(points, key=lambda p: float(p.x))]  # type: ignore[arg-type]
            path = f"M{steps[0][0]:.1f},{steps[0][1]:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in steps[1:])
            drawn = tag("path", {"d": path, "class": "curve", "stroke_dasharray": dash_of(series)})
            parts.append(tag("g", {"class": f"r-{series.role}"}, drawn))
    taken: list[tuple[float, float]] = []
    for series, p in things:
        x, y = x_axis(place(p.x)), y_axis(p.y or 0.0)
        shape = []
        if p.low is not None and p.high is not None:
            shape.append(rule(x, y_axis(max(p.low, y_axis.low)), x, y_axis(min(p.high, y_axis.high)), "whisker"))
        shape.append(marker(series.role, x, y))
        parts.append(tag("g", {"class": f"r-{series.role}"}, *shape))
        at = y - 8
        while any(abs(x - other) < 16 and abs(at - beside) < 13 for other, beside in taken):
            at -= 13
        taken.append((x, at))
        parts.append(words(x + 7, at, one_line("".join(series.name.split()[:1]), 4), kind="t name"))
    items = [(s.role, "0 99", s.name) for s, _ in things]
    legend, height = legend_of(items, 6.0, width - 12, bottom + 46)
    return svg(chart, ident, width, bottom + 46 + height, [*parts, legend])


def _powers(axis: Axis, most: int) -> list[tuple[float, str]]:
    """Ticks of a logarithmic axis at 1, 2 and 5 of each power of ten, or at fewer of them: logarithm, words."""
    powers = range(math.floor(axis.low), math.ceil(axis.high) + 1)
    found: list[float] = []
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = [m * 10.0**p for p in powers for m in digits if axis.low <= math.log10(m * 10.0**p) <= axis.high]
        if len(found) <= most:
            break
    return [(math.log10(v), f"{v:,.0f}" if v >= 1 else f"{v:g}") for v in found]
