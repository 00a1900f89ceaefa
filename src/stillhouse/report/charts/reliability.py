"""How often a model is right against how sure it is."""

from __future__ import annotations

import math
from itertools import pairwise

from markupsafe import Markup

from stillhouse.report.charts.axes import Axis
from stillhouse.report.charts.curves import Run, band_of
from stillhouse.report.charts.ink import fit, legend_of, marker, nothing, rule, svg, tag, words
from stillhouse.report.charts.parts import WIDE, Chart, Point, Series, dash_of


def reliability(chart: Chart, ident: str, width: float = WIDE) -> Markup:
    """Confidence against how often it was right, over a diagonal, with the band that chance alone explains and a strip of
    how many tokens each bin holds.

    A series without role whose points have bounds is taken as the band. If there is none, the band is the binomial one of
    the first role's bins (95 %, tokens taken as independent).
    """
    band = next((s for s in chart.series if _is_band(s)), None)
    models = [s for s in chart.series if s is not band and any(_numbered(p) for p in s.points)]
    if not models:
        return nothing(chart, ident, width)
    models.sort(key=lambda s: s.role != "student")  # the student leads: its bounds, its counts, drawn on top
    narrow = width < WIDE
    side = 270.0 if narrow else 330.0
    left = 46.0
    items = [(s.role, dash_of(s), s.name) for s in models]
    legend, legend_height = legend_of(items, 6.0, width - 12, 2.0) if narrow else (Markup(), 0.0)
    top = legend_height + 28.0
    bottom = top + side
    edge = _null_band(models[0]) if band is None else [_bounds(p) for p in band.points]
    outline: Run = [(x, x, low, high) for x, low, high in sorted(e for e in edge if e is not None)]
    seen = [v for s in models for p in s.points if _numbered(p) for v in (_unit(p.x), _unit(p.y))]
    seen += [_unit(p.high) for p in models[0].points] + [v for x, _, _, high in outline for v in (x, _unit(high))]
    end = next(e for e in (0.1, 0.2, 0.5, 1.0) if max(seen) <= e)  # a small model may never be sure: look closer
    values = [end * i / 5 for i in range(6)]
    x_axis, y_axis = Axis(0.0, end, left, left + side), Axis(0.0, end, bottom, top)
    parts = [legend, words(6.0, top - 15, fit(chart.y_label or "share correct", width - 10), kind="t small")]
    for value in values:
        parts.append(rule(left, y_axis(value), left + side, y_axis(value)))
        parts.append(words(left - 6, y_axis(value) + 4, f"{value:.2f}", "end", "t small"))
        parts.append(rule(x_axis(value), top, x_axis(value), bottom))
    parts += [tag("g", {"class": "r-floor"}, *band_of(outline, x_axis, y_axis))]
    parts.append(tag("line", {"x1": left, "y1": bottom, "x2": left + side, "y2": top, "class": "ref"}))
    for series in reversed(models):
        drawn = []
        lead = series is models[0]
        run = [p for p in series.points if _numbered(p)]
        coordinates = [(x_axis(_unit(p.x)), y_axis(_unit(p.y))) for p in run]
        if len(coordinates) > 1:
            path = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in coordinates)
            drawn.append(tag("path", {"d": path, "class": "curve", "stroke_dasharray": dash_of(series)}))
        for p, (x, y) in zip(run, coordinates, strict=True):
            if lead and p.low is not None and p.high is not None:
                drawn.append(rule(x, y_axis(_unit(p.low)), x, y_axis(_unit(p.high)), "whisker"))
            drawn.append(marker(series.role, x, y, 4.6 if lead else 3.4))
        parts.append(tag("g", {"class": f"r-{series.role}" + ("" if lead else " aside-curve")}, *drawn))
    strip_top, strip_bottom = bottom + 30, bottom + 72
    parts += _count_strip(models[0], x_axis, strip_top, strip_bottom, left)
    parts.append(words(left + side, strip_bottom + 33, fit(chart.x_label or "confidence", side), "end", "t small"))
    for value in values:
        parts.append(words(x_axis(value), strip_bottom + 16, f"{value:.2f}", "middle", "t small"))
    if not narrow:
        x = left + side + 28
        side_legend, height = legend_of(items, x, width - x, top + 4)
        notes = ["dashed: says what it knows", "below it: over-confident", "above it: under-confident"]
        notes += ["pale band: chance alone"] if outline else []
        parts.append(side_legend)
        parts += [words(x, top + height + 18 + 19 * i, note, kind="t small") for i, note in enumerate(notes)]
    return svg(chart, ident, width, strip_bottom + 42, parts)


def _numbered(p: Point) -> bool:
    return isinstance(p.x, int | float) and p.y is not None


def _unit(value: float | str | None) -> float:
    return min(1.0, max(0.0, float(value))) if isinstance(value, int | float) else 0.0


def _is_band(series: Series) -> bool:
    bounded = bool(series.points) and all(p.low is not None and p.high is not None for p in series.points)
    name = series.name.lower()
    named = any(word in name for word in ("null", "band", "chance", "perfect"))
    return series.role == "other" and bounded and (named or all(p.y is None for p in series.points))


def _bounds(p: Point) -> tuple[float, float, float] | None:
    if not isinstance(p.x, int | float) or p.low is None or p.high is None:
        return None
    return _unit(p.x), _unit(p.low), _unit(p.high)


def _null_band(series: Series) -> list[tuple[float, float, float] | None]:
    out: list[tuple[float, float, float] | None] = []
    for p in series.points:
        if isinstance(p.x, int | float) and p.n:
            x = _unit(p.x)
            half = 1.96 * math.sqrt(x * (1 - x) / p.n)
            out.append((x, _unit(x - half), _unit(x + half)))
    return out


def _count_strip(series: Series, x_axis: Axis, top: float, bottom: float, left: float) -> list[Markup]:
    """Small bars from zero: how many tokens stand behind each point of a series."""
    known = [(x_axis(_unit(p.x)), p.n) for p in series.points if p.n and isinstance(p.x, int | float)]
    if not known:
        return []
    largest = max(n for _, n in known)
    places = sorted(x for x, _ in known)
    thick = max(1.5, min(12.0, *(0.85 * (b - a) for a, b in pairwise(places)), 12.0))  # neighbours do not overlap
    rects = []
    for x, n in known:
        tall = max(1.0, (bottom - top) * n / largest)
        rects.append(
            tag("rect", {"x": x - thick / 2, "y": bottom - tall, "width": thick, "height": tall, "class": "bar"})
        )
    return [
        words(left, top - 6, fit(f"tokens per bin, {series.name}: at most {largest:,.0f}", 270), kind="t small"),
        rule(x_axis.start, bottom, x_axis.stop, bottom, "base"),
        tag("g", {"class": f"r-{series.role}"}, *rects),
    ]
