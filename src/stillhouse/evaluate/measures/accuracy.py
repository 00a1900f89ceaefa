"""Task performance of a classifier on held-out texts: how often it is right, and what is kept of the teacher's skill."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stillhouse.evaluate import statistics, wording
from stillhouse.evaluate.records import Chart, Estimate, Finding, FloatArray, Items, Mark, Point, Series
from stillhouse.evaluate.statistics import Interval, Retention
from stillhouse.evaluate.wording import count, estimate, number, plain, say, with_interval

_QUESTION = "How often is the student right, and how much of the teacher's skill does it keep?"
_LADDER = ("floor", "before", "control", "direct", "student", "teacher")


def accuracy(items: Items, *, retention: float = 0.9, margin: float = 0.03, seed: int = 0) -> Finding:
    """How often is the student right, and how much of the teacher's skill does it keep?

    R = (student − floor) / (teacher − floor) of the accuracies: 0 always says the commonest class of the training labels, 1 is
    the teacher. PASS and FAIL by a paired non-inferiority test with documents as clusters (``statistics.retention``). The raw
    ratio student / teacher stands beside it and decides nothing: where the floor is high it flatters.

    Args:
        items: the table; ``correct`` of teacher, student and floor is needed for a verdict.
        retention: the share that must be kept.
        margin: share of the items by which the teacher must surely be above the floor.
        seed: of the bootstrap.
    """
    for role in ("student", "floor"):
        if not items.has(role, "correct"):
            return wording.not_measured("accuracy", _QUESTION, f"the answers of the {role} were not scored")
    if items.documents < 2:
        return wording.not_measured("accuracy", _QUESTION, "an interval needs two documents or more")
    n = items.size
    right = {role: items.roles[role].column("correct") for role in _LADDER if items.has(role, "correct")}
    shares = {role: wording.within(statistics.mean(x_N, items.document), 0, 1) for role, x_N in right.items()}
    estimates = [estimate("accuracy", role, share.scaled(100), "%", n) for role, share in shares.items()]
    for role, x_N in right.items():
        balanced = statistics.bootstrap(_balanced(x_N, items), items.documents, seed=seed, kind="percentile")
        estimates.append(estimate("accuracy, mean over classes", role, balanced.scaled(100), "%", n))
    kept = _kept(items, right, retention, margin, estimates) if "teacher" in right else {}
    numbers = f"{say(shares['student'].scaled(100), '%')} right"
    floor = f"commonest class {number(shares['floor'].value * 100)} %"
    limits = (
        "One average over all texts: a class that few of them are of can be lost without showing here.",
        wording.ONE_SIDED,
        *wording.sample_limits(items),
    )
    charts = _charts(shares, kept, retention, n)
    if not kept:
        sentence = f"The student's answers: {numbers}; {floor}. There is no teacher of these classes to compare with."
        reason = "Nothing is judged without a teacher: this one was taught by labels alone."
        return Finding("accuracy", _QUESTION, "DESCRIPTIVE", sentence, reason, tuple(estimates), charts, limits)

    result = kept["student"]
    numbers = f"{numbers}, teacher {number(shares['teacher'].value * 100)} %, {floor}"
    asked = f"{plain(retention * 100)} %"
    if result.verdict == "UNINFORMATIVE":
        seen = "is not clearly better" if result.gap.value < margin else "cannot be shown to be better"
        sentence = (
            f"The teacher {seen} than saying the commonest class always ({numbers}): there is nothing to compare with."
        )
        reason = (
            f"The teacher is above the floor by {say(result.gap.scaled(100), 'pp')}, from {count(n, 'text')}; the lower bound must "
            f"reach {plain(margin * 100)} pp, and the difference three standard errors."
        )
    else:
        share = with_interval(result.value * 100, result.low * 100, result.high * 100, "%")
        sentence = (
            f"The student keeps {share} of the teacher's accuracy above the floor ({numbers}); asked for: {asked}."
        )
        reason = wording.kept_reason(result, asked)
    return Finding("accuracy", _QUESTION, result.verdict, sentence, reason, tuple(estimates), charts, limits)


def _kept(
    items: Items, right: dict[str, FloatArray], threshold: float, margin: float, estimates: list[Estimate]
) -> dict[str, Retention]:
    """What each role kept of the teacher's accuracy; with its estimates, and what of the raw ratio."""
    kept: dict[str, Retention] = {}
    n, teacher_N = items.size, right["teacher"]
    for role in (role for role in ("student", "control", "direct", "before") if role in right):
        found = statistics.retention(
            teacher_N, right[role], right["floor"], items.document, threshold=threshold, margin=margin
        )
        kept[role] = found
        value, low, high = (x * 100 for x in (found.value, found.low, found.high))
        estimates.append(Estimate("accuracy kept above the floor", role, value, low, high, "%", n))
        if teacher_N.any():
            raw = statistics.ratio(right[role], teacher_N, items.document)
            estimates.append(estimate(f"raw retention, {role} ÷ teacher", role, raw.scaled(100), "%", n))
    lost, gained = (int(((a == 1) & (b == 0)).sum()) for a, b in
                    ((teacher_N, right["student"]), (right["student"], teacher_N)))  # fmt: skip
    estimates += [
        Estimate("texts that only the teacher has right", "student", float(lost), None, None, "", n),
        Estimate("texts that only the student has right", "student", float(gained), None, None, "", n),
        Estimate("p value of equally many of both", "student", statistics.mcnemar(lost, gained), None, None, "", n),
    ]
    return kept


def _balanced(right_N: FloatArray, items: Items) -> Callable[[FloatArray], FloatArray]:
    """For ``statistics.bootstrap``: the mean over classes of the share of each that is right, of those that are there."""
    index_N, clusters = statistics.cluster_index(items.document)
    classes = np.unique(items.label)
    count_GC, right_GC = (
        np.stack([np.bincount(index_N, w_N * (items.label == c), clusters) for c in classes], axis=1)
        for w_N in (np.ones(items.size), right_N)
    )

    def statistic(weights_RG: FloatArray) -> FloatArray:
        there_RC = weights_RG @ count_GC
        shares_RC = (weights_RG @ right_GC) / np.where(there_RC > 0, there_RC, 1.0)
        return np.asarray(shares_RC.sum(axis=1) / (there_RC > 0).sum(axis=1))

    return statistic


def _charts(shares: dict[str, Interval], kept: dict[str, Retention], retention: float, n: int) -> tuple[Chart, ...]:
    ladder = tuple(
        Series(role, (Point(role, x.value * 100, x.low * 100, x.high * 100, n),), role) for role, x in shares.items()
    )
    charts = [Chart("ladder", "From the floor to the teacher: accuracy, higher is better", "", "%", ladder)]
    if kept:
        rows = tuple(
            Series(role, (Point(role, r.value * 100, r.low * 100, r.high * 100, n),), role) for role, r in kept.items()
        )
        marks = (Mark(retention * 100, "asked for"), Mark(100.0, "teacher"))
        charts.insert(0, Chart("forest", "Accuracy kept above the floor", "", "% of the teacher's", rows, marks))
    return tuple(charts)
