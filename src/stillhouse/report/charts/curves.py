"""Pieces of charts over a number: runs without gaps, bands, labels that keep apart."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from stillhouse.report.charts.axes import Axis
from stillhouse.report.charts.ink import tag
from stillhouse.report.charts.parts import Series

Run = list[tuple[float, float, float | None, float | None]]


def runs_of(series: Series) -> list[Run]:
    """The series cut at its gaps: lists of (x, y, low, high), in order of x."""
    numbered = [p for p in series.points if isinstance(p.x, int | float)]
    numbered.sort(key=lambda p: float(p.x))  # type: ignore[arg-type]
    runs: list[Run] = [[]]
    for p in numbered:
        if p.y is None:
            runs.append([])
        else:
            runs[-1].append((float(p.x), p.y, p.low, p.high))  # type: ignore[arg-type]
    return [r for r in runs if r]


def band_of(run: Run, x_axis: Axis, y_axis: Axis) -> list[Markup]:
    """The area between the bounds of a run; none where fewer than two points have them."""
    known = [(x, low, high) for x, _, low, high in run if low is not None and high is not None]
    if len(known) < 2:
        return []
    there = [f"{x_axis(x):.1f},{y_axis(high):.1f}" for x, _, high in known]
    back = [f"{x_axis(x):.1f},{y_axis(low):.1f}" for x, low, _ in reversed(known)]
    return [tag("path", {"d": "M" + "L".join(there + back) + "Z", "class": "area"})]


def spread(items: Sequence[tuple[float, Series]], gap: float, top: float, bottom: float) -> list[tuple[float, Series]]:
    """Move labels apart until none overlaps, as little as needed."""
    placed = sorted(items, key=lambda i: i[0])
    ys: list[float] = []
    for y, _ in placed:
        ys.append(max(y, ys[-1] + gap) if ys else max(y, top))
    for i in range(len(ys) - 1, -1, -1):
        limit = bottom if i == len(ys) - 1 else ys[i + 1] - gap
        ys[i] = min(ys[i], limit)
    return [(y, series) for y, (_, series) in zip(ys, placed, strict=True)]
