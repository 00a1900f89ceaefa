"""A look as one self-contained page: no network, no script, foreign text escaped."""

from __future__ import annotations

from stillhouse.look import Histogram, Look, terminal
from stillhouse.report.charts import Chart, Figure, Point, Series, figure
from stillhouse.report.page import templates


def render(found: Look) -> str:
    """The page as HTML."""
    return (
        templates()
        .get_template("look.html")
        .render(
            look=found,
            columns=terminal.COLUMNS,
            parts=[terminal.cells(part) for part in found.parts],
            rows=[(terminal.heading(row), row.tokens) for row in found.rows],
            lengths=[_drawn(histogram, f"length{i}") for i, histogram in enumerate(found.lengths)],
            difficulty=[_drawn(histogram, f"difficulty{i}") for i, histogram in enumerate(found.difficulty)],
        )
    )


def _drawn(histogram: Histogram, ident: str) -> Figure:
    points = tuple(Point(label, count) for label, count in histogram.bars)
    series = (Series(histogram.unit, points),)
    return figure(Chart("bars", histogram.title, "", histogram.unit, series), ident)
