"""Discovered slices: parts that nobody declared in which more is lost than elsewhere."""

from __future__ import annotations

import math

from stillhouse.evaluate import slices, statistics, wording
from stillhouse.evaluate.answers import Answers
from stillhouse.evaluate.records import Chart, Estimate, Finding, Items, Mark, Point, Series, Verdict
from stillhouse.evaluate.skill import floor_of
from stillhouse.evaluate.slices import Found
from stillhouse.evaluate.statistics import Interval, Retention
from stillhouse.evaluate.wording import count, estimate, number, plain

_QUESTION = "Where, that nobody thought of, does the student lose more than elsewhere?"


def discovered(
    answers: Answers,
    items: Items,
    *,
    least: float = 0.6,
    smallest: int = slices.SMALLEST,
    most: int = 8,
    features: tuple[str, ...] | None = None,
    margin: float = 0.03,
    seed: int = 0,
) -> Finding:
    """Where, that nobody thought of, does the student lose more than elsewhere?

    Slices by one condition or two on tags and features (length, rarity, the teacher's certainty …) are searched on one half of the
    clusters for what the student loses against the teacher, paired; the other half, at which the search did not look, confirms
    them (Holm at 5 % over all that were pointed out). FAIL if a confirmed slice of a task is shown, on the half that confirms, to
    keep less than ``least`` of the teacher's skill (Holm again); else described.

    Args:
        answers: the table of answers; of teacher and student.
        items: the table of text; likewise.
        least: the share of the teacher's skill below which a slice has collapsed.
        smallest: items that a slice must have in each half.
        most: slices that are pointed out in a task.
        features: names of strategies of the kind ``feature``; all if None.
        margin: share of the questions by which the teacher must surely be above the floor in a slice.
        seed: of the choice of halves.
    """
    tasks = {task.task: task for task in answers.having("teacher", "student") if task.kind != "text"}
    views = [slices.of_task(task, features=features, seed=seed) for task in tasks.values()]
    if items.has("teacher", "conf") and items.has("student"):
        views.append(slices.of_text(items, features=features, seed=seed))
    views = [view for view in views if view.features]
    if not views:
        return wording.not_measured("discovered", _QUESTION, "teacher and student answered nothing that has parts")
    found = slices.discover(views, smallest=smallest, most=most)
    confirmed = [one for one in found if one.confirmed]
    side = {view.name: view.side_N for view in views}
    kept: dict[str, Retention] = {}
    for one in confirmed:
        if one.view in tasks:
            task = tasks[one.view]
            rows = one.rows_N & (side[one.view] == 1)
            parts = (task.score("teacher")[rows], task.score("student")[rows], floor_of(task).score_N[rows])
            result = statistics.retention(*parts, task.cluster[rows], threshold=least, margin=margin)
            if math.isfinite(result.value):
                kept[one.name] = result
    collapsed = [
        name for name, p in zip(kept, statistics.holm([r.p_below for r in kept.values()]), strict=True) if p <= 0.05
    ]
    verdict: Verdict = "FAIL" if collapsed else "DESCRIPTIVE"
    reason = ""
    if collapsed:
        told = ", ".join(f"{name} ({_share(kept[name])})" for name in collapsed)
        reason = f"Of the teacher's skill surely less than {plain(least * 100)} % is kept in {told}."
    estimates = [entry for one in found for entry in _estimates(one, kept.get(one.name))]
    limits = (
        "What a slice is made of is what goes with the loss, not what causes it; what no tag or feature tells is not seen.",
        "On the half that pointed a slice out its loss is larger than it is: only the other half counts.",
        wording.ONE_SEED,
    )
    return Finding(
        "discovered",
        _QUESTION,
        verdict,
        _sentence(found, confirmed, len(views)),
        reason,
        tuple(estimates),
        _charts(found),
        limits,
    )


def _share(kept: Retention) -> str:
    return wording.with_interval(kept.value * 100, kept.low * 100, kept.high * 100, "%")


def _sentence(found: list[Found], confirmed: list[Found], views: int) -> str:
    if not found:
        return f"In {count(views, 'part')} of the evaluation no slice was found in which the student loses more than elsewhere."
    if not confirmed:
        return f"{count(len(found), 'slice')} looked worse than the rest on one half; the held-out half confirms none."
    worst = confirmed[0]
    return (
        f"Confirmed on the held-out half: {len(confirmed)} of {count(len(found), 'slice')} that the other half pointed out. "
        f"The surest is {worst.name}: {wording.say(_shown(worst, worst.second), _unit(worst))} more is lost there than elsewhere."
    )


def _shown(one: Found, excess: Interval) -> Interval:
    return excess.scaled(100) if one.unit == "points" else excess


def _unit(one: Found) -> str:
    return "pp" if one.unit == "points" else one.unit


def _estimates(one: Found, kept: Retention | None) -> list[Estimate]:
    """The excess on both halves, and what is kept on the half that confirms."""
    n = int(one.rows_N.sum())
    state = "confirmed on the held-out half" if one.confirmed else f"not confirmed, p = {number(one.p)}"
    made = [
        estimate(f"{one.name}: more lost than elsewhere ({state})", "student", _shown(one, one.second), _unit(one), n),
        estimate(
            f"{one.name}: the same on the half that pointed it out", "student", _shown(one, one.first), _unit(one), n
        ),
    ]
    if kept is not None:
        value, low, high = (x * 100 for x in (kept.value, kept.low, kept.high))
        made.append(Estimate(f"{one.name}: skill kept, held-out half", "student", value, low, high, "%", n))
    return made


def _charts(found: list[Found]) -> tuple[Chart, ...]:
    """A forest for each unit: what is lost more inside, on the half that confirms."""
    charts = []
    for unit in dict.fromkeys(_unit(one) for one in found):
        rows = []
        for one in found:
            if _unit(one) == unit:
                excess = _shown(one, one.second)
                mark = "✓ " if one.confirmed else ""
                rows.append(Point(f"{mark}{one.name}", excess.value, excess.low, excess.high, int(one.rows_N.sum())))
        charts.append(
            Chart(
                "forest",
                "More lost in the slice than elsewhere, on the held-out half (✓ confirmed)",
                "",
                unit,
                (Series("student", tuple(rows), "student"),),
                (Mark(0.0, "elsewhere"),),
            )
        )
    return tuple(charts)
