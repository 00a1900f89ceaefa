"""How training went: curves of the loss, of held-out text and of what steers the optimiser."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from stillhouse.report import charts
from stillhouse.report.charts import Chart, Figure, Point, Series
from stillhouse.report.read import Run, at, mapping
from stillhouse.report.words import finite

_CURVE_POINTS = 160

_OWN = ("own_share", "own_length", "own_ended", "own_repeated", "measured_tokens", "measured_seconds")
_NO_TERM = frozenset(("step", "loss", "gradient_norm", "learning_rate", "tokens", "seconds", "validation", *_OWN))


def spent(metrics: Sequence[Mapping[str, Any]]) -> float | None:
    """Seconds that the steps took. Lines count either their own seconds or all so far; the latter never fall."""
    seconds = [s for m in metrics if "validation" not in m and (s := finite(m.get("seconds"))) is not None]
    if not seconds:
        return None
    grows = len(seconds) > 2 and all(b > a for a, b in pairwise(seconds))
    return seconds[-1] if grows else sum(seconds)


def steps(metrics: Sequence[Mapping[str, Any]]) -> int:
    """How many were taken."""
    return int(max((s for m in metrics if (s := finite(m.get("step"))) is not None), default=0))


def terms_of(run: Run) -> list[str]:
    """The names of the loss terms: as the recipe has them, else every number of a step that is no known other thing."""
    objective = mapping(run.recipe.get("objective"))
    named = [objective.get("soft"), objective.get("hard"), *(objective.get("terms") or [])]
    names = [str(n["name"] if isinstance(n, Mapping) else n) for n in named if isinstance(n, str) or at(n, "name")]
    logged = list(dict.fromkeys(k for m in (*run.metrics, *run.control) for k, v in m.items() if finite(v) is not None))
    known = [n for n in names if n in logged]
    return known or [k for k in logged if k not in _NO_TERM and "/" not in k]


def curve(metrics: Sequence[Mapping[str, Any]], key: str) -> tuple[Point, ...]:
    """A number of each step over the steps, as means of at most so many stretches as can be seen."""
    rows = [
        (step, finite(m.get(key)))
        for m in metrics
        if "validation" not in m and key in m and (step := finite(m.get("step"))) is not None
    ]
    width = max(1, -(-len(rows) // _CURVE_POINTS))
    points = []
    for start in range(0, len(rows), width):
        part = rows[start : start + width]
        known = [v for _, v in part if v is not None]
        points.append(Point(part[-1][0], sum(known) / len(known) if known else None))
    return tuple(points)


def validations(metrics: Sequence[Mapping[str, Any]], key: str) -> tuple[Point, ...]:
    """A number of each validation over the steps."""
    return tuple(
        Point(step, finite(at(m, "validation", key)))
        for m in metrics
        if isinstance(m.get("validation"), Mapping) and (step := finite(m.get("step"))) is not None
    )


def _any(points: Iterable[Point]) -> bool:
    return any(p.y is not None for p in points)


_SETS = ("student", "control")


def curves(run: Run) -> list[Figure]:
    """Loss per term while training, and loss on held-out text: student and control in one chart."""
    logs = dict(zip(_SETS, (run.metrics, run.control), strict=True))
    out = []
    terms = terms_of(run)
    dashes = ("", "8 4", "2 3", "10 3 2 3", "4 2")
    nats = "nats per text" if run.classes else "nats per token"
    series = []
    for role, log in logs.items():
        for i, term in enumerate(["loss", *terms] if role == "student" else terms or ["loss"]):
            points = curve(log, term)
            if _any(points):
                name = f"{role} {'total' if term == 'loss' else term.replace('_', ' ')}"
                place = i if role == "student" else terms.index(term) + 1 if term in terms else 0
                series.append(Series(name, points, role, dashes[place % len(dashes)]))
    if series:
        chart = Chart("line", "Loss while training, term by term", "step", nats, tuple(series))
        out.append(charts.figure(chart, "training"))
    hard, soft = _term_name(run, "hard"), _term_name(run, "soft")
    for names, title, unit in (
        (("nll", hard), "Loss on held-out text", nats),
        (("kl", soft), "Distance from the teacher on held-out text", f"{soft or 'KL'}, {nats}".replace("_", " ")),
    ):
        held = [s for role, log in logs.items() if (s := _held(log, role, names))]
        if held:
            out.append(charts.figure(Chart("line", title, "step", unit, tuple(held)), f"held-{names[0]}"))
    return out


def _term_name(run: Run, which: str) -> str:
    term = mapping(run.recipe.get("objective")).get(which)
    return str(at(term, "name") or (term if isinstance(term, str) else ""))


def _held(log: Sequence[Mapping[str, Any]], role: str, names: Iterable[str]) -> Series | None:
    """The first of the named numbers that the validations have."""
    for name in names:
        points = validations(log, name)
        if name and _any(points):
            return Series(role, points, role)
    return None


def steering(run: Run) -> list[Figure]:
    """Gradient norm and learning rate over the steps."""
    out = []
    for key, title in (("gradient_norm", "Gradient norm"), ("learning_rate", "Learning rate")):
        series = [
            Series(role, points, role)
            for role, log in zip(_SETS, (run.metrics, run.control), strict=True)
            if _any(points := curve(log, key))
        ]
        if series:
            out.append(charts.figure(Chart("line", title, "step", title.lower(), tuple(series)), key.replace("_", "-")))
    return out
