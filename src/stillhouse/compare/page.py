"""A comparison as one self-contained page: no network, no script, foreign text escaped."""

from __future__ import annotations

from stillhouse.compare import COSTS, Comparison, Cost
from stillhouse.compare.terminal import COLUMNS, cells, missing
from stillhouse.report.charts import HOW, Chart, Figure, Point, Series, figure
from stillhouse.report.page import templates


def render(found: Comparison) -> str:
    """The page as HTML."""
    sources = dict.fromkeys(entry.energy for entry in found.entries if entry.joules is not None)
    return (
        templates()
        .get_template("compare.html")
        .render(
            columns=COLUMNS,
            rows=cells(found),
            reckoned=any(e.kept is not None and e.kept.how.startswith("the student's") for e in found.entries),
            runs=list(dict.fromkeys(entry.run for entry in found.entries)),
            figures=[drawn for cost in COSTS if (drawn := pareto(found, cost)) is not None],
            undrawn=[cost.name for cost in COSTS if pareto(found, cost) is None],
            how=HOW["scatter"],
            notes=[*(f"Energy is {source}." for source in sources), *found.notes],
            missing=missing(found),
        )
    )


def pareto(found: Comparison, cost: Cost) -> Figure | None:
    """Quality against a cost, with the front; None where fewer than two entries have both."""
    series = []
    for number, entry in enumerate(found.entries, 1):
        value = cost.of(entry)
        if entry.kept is None or value is None:
            continue
        role = entry.name if entry.name in ("teacher", "student") else "other"
        point = Point(value, entry.kept.value, entry.kept.low, entry.kept.high)
        series.append(Series(f"{number} {entry.label}", (point,), role))
    if len(series) < 2:
        return None
    front = [Point(cost.of(e), e.kept.value) for e in found.front(cost) if e.kept is not None]
    if len(front) > 1:
        series.append(Series("front", tuple(front), "floor", "4 4"))
    title = f"Quality against {cost.name}"
    chart = Chart("scatter", title, cost.unit, "% of the teacher's skill kept", tuple(series))
    return figure(chart, f"pareto-{cost.name}")
