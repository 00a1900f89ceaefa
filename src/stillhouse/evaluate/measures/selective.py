"""Risk and coverage: whether the student knows when it does not know."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from stillhouse.evaluate import statistics, wording
from stillhouse.evaluate.records import Chart, Estimate, Finding, FloatArray, Items, Mark, Point, Series
from stillhouse.evaluate.statistics import Interval
from stillhouse.evaluate.wording import estimate, number, plain, say

_QUESTION = "Does the student know when it does not know?"
_ROLES = ("student", "teacher", "control", "before")
_SHARES = (0.1, 0.25, 0.5, 0.8, 1.0)


def selective(items: Items, *, seed: int = 0) -> Finding:
    """Does the student know when it does not know?

    Items are sorted by confidence. How often the surest share is right (risk–coverage: Geifman and El-Yaniv 2017, arXiv:1705.08500);
    the area under the ROC curve of confidence for being right, ½ where it says nothing; and the share of items that the student
    can take, surest first, and still be right as often as the teacher is on all of them: what could be served without it.

    Args:
        items: the table; conf and correct of teacher and student are needed.
        seed: of the bootstrap.
    """
    for role in ("student", "teacher"):
        if not items.has(role, "conf", "correct"):
            return wording.not_measured("selective", _QUESTION, f"the {role}'s confidences were not scored")
    if items.documents < 2:
        return wording.not_measured("selective", _QUESTION, "an interval needs two documents or more")
    n = items.size
    roles = [role for role in _ROLES if items.has(role, "conf", "correct")]
    estimates: list[Estimate] = []
    lines: list[Series] = []
    for role in roles:
        curve = _Curve(items.roles[role].column("conf"), items.roles[role].column("correct"), items.document)
        if 0 < curve.correct_N.sum() < n:  # else there is no pair of a right and a wrong one
            area = curve.interval(curve.area, seed)
            estimates.append(estimate("area under the ROC curve of confidence", role, area, "", n))
        rights = [curve.interval(curve.right(share), seed) for share in _SHARES]
        for share, right in zip(_SHARES, rights, strict=True):
            estimates.append(estimate(f"right on the surest {plain(share * 100)} %", role, right.scaled(100), "%", n))
        points = tuple(
            Point(share * 100, r.value * 100, r.low * 100, r.high * 100, round(share * n))
            for share, r in zip(_SHARES, rights, strict=True)
        )
        lines.append(Series(role, points, role))
    goal = float(items.roles["teacher"].column("correct").mean())
    student = _Curve(items.roles["student"].column("conf"), items.roles["student"].column("correct"), items.document)
    served = student.interval(student.served(goal), seed)
    estimates.append(estimate("share taken at the teacher's accuracy", "student", served.scaled(100), "%", n))
    sentence = (
        f"Taking what it is surest of, the student is right as often as the teacher ({number(goal * 100)} %) on "
        f"{say(served.scaled(100), '%')} of the items; the rest would be the teacher's."
    )
    chart = Chart(
        "line",
        "Right on the surest share",
        "surest share, %",
        "% right",
        tuple(lines),
        (Mark(goal * 100, "teacher, all"),),
    )
    limits = (
        "Of the next token (or class) under teacher-forced text; whole answers are another matter.",
        "The share is chosen on these items: a threshold set by it will do a little worse on others.",
        *wording.sample_limits(items),
    )
    return Finding("selective", _QUESTION, "DESCRIPTIVE", sentence, "", tuple(estimates), (chart,), limits)


class _Curve:
    """Items from the surest to the least sure, and statistics of them for any weights of the clusters.

    Args:
        conf_N: confidence in the first choice.
        correct_N: 1 where it was right.
        cluster_N: the cluster of each item.
    """

    def __init__(self, conf_N: FloatArray, correct_N: FloatArray, cluster_N: NDArray[np.generic]) -> None:
        index_N, self.clusters = statistics.cluster_index(cluster_N)
        order = np.argsort(-conf_N, kind="stable")
        self.index_N, self.correct_N = index_N[order], correct_N[order]
        tied = -conf_N[order]  # ascending
        self.first_N, self.last_N = np.searchsorted(tied, tied, "left"), np.searchsorted(tied, tied, "right")

    def interval(self, statistic: Callable[[FloatArray], FloatArray], seed: int) -> Interval:
        """Its cluster bootstrap."""

        def in_parts(weights_RG: FloatArray) -> FloatArray:
            rows = max(1, 2_000_000 // len(self.index_N))
            parts = [weights_RG[r : r + rows][:, self.index_N] for r in range(0, len(weights_RG), rows)]
            return np.concatenate([statistic(part_RN) for part_RN in parts])

        return statistics.bootstrap(in_parts, self.clusters, seed=seed, replicates=400, kind="percentile")

    def area(self, weight_RN: FloatArray) -> FloatArray:
        """Chance that a right item is surer than a wrong one, ties half."""
        wrong_RN = np.cumsum(weight_RN * (1 - self.correct_N), axis=1)
        wrong_RN = np.concatenate([np.zeros((len(wrong_RN), 1)), wrong_RN], axis=1)
        surer_RN = (wrong_RN[:, self.first_N] + wrong_RN[:, self.last_N]) / 2
        right_RN = weight_RN * self.correct_N
        pairs_R = right_RN.sum(axis=1) * wrong_RN[:, -1]
        return np.asarray(1 - (right_RN * surer_RN).sum(axis=1) / np.where(pairs_R > 0, pairs_R, np.nan))

    def right(self, share: float) -> Callable[[FloatArray], FloatArray]:
        """How often the surest share is right."""

        def statistic(weight_RN: FloatArray) -> FloatArray:
            mass_RN, right_RN = np.cumsum(weight_RN, axis=1), np.cumsum(weight_RN * self.correct_N, axis=1)
            place_R = (mass_RN < share * mass_RN[:, -1:] * (1 - 1e-12)).sum(axis=1)
            rows = np.arange(len(place_R))
            return np.asarray(right_RN[rows, place_R] / mass_RN[rows, place_R])

        return statistic

    def served(self, goal: float) -> Callable[[FloatArray], FloatArray]:
        """The largest share, surest first, that is right as often as ``goal``."""

        def statistic(weight_RN: FloatArray) -> FloatArray:
            mass_RN, right_RN = np.cumsum(weight_RN, axis=1), np.cumsum(weight_RN * self.correct_N, axis=1)
            enough_RN = right_RN >= goal * mass_RN * (1 - 1e-12)
            reached_RN = np.where(enough_RN, mass_RN, 0.0)
            return np.asarray(reached_RN.max(axis=1) / mass_RN[:, -1])

        return statistic
