"""A comparison in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stillhouse.compare import COSTS, Comparison, Entry
from stillhouse.quantiles import Quantile
from stillhouse.report.words import NOTHING, bytes_of, number, visible

COLUMNS = (
    "",
    "run",
    "model or file",
    "keeps, %",
    "on disk",
    "first token, ms",
    "a token, ms",
    "p95",
    "memory",
    "J a token",
    "best in",
)
WIDE = 130
"""Characters that a row of the table takes."""
PARTS = (0, 1, 2, 3, 4, 8), (0, 5, 6, 7, 9, 10)
"""Columns of the two tables that are shown where there are fewer."""


def cells(found: Comparison) -> list[tuple[str, ...]]:
    """A row each, numbered as the charts number them; ``best in`` names the Pareto fronts that it lies on."""
    fronts = [(cost.name, {id(e) for e in found.front(cost)}) for cost in COSTS]
    rows = []
    for count, entry in enumerate(found.entries, 1):
        best = ", ".join(name for name, ids in fronts if id(entry) in ids)
        rows.append((str(count), *_row(entry), best))
    return rows


def _row(entry: Entry) -> tuple[str, ...]:
    kept = entry.kept
    quality = NOTHING
    if kept is not None:
        sure = kept.low == kept.high
        quality = number(kept.value) if sure else f"{number(kept.value)} [{number(kept.low)}, {number(kept.high)}]"
    return (
        visible(entry.run),
        visible(entry.name),
        quality,
        bytes_of(entry.size),
        _milliseconds(entry.first),
        _milliseconds(entry.answer),
        _milliseconds(entry.slow),
        bytes_of(entry.peak),
        NOTHING if entry.joules is None else f"{entry.joules:.3g}",
    )


def _milliseconds(found: Quantile | None) -> str:
    return NOTHING if found is None else number(1e3 * found.value)


def missing(found: Comparison) -> list[str]:
    """What was not measured: the same reason told once for all that it holds of."""
    whose: dict[str, list[str]] = {}
    for count, entry in enumerate(found.entries, 1):
        for reason in entry.missing:
            whose.setdefault(reason, []).append(str(count))
    return [f"{', '.join(numbers)}: {visible(reason)}" for reason, numbers in whose.items()]


def show(found: Comparison, console: Console) -> None:
    """Print the table, what was not measured, and what to know."""
    rows = cells(found)
    for columns in [range(len(COLUMNS))] if console.width >= WIDE else PARTS:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(COLUMNS[column], justify="right" if 3 <= column < 10 else "left", no_wrap=column != 10)
        for row in rows:
            table.add_row(*(Text(row[column]) for column in columns))
        console.print(table)
    told = "keeps: of the teacher's skill above the floor, [95 % interval]. Times are medians. best in: nothing keeps more and costs less."
    console.print(told, style="dim", highlight=False, markup=False)
    sources = dict.fromkeys(entry.energy for entry in found.entries if entry.joules is not None)
    for line in (*(f"Energy is {source}." for source in sources), *found.notes):
        console.print(f"• {visible(line)}", highlight=False, markup=False)
    gaps = missing(found)
    if gaps:
        console.print("Not measured:", style="bold")
    for line in gaps:
        console.print(f"  {line}", highlight=False, markup=False)
