"""Bars from zero."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from stillhouse.report.charts.parts import WIDE, Chart
from stillhouse.report.charts.rows import row_chart, rows_of


def bars(chart: Chart, ident: str, width: float = WIDE) -> Markup:
    """Horizontal bars from zero, one a point; points of several series with the same name lie together."""
    rows = rows_of(chart)
    places: dict[Any, int] = {}
    for row in rows:
        places.setdefault(row.point.x, len(places))
    return row_chart(chart, ident, width, "bars", sorted(rows, key=lambda r: places[r.point.x]))
