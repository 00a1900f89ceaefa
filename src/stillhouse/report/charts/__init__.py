"""Charts as inline SVG: small pure functions from plain numbers to markup.

Each chart is drawn twice, for wide and for narrow screens, so that its text stays readable on a phone instead of shrinking
with the picture; the page shows one of the two. No chart speaks by colour alone: a role also has a marker, a dash and its
name. Colours are CSS variables (``style()`` makes them for light and dark), so charts follow the page into dark mode.

Grammar: an interval is a bar and comes before its point; bars start at zero; at most two decimals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from markupsafe import Markup

from stillhouse.report.charts.axes import ticks
from stillhouse.report.charts.bars import bars
from stillhouse.report.charts.forest import forest
from stillhouse.report.charts.ink import key
from stillhouse.report.charts.ladder import ladder
from stillhouse.report.charts.line import line
from stillhouse.report.charts.parts import (
    EXTRA_DASHES,
    NARROW,
    PALETTE,
    ROLES,
    WIDE,
    Chart,
    Figure,
    Mark,
    Point,
    Series,
    role_of,
    style,
)
from stillhouse.report.charts.reliability import reliability
from stillhouse.report.charts.scatter import scatter
from stillhouse.report.charts.table import table
from stillhouse.report.words import finite

__all__ = [
    "DRAW",
    "HOW",
    "NARROW",
    "PALETTE",
    "ROLES",
    "WIDE",
    "Chart",
    "Figure",
    "Mark",
    "Point",
    "Series",
    "bars",
    "figure",
    "forest",
    "key",
    "ladder",
    "line",
    "parse",
    "reliability",
    "scatter",
    "style",
    "table",
    "ticks",
]


def parse(raw: Any) -> Chart | None:
    """A chart from the plain values of evaluation.json; None if they are no chart. Values that are no numbers are gaps."""
    if not isinstance(raw, Mapping):
        return None
    series = []
    for item in _maps(raw.get("series")):
        points = tuple(_point(p) for p in _maps(item.get("points")))
        name = str(item.get("name") or item.get("role") or "values")
        series.append(Series(name, points, role_of(item.get("role"), name)))
    marks = [
        Mark(value, str(m.get("label") or ""))
        for m in _maps(raw.get("marks"))
        if (value := finite(m.get("value"))) is not None
    ]
    kind = str(raw.get("kind") or "")
    return Chart(
        kind if kind in DRAW else "bars",
        str(raw.get("title") or "Chart"),
        str(raw.get("x_label") or ""),
        str(raw.get("y_label") or ""),
        tuple(_tell_apart(series)),
        tuple(marks[:12]),
    )


def _maps(value: Any) -> list[Mapping[str, Any]]:
    return [v for v in value if isinstance(v, Mapping)] if isinstance(value, list | tuple) else []


def _point(raw: Mapping[str, Any]) -> Point:
    x, y = raw.get("x"), raw.get("y")
    if isinstance(y, str) and not isinstance(x, str):  # an interval plot may have its names on the y axis
        x, y = y, x
    place = x if isinstance(x, str) else finite(x)
    return Point(place, finite(y), finite(raw.get("low")), finite(raw.get("high")), finite(raw.get("n")))


def _tell_apart(series: Sequence[Series]) -> list[Series]:
    """Give series of one role different dashes."""
    seen: dict[str, int] = {}
    out = []
    for one in series:
        count = seen.get(one.role, 0)
        seen[one.role] = count + 1
        out.append(replace(one, dash=EXTRA_DASHES[count % len(EXTRA_DASHES)]) if count else one)
    return out


def figure(chart: Chart, ident: str) -> Figure:
    """Draw a chart in both widths and lay out its table. ``ident`` makes the ids unique on the page."""
    draw = DRAW[chart.kind]
    columns, rows = table(chart)
    return Figure(
        chart.title, chart.kind, draw(chart, f"{ident}w", WIDE), draw(chart, f"{ident}n", NARROW), columns, rows
    )


DRAW: dict[str, Callable[[Chart, str, float], Markup]] = {
    "forest": forest,
    "ladder": ladder,
    "reliability": reliability,
    "line": line,
    "bars": bars,
    "scatter": scatter,
}
"""Kind of chart → what draws it: (chart, id, width in units) → SVG."""


HOW: dict[str, str] = {
    "forest": "Each bar is an interval: values inside it are compatible with what was measured; the marker is the best "
    "single guess. A bar that crosses a dashed line has not decided on which side of it the truth lies.",
    "ladder": "Each rung is a model on the same tokens. The step from control to student is what the teacher's signal "
    "bought; the step from student to teacher is what is still lost.",
    "reliability": "A point on the dashed diagonal is right as often as it claims. Points inside the pale band are no "
    "evidence of a fault; the strip shows how many tokens stand behind each.",
    "line": "Same colour, same model. Solid, dashed and dotted lines of one colour are different quantities; the vertical axis need "
    "not start at zero.",
    "scatter": "Higher is better, further left is cheaper. The stepped line joins what nothing else beats in both; the upright bars are "
    "intervals, and where they overlap the order is not shown.",
    "bars": "Bars start at zero, so their lengths can be compared. The thin line over a bar is its interval.",
}
"""How to read each kind of chart."""
