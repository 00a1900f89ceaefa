"""Forgetting: what the student could do before it was taught."""

from __future__ import annotations

from stillhouse.evaluate import statistics, wording
from stillhouse.evaluate.answers import Answers
from stillhouse.evaluate.records import Chart, Estimate, Finding, Mark, Point, Series, Verdict
from stillhouse.evaluate.skill import skills
from stillhouse.evaluate.wording import count, number, plain

_QUESTION = "What could the student do before it was taught that it cannot do now?"


def forgetting(answers: Answers, *, most: float = 0.05, margin: float = 0.03) -> Finding:
    """What could the student do before it was taught that it cannot do now?

    Of each task in which the student showed skill before training: (student − floor) / (before − floor). PASS if no task surely
    lost more than ``most``: each is shown to have kept the rest; FAIL if one is shown to have lost more (Holm at 5 % over tasks,
    since any of them raises the alarm).

    Args:
        answers: the table; of the student before and after.
        most: share of what it could do before that may be lost in a task.
        margin: share of the questions by which it must have been above the floor before.
    """
    asked = skills(answers, roles=("student",), of="before", threshold=1 - most, margin=margin)
    if not asked:
        return wording.not_measured(
            "forgetting", _QUESTION, "no task was asked of the student before and after training"
        )
    judged = [one for one in asked if one.informative]
    if not judged:
        reason = f"in none of {count(len(asked), 'task')} did the student show skill before training"
        return wording.not_measured("forgetting", _QUESTION, reason)
    kept = [one.kept["student"] for one in judged]
    adjusted = statistics.holm([each.p_below for each in kept])
    lost = [one.task.task for one, p in zip(judged, adjusted, strict=True) if p <= 0.05]
    open_ones = [one.task.task for one, each in zip(judged, kept, strict=True) if each.verdict != "PASS"]
    worst = min(range(len(judged)), key=lambda i: kept[i].value)
    name, each = judged[worst].task.task, kept[worst]
    share = (
        f"{name}: {wording.with_interval(each.value * 100, each.low * 100, each.high * 100, '%')} of what it could do"
    )
    verdict: Verdict = "FAIL" if lost else "INCONCLUSIVE" if open_ones else "PASS"
    sentence = {
        "FAIL": f"Training made the student forget ({', '.join(lost)}); the least is left of {share}.",
        "INCONCLUSIVE": f"It cannot be told whether training made the student forget; the least is left of {share}.",
        "PASS": f"Training made the student forget nothing that {count(len(judged), 'task')} can see; least of {share}.",
    }[verdict]
    needed = [k.needed for k in kept if k.needed is not None]
    reason = f"Allowed is a loss of {plain(most * 100)} % in a task." + (
        f" Open: {', '.join(open_ones)}; the hardest takes about {max(needed):,} questions."
        if open_ones and needed
        else ""
    )
    estimates = tuple(
        Estimate(
            f"{one.task.task}: left of before", "student", k.value * 100, k.low * 100, k.high * 100, "%", one.task.size
        )
        for one, k in zip(judged, kept, strict=True)
    )
    gained = sum(k.value > 1 for k in kept)
    rows = tuple(
        Point(one.task.task, k.value * 100, k.low * 100, k.high * 100, one.task.size)
        for one, k in zip(judged, kept, strict=True)
    )
    marks = (Mark((1 - most) * 100, "allowed"), Mark(100.0, "before"))
    chart = Chart(
        "forest", "Left of what it could do before", "", "% of before", (Series("student", rows, "student"),), marks
    )
    limits = (
        f"In {number(gained)} of {len(judged)} tasks it can do more than before: forgetting here is net of what was learned.",
        wording.ITEMS_NOT_TASKS,
        wording.ONE_SEED,
    )
    return Finding("forgetting", _QUESTION, verdict, sentence, reason, estimates, (chart,), limits)
