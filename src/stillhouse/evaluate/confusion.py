"""Scores that follow from how often each class is true, is said, and is said rightly; judged like accuracy, by a bootstrap.

Such a score is no mean over texts (of F1 and correlation each text's part depends on all others), so its intervals come from
drawing texts anew, the same draw for every role: what is compared stays paired.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stillhouse.evaluate import statistics, wording
from stillhouse.evaluate.records import Chart, Estimate, Finding, FloatArray, Items, Mark, Point, Series, Verdict
from stillhouse.evaluate.wording import estimate, number, plain, say, with_interval

Score = Callable[[FloatArray, FloatArray, FloatArray], FloatArray]
"""Of each class how often it is true, is said and is said rightly, [R, C] each → the score, [R]."""

_ROLES = ("floor", "before", "control", "direct", "student", "teacher")


@dataclass(frozen=True)
class Asked:
    """What a measure wants to know.

    Args:
        name: the measure's.
        question: likewise.
        what: the score's name in a sentence.
        score: the score.
        unit: of the score as it is told.
        factor: from the score to that unit.

    """

    name: str
    question: str
    what: str
    score: Score
    unit: str = ""
    factor: float = 1.0


def judged(items: Items, asked: Asked, *, retention: float, margin: float, seed: int) -> Finding:
    """A score of every role, and how much of the teacher's the student keeps above the floor.

    PASS or FAIL where the 90 % bootstrap interval of (student − floor) − retention · (teacher − floor) lies above or below 0;
    UNINFORMATIVE where the lower 95 % bound of teacher − floor is below the margin.

    Args:
        items: the table; what student and floor said is needed.
        asked: what to measure.
        retention: the share that must be kept.
        margin: by how much the teacher must surely be above the floor, in the score's own scale.
        seed: of the bootstrap.

    """
    for role in ("student", "floor"):
        if not items.has(role, "said"):
            return wording.not_measured(asked.name, asked.question, f"the classes that the {role} said were not stored")
    if items.documents < 2:
        return wording.not_measured(asked.name, asked.question, "an interval needs two texts or more")
    of = {role: _score(items, role, asked.score) for role in _ROLES if items.has(role, "said")}
    n = items.size

    def drawn(statistic: Callable[[FloatArray], FloatArray], confidence: float = 0.95) -> statistics.Interval:
        return statistics.bootstrap(statistic, items.documents, seed=seed, kind="percentile", confidence=confidence)

    values = {role: drawn(each).scaled(asked.factor) for role, each in of.items()}
    estimates = [estimate(asked.what, role, value, asked.unit, n) for role, value in values.items()]
    charts = [_ladder(asked, values, n)]
    limits = (wording.ONE_SIDED, *wording.sample_limits(items))
    numbers = f"{asked.what} {say(values['student'], asked.unit)}"
    if "teacher" not in of:
        sentence = f"The student's {numbers}. There is no teacher of these classes to compare with."
        reason = "Nothing is judged without a teacher."
        return Finding(
            asked.name, asked.question, "DESCRIPTIVE", sentence, reason, tuple(estimates), tuple(charts), limits
        )
    numbers += f", teacher {number(values['teacher'].value)}, floor {number(values['floor'].value)}"
    gap = drawn(lambda w: of["teacher"](w) - of["floor"](w))
    if gap.low < margin:
        sentence = f"The teacher cannot be shown to be better than the commonest class ({numbers}): nothing to compare."
        reason = f"The teacher is above the floor by {say(gap)}; the lower bound must reach {plain(margin)}."
        return Finding(
            asked.name, asked.question, "UNINFORMATIVE", sentence, reason, tuple(estimates), tuple(charts), limits
        )

    rows = []
    for role in (role for role in ("student", "control", "direct", "before") if role in of):
        kept = drawn(lambda w, of_role=of[role]: (of_role(w) - of["floor"](w)) / (of["teacher"](w) - of["floor"](w)))  # type: ignore[misc]
        raw = drawn(lambda w, of_role=of[role]: of_role(w) / of["teacher"](w))  # type: ignore[misc]
        estimates.append(estimate(f"{asked.what} kept above the floor", role, kept.scaled(100), "%", n))
        estimates.append(estimate(f"raw retention of {asked.what}", role, raw.scaled(100), "%", n))
        rows.append(Series(role, (Point(role, kept.value * 100, kept.low * 100, kept.high * 100, n),), role))
    marks = (Mark(retention * 100, "asked for"), Mark(100.0, "teacher"))
    charts.insert(
        0, Chart("forest", f"{asked.what} kept above the floor", "", "% of the teacher's", tuple(rows), marks)
    )
    surplus = drawn(
        lambda w: of["student"](w) - of["floor"](w) - retention * (of["teacher"](w) - of["floor"](w)), confidence=0.9
    )
    verdict: Verdict = "PASS" if surplus.low > 0 else "FAIL" if surplus.high < 0 else "INCONCLUSIVE"
    share = next(e for e in estimates if e.role == "student" and e.label.endswith("above the floor"))
    wanted = f"{plain(retention * 100)} %"
    sentence = f"The student keeps {_told(share)} of the teacher's above the floor ({numbers}); asked for: {wanted}."
    where = {"PASS": "above 0", "FAIL": "below 0", "INCONCLUSIVE": "on both sides of 0"}[verdict]
    reason = f"The 90 % interval of what it keeps beyond {wanted} lies {where}."
    return Finding(asked.name, asked.question, verdict, sentence, reason, tuple(estimates), tuple(charts), limits)


def _told(share: Estimate) -> str:
    assert share.value is not None and share.low is not None and share.high is not None
    return with_interval(share.value, share.low, share.high, "%")


def _score(items: Items, role: str, score: Score) -> Callable[[FloatArray], FloatArray]:
    """For ``statistics.bootstrap``: a role's score where each text counts as often as it was drawn."""
    index_N, _ = statistics.cluster_index(items.document)
    said_N = items.roles[role].column("said").astype(np.int64)
    right_N = (said_N == items.label).astype(np.float64)
    classes = int(max(items.label.max(), said_N.max())) + 1

    def counts(weights_RN: FloatArray, class_N: np.ndarray) -> FloatArray:
        rows = len(weights_RN)
        place_RN = np.arange(rows)[:, None] * classes + class_N
        flat = np.bincount(place_RN.ravel(), weights_RN.ravel(), rows * classes)
        return flat.astype(np.float64).reshape(rows, classes)

    def statistic(weights_RG: FloatArray) -> FloatArray:
        weights_RN = weights_RG[:, index_N]
        right_RC = counts(weights_RN * right_N, items.label)
        return score(counts(weights_RN, items.label), counts(weights_RN, said_N), right_RC)

    return statistic


def _ladder(asked: Asked, values: dict[str, statistics.Interval], n: int) -> Chart:
    ladder = tuple(Series(role, (Point(role, x.value, x.low, x.high, n),), role) for role, x in values.items())
    return Chart("ladder", f"From the floor to the teacher: {asked.what}, higher is better", "", asked.unit, ladder)
