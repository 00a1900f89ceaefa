"""Intervals in rows."""

from __future__ import annotations

from markupsafe import Markup

from stillhouse.report.charts.parts import WIDE, Chart
from stillhouse.report.charts.rows import row_chart, rows_of


def forest(chart: Chart, ident: str, width: float = WIDE) -> Markup:
    """An interval plot: one row each, its interval as a bar, its point as the role's marker, references as dashed lines."""
    return row_chart(chart, ident, width, "forest", rows_of(chart))
