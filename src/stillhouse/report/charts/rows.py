"""Charts of a row each: what forest, ladder and bars share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from stillhouse.report.charts.axes import Axis, domain_of, horizontal_axis, reference_lines, rounded
from stillhouse.report.charts.ink import fit, marker, nothing, plate, rule, svg, tag, wide, words
from stillhouse.report.charts.parts import WIDE, Chart, Point, role_of
from stillhouse.report.words import interval, number, visible


@dataclass(frozen=True)
class Row:
    """One thing with its name, its role and its value."""

    label: str
    role: str
    point: Point


def rows_of(chart: Chart) -> list[Row]:
    """A row for each point, named by its place, its series, or both."""
    rows = []
    for series in chart.series:
        for p in series.points:
            label = p.x if isinstance(p.x, str) and p.x else series.name
            if len(chart.series) > 1 and isinstance(p.x, str) and p.x and p.x != series.name and len(series.points) > 1:
                label = f"{p.x} · {series.name}"
            rows.append(Row(label, role_of(series.role, p.x, series.name), p))
    return rows


def _value_text(p: Point) -> str:
    """Interval before point: ``0.9 to 0.96 · 0.93``."""
    bounds = interval(p.low, p.high)
    return f"[{bounds.replace(' to ', ', ')}]  {number(p.y)}" if " to " in bounds else number(p.y)


def row_chart(chart: Chart, ident: str, width: float, mode: str, order: Sequence[Row]) -> Markup:
    """What forest, ladder and bars share: a row each, names left (or above, where narrow), numbers right."""
    rows = [r for r in order if r.point.y is not None or r.point.low is not None or r.point.high is not None]
    if not rows:
        return nothing(chart, ident, width)
    if mode == "forest":  # what says nothing has its place among what does
        rows = list(order)
    stacked = width < WIDE
    grouped = len({r.point.x for r in rows}) < len(rows)
    texts = [_value_text(r.point) for r in rows]
    right_room = 12.0 if stacked else max(wide(t) for t in texts) + 22
    left_room = 10.0 if stacked else min(210.0, max(wide(visible(r.label)) for r in rows) + 40)
    left, right = left_room, width - right_room
    values = [v for r in rows for v in (r.point.y, r.point.low, r.point.high)]
    domain = domain_of(values, [m.value for m in chart.marks] + ([0.0] if mode == "bars" else []))
    if mode == "bars":  # a bar's length is its value: it starts at zero, and zero is at the edge or inside
        known = [0.0, *(v for v in values if v is not None)]
        domain = rounded((min(known), max(known)), 4)
    axis = Axis(*domain, left + 6, right - 6, 4 if stacked else 6)
    row_height = 46.0 if stacked else 34.0
    marks, mark_height = reference_lines(chart.marks, axis, 2.0, 0.0, left, right)
    top = mark_height + 8
    gaps = [0.0]
    for above, below in pairwise(rows):  # a little air between groups of bars
        gaps.append(gaps[-1] + (9.0 if mode == "bars" and above.point.x != below.point.x and grouped else 0.0))
    bottom = top + row_height * len(rows) + gaps[-1] + 2
    marks, _ = reference_lines(chart.marks, axis, 2.0, bottom, left, right)
    parts = [horizontal_axis(axis, top, bottom, chart.y_label or chart.x_label, width - 8), marks]
    if axis.low <= 0 <= axis.high and mode == "bars":
        parts.append(rule(axis(0.0), top, axis(0.0), bottom, "base"))
    middle = row_height - 13 if stacked else row_height / 2
    centres = [top + row_height * i + gap + middle for i, gap in enumerate(gaps)]
    if mode == "ladder":
        parts += _steps(rows, centres, axis)
    for row, y, text in zip(rows, centres, texts, strict=True):
        p = row.point
        drawn = []
        if mode == "bars" and p.y is not None:
            start, stop = sorted((axis(0.0), axis(p.y)))
            drawn.append(
                tag("rect", {"x": start, "y": y - 7, "width": max(1.0, stop - start), "height": 14, "class": "bar"})
            )
        drawn += _whisker(p, axis, y, mode)
        if p.y is not None and mode != "bars":
            drawn.append(marker(row.role, axis(p.y), y))
        label = fit(row.label, (right - left - wide(text)) if stacked else left_room - 32)
        if stacked:
            parts += [plate(left + 13, y - 29, wide(label)), plate(width - 8 - wide(text), y - 29, wide(text))]
            drawn.append(marker(row.role, left + 6, y - 21, 4.0))
            parts.append(words(left + 16, y - 17, label, kind="t name"))
            parts.append(words(width - 8, y - 17, text, "end", "t num"))
        else:
            drawn.append(marker(row.role, 10.0, y, 4.0))
            parts.append(words(22.0, y + 4, label, kind="t name"))
            parts.append(words(width - 4, y + 4, text, "end", "t num"))
        parts.append(tag("g", {"class": f"r-{row.role}"}, *drawn))
    return svg(chart, ident, width, bottom + (40 if chart.y_label or chart.x_label or axis.power else 24), parts)


def _whisker(p: Point, axis: Axis, y: float, mode: str) -> list[Markup]:
    """The interval: a thick translucent bar with end caps; on top of a bar chart's bar, a thin line."""
    if p.low is None and p.high is None:
        return []
    low = axis.low if p.low is None else p.low
    high = axis.high if p.high is None else p.high
    a, b = axis(low), axis(high)
    kind = "whisker" if mode == "bars" else "band"
    out = [tag("line", {"x1": a, "y1": y, "x2": b, "y2": y, "class": kind})]
    caps = [x for x, known in ((a, p.low), (b, p.high)) if known is not None]
    return out + [rule(x, y - 5, x, y + 5, "cap") for x in caps]


def _steps(rows: Sequence[Row], centres: Sequence[float], axis: Axis) -> list[Markup]:
    """The staircase from each row's value to the next one's."""
    known = [(axis(r.point.y), y) for r, y in zip(rows, centres, strict=True) if r.point.y is not None]
    return [
        tag("path", {"d": f"M{x1:.1f},{y1:.1f}V{y2:.1f}H{x2:.1f}", "class": "step"})
        for (x1, y1), (x2, y2) in pairwise(known)
    ]
