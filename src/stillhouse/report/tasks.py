"""How several tasks went that were trained together: what each had, how its losses fell, what was warned of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stillhouse.report import charts
from stillhouse.report.charts import Chart, Figure, Series
from stillhouse.report.training import curve, validations
from stillhouse.report.words import NOTHING, finite, number, quantity

COLUMNS = ("task", "of the loss", "readings", "training loss", "held-out loss, first", "best", "last", "gradient norm")
_DASHES = ("", "8 4", "2 3", "10 3 2 3", "4 2")
_LAST = 20


@dataclass(frozen=True)
class Tasks:
    """The section on tasks."""

    rows: list[tuple[str, ...]]
    figures: list[Figure]
    warnings: list[str]
    columns: tuple[str, ...] = COLUMNS


def tasks_of(metrics: Sequence[Mapping[str, Any]]) -> Tasks | None:
    """The section, from the lines of a run's metrics; None where there were no tasks.

    Args:
        metrics: the student's.
    """
    names = list(dict.fromkeys(key[6:] for line in metrics for key in line if key.startswith("share/")))
    if not names:
        return None
    figures = []
    for title, points, ident in (
        ("Loss of each task while training", curve, "task-training"),
        ("Loss of each task on held-out text", validations, "task-held-out"),
    ):
        lines = [(name, points(metrics, f"loss/{name}")) for name in names]
        drawn = tuple(
            Series(name, found, "other", _DASHES[i % len(_DASHES)])
            for i, (name, found) in enumerate(lines)
            if any(point.y is not None for point in found)
        )
        if drawn:
            figures.append(charts.figure(Chart("line", title, "step", "loss", drawn), ident))
    warnings = [
        f"Step {line.get('step')}: {line['warning']}" for line in metrics if isinstance(line.get("warning"), str)
    ]
    return Tasks([_row(name, metrics) for name in names], figures, warnings)


def _row(name: str, metrics: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    held_out = [point.y for point in validations(metrics, f"loss/{name}") if point.y is not None]
    readings = _numbers(metrics, f"epochs/{name}")
    return (
        name,
        quantity(_mean(_numbers(metrics, f"share/{name}")), "share"),
        number(readings[-1]) if readings else NOTHING,
        number(_mean(_numbers(metrics, f"loss/{name}")[-_LAST:])),
        *((number(held_out[0]), number(min(held_out)), number(held_out[-1])) if held_out else (NOTHING,) * 3),
        number(_mean(_numbers(metrics, f"gradient_norm/{name}")[-_LAST:])),
    )


def _numbers(metrics: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [value for line in metrics if (value := finite(line.get(key))) is not None]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
