"""Generalisation: whether what is kept on familiar questions is kept on unfamiliar ones."""

from __future__ import annotations

from stillhouse.evaluate import wording
from stillhouse.evaluate.answers import Answers
from stillhouse.evaluate.records import Chart, Estimate, Finding, Mark, Point, Series, Verdict
from stillhouse.evaluate.skill import Skill, skills
from stillhouse.evaluate.statistics import Interval, difference
from stillhouse.evaluate.wording import number, plain

_QUESTION = "Does the student keep on unfamiliar questions what it keeps on familiar ones?"


def generalisation(
    answers: Answers, *, least: float = 0.85, largest_drop: float = 15.0, margin: float = 0.03
) -> Finding:
    """Does the student keep on unfamiliar questions what it keeps on familiar ones?

    Pairs of tasks, one of which is ``outside`` the other: longer chains, another source, mirrored questions. What is kept of the
    teacher's skill outside, and that less what is kept inside. PASS if ``least`` is kept outside and the drop surely is smaller
    than ``largest_drop``; FAIL if less is kept, or the drop surely is larger. A student that fails inside too loses no more by it.

    Args:
        answers: the table; of teacher and student.
        least: share of the teacher's skill that must be kept outside.
        largest_drop: pp by which that may lie below what is kept inside.
        margin: share of the questions by which the teacher must surely be above the floor.
    """
    asked = {one.task.task: one for one in skills(answers, threshold=least, margin=margin)}
    pairs = [(asked[one.task.outside], one) for one in asked.values() if one.task.outside in asked]
    if not pairs:
        return wording.not_measured(
            "generalisation", _QUESTION, "no task is named as outside another one that was asked"
        )
    told: list[tuple[Verdict, str]] = []
    estimates: list[Estimate] = []
    rows: list[Point] = []
    for inside, outside in pairs:
        name = f"{inside.task.task} → {outside.task.task}"
        silent = next((one for one in (inside, outside) if not one.informative), None)
        if silent is not None:
            told.append(("UNINFORMATIVE", f"{name}: {silent.reason}."))
            continue
        drop = _drop(inside, outside)
        kept = outside.kept["student"]
        n = inside.task.size + outside.task.size
        estimates += [
            Estimate(f"{name}: kept outside", "student", kept.value * 100, kept.low * 100, kept.high * 100, "%", n),
            Estimate(f"{name}: outside − inside", "student", drop.value, drop.low, drop.high, "pp", n),
        ]
        for one in (inside, outside):
            k = one.kept["student"]
            rows.append(Point(one.task.task, k.value * 100, k.low * 100, k.high * 100, one.task.size))
        low, high = drop.bounds(0.9)
        share = f"{name}: {wording.with_interval(kept.value * 100, kept.low * 100, kept.high * 100, '%')} is kept outside, {number(inside.kept['student'].value * 100)} % inside."
        if kept.verdict == "FAIL" or high < -largest_drop:
            told.append(("FAIL", share))
        elif kept.verdict == "PASS" and low > -largest_drop:
            told.append(("PASS", share))
        else:
            told.append(("INCONCLUSIVE", f"{share} {wording.to_decide(kept.needed, kept.gap.clusters, 'question')}"))
    order: tuple[Verdict, ...] = ("FAIL", "INCONCLUSIVE", "PASS", "UNINFORMATIVE")
    verdict = next(v for v in order if any(v == each for each, _ in told))
    sentence = " ".join(text for each, text in told if each == verdict)
    reason = f"Asked for: {plain(least * 100)} % outside, and no more than {plain(largest_drop)} pp less than inside."
    chart = Chart(
        "forest",
        "Skill kept, inside and outside",
        "",
        "% of the teacher's",
        (Series("student", tuple(rows), "student"),),
        (Mark(least * 100, "asked for"), Mark(100.0, "teacher")),
    )
    limits = (
        "Outside of what the teacher is asked inside; it may lie inside what the student was taught.",
        wording.ONE_SIDED,
        wording.ONE_SEED,
    )
    return Finding("generalisation", _QUESTION, verdict, sentence, reason, tuple(estimates), (chart,), limits)


def _drop(inside: Skill, outside: Skill) -> Interval:
    """What is kept outside less what is kept inside, pp."""
    return difference(outside.kept["student"], inside.kept["student"]).scaled(100)
