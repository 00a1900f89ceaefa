"""Answers that changed: lost, gained, and wrong in another way."""

from __future__ import annotations

import numpy as np

from stillhouse.evaluate import statistics, wording
from stillhouse.evaluate.answers import Answered, Answers
from stillhouse.evaluate.records import Chart, Estimate, Finding, FloatArray, IntArray, Point, Series
from stillhouse.evaluate.wording import estimate, p_value, say

_QUESTION = "Which answers did the student lose and gain against the teacher?"


def flips(answers: Answers) -> Finding:
    """Which answers did the student lose and gain against the teacher?

    Equal accuracy can hide many changed answers (Dutta et al. 2024, arXiv:2407.09141). Lost and gained are counted apart, with
    McNemar's mid-p test that they are equally many; their direction is (lost − gained) / (lost + gained). Agreement is compared with what the two
    accuracies force: κ of being right or wrong together (Geirhos et al. 2020, arXiv:2006.16736). Where the teacher was also asked with its
    weights rounded (``evaluate.rounded``), what that changes is the noise floor. No verdict: a changed answer is not a worse one.

    Args:
        answers: the table; of teacher and student.
    """
    asked = [task for task in answers.having("teacher", "student") if task.kind != "text"]
    if not asked:
        return wording.not_measured("flips", _QUESTION, "no task with a right answer was asked of teacher and student")
    estimates: list[Estimate] = []
    bars: dict[str, list[Point]] = {"lost": [], "gained": []}
    lost_all = gained_all = n_all = 0
    changed_all: list[FloatArray] = []
    cluster_all: list[IntArray] = []
    for task in asked:
        teacher_N, student_N = (task.score(role) >= 0.5 for role in ("teacher", "student"))
        lost_N, gained_N = teacher_N & ~student_N, ~teacher_N & student_N
        lost, gained, n = int(lost_N.sum()), int(gained_N.sum()), task.size
        lost_all, gained_all, n_all = lost_all + lost, gained_all + gained, n_all + n
        changed_N = (lost_N | gained_N).astype(np.float64)
        changed = statistics.mean(changed_N, task.cluster)
        changed_all.append(changed_N)
        cluster_all.append(task.cluster + len(cluster_all) * 10**9)
        estimates.append(
            estimate(f"{task.task}: lost or gained", "student", wording.within(changed, 0, 1).scaled(100), "%", n)
        )
        estimates += _noise(task, changed_N)
        estimates += [
            Estimate(f"{task.task}: lost", "student", float(lost), None, None, "", n),
            Estimate(f"{task.task}: gained", "student", float(gained), None, None, "", n),
            Estimate(
                f"{task.task}: p value of equally many", "student", statistics.mcnemar(lost, gained), None, None, "", n
            ),
        ]
        if lost + gained:
            direction = (lost - gained) / (lost + gained)
            estimates.append(Estimate(f"{task.task}: direction", "student", direction, None, None, "", n))
        if task.kind == "choice":
            other = (task.chosen("teacher") != task.chosen("student")) & ~teacher_N & ~student_N
            estimates.append(
                Estimate(f"{task.task}: wrong in another way", "student", float(other.sum()), None, None, "", n)
            )
        kappa = _together(task)
        if kappa is not None:
            estimates.append(
                Estimate(f"{task.task}: right and wrong together (κ)", "student", kappa, None, None, "", n)
            )
        bars["lost"].append(Point(task.task, lost / n * 100, n=n))
        bars["gained"].append(Point(task.task, gained / n * 100, n=n))
    p = statistics.mcnemar(lost_all, gained_all)
    share = wording.within(statistics.mean(np.concatenate(changed_all), np.concatenate(cluster_all)), 0, 1)
    sentence = (
        f"Of {n_all:,} answers the student lost {lost_all:,} that the teacher has right and gained {gained_all:,}: "
        f"{say(share.scaled(100), '%')} changed (equally many of both: {p_value(p)})."
    )
    chart = Chart("bars", "Answers lost and gained", "", "% of the questions", tuple(
        Series(name, tuple(points)) for name, points in bars.items()))  # fmt: skip
    limits = (
        "Two models that are right nine times out of ten agree on 82 % of the questions by luck: look at κ.",
        "McNemar's test takes questions as independent.",
        wording.ONE_SEED,
    )
    return Finding("flips", _QUESTION, "DESCRIPTIVE", sentence, "", tuple(estimates), (chart,), limits)


def _noise(task: Answered, changed_N: FloatArray) -> list[Estimate]:
    """What changes if the teacher's weights are rounded, and what the student changes beyond that; nothing where it was not asked."""
    if "rounded" not in task.roles:
        return []
    same_N = (task.score("teacher") >= 0.5) == (task.score("rounded") >= 0.5)
    noise_N = 1.0 - same_N.astype(np.float64)
    noise = wording.within(statistics.mean(noise_N, task.cluster), 0, 1).scaled(100)
    beyond = statistics.mean(changed_N - noise_N, task.cluster).scaled(100)
    return [
        estimate(f"{task.task}: lost or gained by rounding alone", "rounded", noise, "%", task.size),
        estimate(f"{task.task}: lost or gained beyond that", "student", beyond, "pp", task.size),
    ]


def _together(task: Answered) -> float | None:
    """Agreement on right and wrong beyond what the two accuracies force; None where they force all of it."""
    teacher_N, student_N = (task.score(role) >= 0.5 for role in ("teacher", "student"))
    seen = float((teacher_N == student_N).mean())
    t, s = float(teacher_N.mean()), float(student_N.mean())
    forced = t * s + (1 - t) * (1 - s)
    return None if forced >= 1.0 else (seen - forced) / (1 - forced)
