"""Curves over a number."""

from __future__ import annotations

from markupsafe import Markup

from stillhouse.report.charts.axes import Axis, domain_of, rounded
from stillhouse.report.charts.curves import band_of, runs_of, spread
from stillhouse.report.charts.ink import fit, legend_of, marker, nothing, rule, svg, tag, wide, words
from stillhouse.report.charts.parts import WIDE, Chart, dash_of
from stillhouse.report.words import visible


def line(chart: Chart, ident: str, width: float = WIDE) -> Markup:
    """Curves over a number; a missing value is a gap; intervals are a pale band; references are level dashed lines."""
    curves = [(s, runs_of(s)) for s in chart.series]
    curves = [(s, runs) for s, runs in curves if runs]
    if not curves:
        return nothing(chart, ident, width)
    narrow = width < WIDE
    all_points = [p for _, runs in curves for run in runs for p in run]
    xs = [p[0] for p in all_points]
    ys = [v for _, y, low, high in all_points for v in (y, low, high)]
    room = 8.0 if narrow else min(170.0, max(wide(visible(s.name)) for s, _ in curves) + 34)
    left, right = 46.0, width - room
    legend, legend_height = (
        legend_of([(s.role, dash_of(s), s.name) for s, _ in curves], 6.0, width - 12, 2.0)
        if narrow
        else (Markup(), 0.0)
    )
    top = legend_height + (28.0 if chart.y_label else 10.0)
    bottom = top + (190.0 if narrow else 240.0)
    low, high = domain_of(xs, pad=0.0)
    count = 4 if narrow else 7
    if all(float(x).is_integer() for x in xs):
        count = max(1, min(count, round(high - low)))  # nothing between two whole numbers is ever reached
    x_axis = Axis(low, high, left, right - 4, count)
    y_axis = Axis(*rounded(domain_of(ys, [m.value for m in chart.marks], pad=0.0), 5), bottom, top, 5)
    parts = [legend]
    for value, text in y_axis.marks():
        parts.append(rule(left, y_axis(value), right, y_axis(value)))
        parts.append(words(left - 6, y_axis(value) + 4, text, "end", "t small"))
    for value, text in x_axis.marks():
        parts.append(rule(x_axis(value), bottom, x_axis(value), bottom + 4, "base"))
        parts.append(words(x_axis(value), bottom + 18, text, "middle", "t small"))
    parts.append(rule(left, bottom, right, bottom, "base"))
    if chart.y_label:
        parts.append(words(6.0, top - 15, fit(y_axis.label(chart.y_label), width - 10), kind="t small"))
    parts.append(words(right, bottom + 35, fit(x_axis.label(chart.x_label), right - left), "end", "t small"))
    for mark in chart.marks:
        y = y_axis(mark.value)
        parts.append(rule(left, y, right, y, "ref"))
        parts.append(words(left + 6, y - 5, fit(mark.label, right - left - 12), kind="t small halo"))
    ends = []
    for series, runs in curves:
        drawn = []
        for run in runs:
            drawn += band_of(run, x_axis, y_axis)
            path = "M" + "L".join(f"{x_axis(x):.1f},{y_axis(y):.1f}" for x, y, _, _ in run)
            drawn.append(tag("path", {"d": path, "class": "curve", "stroke_dasharray": dash_of(series)}))
            if len(run) <= 12:
                drawn += [marker(series.role, x_axis(x), y_axis(y), 3.6) for x, y, _, _ in run]
            else:
                drawn.append(marker(series.role, x_axis(run[-1][0]), y_axis(run[-1][1]), 3.6))
        ends.append((y_axis(runs[-1][-1][1]), series))
        parts.append(tag("g", {"class": f"r-{series.role}"}, *drawn))
    if not narrow:
        for y, series in spread(ends, 17.0, top, bottom):
            label = fit(series.name, room - 30)
            stroke = tag(
                "line",
                {
                    "x1": right + 4,
                    "y1": y,
                    "x2": right + 20,
                    "y2": y,
                    "class": "curve",
                    "stroke_dasharray": dash_of(series),
                },
            )
            name = words(right + 25, y + 4, label, kind="t own")
            parts.append(tag("g", {"class": f"r-{series.role}"}, stroke, name))
    return svg(chart, ident, width, bottom + 42, parts)
