"""The numbers of a chart as a table."""

from __future__ import annotations

from stillhouse.report.charts.parts import Chart
from stillhouse.report.words import NOTHING, interval, number, one_line, visible


def table(chart: Chart) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """The numbers of a chart: column names and rows. Columns that would be empty are left out."""
    names = ["series", one_line(chart.x_label or "at", 40), "interval", one_line(chart.y_label or "value", 40), "n"]
    rows = []
    for series in chart.series:
        for p in series.points:
            place = visible(p.x) if isinstance(p.x, str) else _place(p.x)
            rows.append([visible(series.name), place, interval(p.low, p.high), number(p.y), _whole(p.n)])
    rows += [[f"reference: {visible(m.label)}", NOTHING, "", number(m.value), NOTHING] for m in chart.marks]
    keep = [i for i in range(5) if i in (0, 3) or any(r[i] not in ("", NOTHING) for r in rows)]
    rows = rows or [["no numbers", "", "", NOTHING, ""]]
    return tuple(names[i] for i in keep), tuple(tuple(r[i] or NOTHING for i in keep) for r in rows)


def _place(x: float | None) -> str:
    return number(int(x) if x is not None and x == int(x) else x)


def _whole(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}"
