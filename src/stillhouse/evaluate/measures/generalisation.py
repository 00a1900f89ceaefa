"""Generalisation: whether what is kept on familiar questions is kept on unfamiliar ones."""

from __future__ import annotations

import math

import numpy as np

from stillhouse.evaluate import statistics, wording
from stillhouse.evaluate.answers import Answered, Answers
from stillhouse.evaluate.records import Chart, Estimate, Finding, FloatArray, Mark, Point, Series, Verdict
from stillhouse.evaluate.skill import Skill, skills
from stillhouse.evaluate.statistics import Interval, difference
from stillhouse.evaluate.wording import estimate, number, plain

_QUESTION = "Does the student keep on unfamiliar questions what it keeps on familiar ones?"


def generalisation(
    answers: Answers, *, least: float = 0.85, largest_drop: float = 15.0, margin: float = 0.03
) -> Finding:
    """Does the student keep on unfamiliar questions what it keeps on familiar ones?

    Pairs of tasks, one of which is ``outside`` the other: longer chains, another source, the same questions in other words. What is kept
    of the teacher's skill outside, and that less what is kept inside. PASS if ``least`` is kept outside and the drop surely is smaller
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
        estimates += _same(inside.task, outside.task)
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
    for inside in {id(one): one for one, _ in pairs}.values():
        estimates += _worst(inside, [outside for one, outside in pairs if one is inside])
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


def _asks_the_same(one: Answered, other: Answered) -> bool:
    """Whether two tasks are the same questions in other words: then they are compared question by question."""
    return one.kind == other.kind and one.question.tolist() == other.question.tolist()


def _same(inside: Answered, outside: Answered) -> list[Estimate]:
    """How often each model answers the same in other words, and the student less often than the teacher."""
    if not _asks_the_same(inside, outside):
        return []
    same = {role: _unchanged(inside, outside, role) for role in ("teacher", "student")}
    label = f"{inside.task} → {outside.task}: answered the same"
    found = [
        estimate(label, role, statistics.share(same_N, inside.cluster).scaled(100), "%", inside.size)
        for role, same_N in same.items()
    ]
    less = statistics.mean(same["student"] - same["teacher"], inside.cluster).scaled(100)
    return [*found, estimate(f"{label}, student − teacher", "student", less, "pp", inside.size)]


def _unchanged(inside: Answered, outside: Answered, role: str) -> FloatArray:
    """Of each question, 1 where a role says the same."""
    if inside.kind == "choice":
        return np.asarray(inside.chosen(role) == outside.chosen(role), dtype=np.float64)
    if inside.kind == "write":
        pairs = zip(inside.roles[role].text, outside.roles[role].text, strict=True)
        return np.array([one == other for one, other in pairs], dtype=np.float64)
    return np.asarray(inside.score(role) == outside.score(role), dtype=np.float64)


def _worst(inside: Skill, others: list[Skill]) -> list[Estimate]:
    """What is kept where a question counts by its worst wording, of teacher and student alike; lower is worse here."""
    edits = [one for one in others if _asks_the_same(inside.task, one.task)]
    if not edits:
        return []
    tasks = (inside.task, *(one.task for one in edits))
    teacher_N, student_N = (np.min([t.score(role) for t in tasks], axis=0) for role in ("teacher", "student"))
    kept = statistics.retention(teacher_N, student_N, inside.floor.score_N, inside.task.cluster)
    if not math.isfinite(kept.value):
        return []
    value, low, high = (x * 100 for x in (kept.value, kept.low, kept.high))
    label = f"{inside.task.task}: kept in the worst of {len(tasks)} wordings"
    return [Estimate(label, "student", value, low, high, "%", inside.task.size)]


def _drop(inside: Skill, outside: Skill) -> Interval:
    """What is kept outside less what is kept inside, pp."""
    return difference(outside.kept["student"], inside.kept["student"]).scaled(100)
