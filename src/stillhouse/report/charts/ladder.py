"""The models from worst to best."""

from __future__ import annotations

from markupsafe import Markup

from stillhouse.report.charts.parts import ROLES, WIDE, Chart
from stillhouse.report.charts.rows import Row, row_chart, rows_of


def ladder(chart: Chart, ident: str, width: float = WIDE) -> Markup:
    """The rungs floor, before, control, student, teacher, joined by the steps between them."""

    def rung(row: Row) -> int:
        return ROLES.index(row.role) if row.role in ROLES else len(ROLES)

    return row_chart(chart, ident, width, "ladder", sorted(rows_of(chart), key=rung))
