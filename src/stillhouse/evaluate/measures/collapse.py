"""Collapse: parts of tasks in which far less is kept than elsewhere."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillhouse.evaluate import statistics, wording
from stillhouse.evaluate.answers import Answered, Answers
from stillhouse.evaluate.records import Chart, Estimate, Finding, Mark, Point, Series, Verdict
from stillhouse.evaluate.skill import floor_of
from stillhouse.evaluate.statistics import Retention
from stillhouse.evaluate.wording import count, plain

_QUESTION = "Is there a part of its skills in which the student collapsed?"
_FALSE = 0.10  # share of false ones among the suspects
_MOST_SHOWN = 20
_FEWEST = 6  # clusters: with fewer nothing can be shown of a slice


@dataclass(frozen=True)
class _Slice:
    """Questions of a task that share a tag.

    Args:
        name: which.
        n: how many questions.
        kept: on all of them, against the threshold.
        halves: on those to discover on, on those to confirm on; None where one of the two says nothing.
    """

    name: str
    n: int
    kept: Retention
    halves: tuple[Retention, Retention] | None


def collapse(
    answers: Answers, *, least: float = 0.6, smallest: int = 50, margin: float = 0.03, seed: int = 0
) -> Finding:
    """Is there a part of its skills in which the student collapsed?

    Slices are whole tasks and the questions that share a tag: a field, a number of steps, a subject. Half of the clusters, chosen
    by hash, point out suspects (Benjamini–Hochberg at 10 %); the other half confirms them (Holm at 5 %), so that a slice is not
    condemned by the luck that drew attention to it. FAIL if one is confirmed to keep less than ``least``; PASS if each is shown
    to keep more, on all of its questions; slices in which the teacher shows no skill do not count.

    Args:
        answers: the table; of teacher and student.
        least: the share of the teacher's skill that every slice must keep.
        smallest: questions of a slice, at least.
        margin: share of the questions by which the teacher must surely be above the floor in a slice.
        seed: of the choice of halves.
    """
    asked = [task for task in answers.having("teacher", "student") if task.kind != "text"]
    slices = [one for task in asked for one in _slices(task, least, smallest, margin, seed)]
    if not slices:
        reason = f"no task has {smallest} questions of a kind in which the teacher shows skill"
        return wording.not_measured("collapse", _QUESTION, reason)
    confirmed = _confirmed(slices)
    open_ones = [one for one in slices if one.kept.verdict != "PASS"]
    shrunk = _shrunk([one.kept for one in slices])
    order = sorted(range(len(slices)), key=lambda i: shrunk[i])
    worst = slices[order[0]]
    share = wording.with_interval(worst.kept.value * 100, worst.kept.low * 100, worst.kept.high * 100, "%")
    asked_for = f"{plain(least * 100)} %"
    verdict: Verdict
    if confirmed:
        verdict = "FAIL"
        named = "; ".join(one.name for one in confirmed)
        sentence = f"The student collapsed in {count(len(confirmed), 'part')} of its skills: {named}."
        reason = (
            f"On the half that pointed them out and on the other half it keeps less than {asked_for} there (Holm, 5 %)."
        )
    elif not open_ones:
        verdict, sentence = (
            "PASS",
            f"No collapse in {count(len(slices), 'slice')}: the least is kept of {worst.name}, {share}.",
        )
        reason = f"Every slice keeps {asked_for} or more, each tested at 5 %."
    else:
        verdict = "INCONCLUSIVE"
        sentence = (
            f"No collapse is confirmed in {count(len(slices), 'slice')}; the least is kept of {worst.name}, {share}."
        )
        needed = [one.kept.needed for one in open_ones if one.kept.needed is not None]
        more = f" The hardest to decide takes about {max(needed):,} questions." if needed else ""
        reason = f"Of {count(len(open_ones), 'slice')} it cannot be shown that {asked_for} is kept.{more}"
    estimates = []
    for i in order:
        one = slices[i]
        value, low, high = (x * 100 for x in (one.kept.value, one.kept.low, one.kept.high))
        estimates.append(Estimate(f"{one.name}: skill kept", "student", value, low, high, "%", one.n))
        estimates.append(
            Estimate(f"{one.name}: shrunk to the others", "student", shrunk[i] * 100, None, None, "%", one.n)
        )
    rows = tuple(
        Point(one.name, one.kept.value * 100, one.kept.low * 100, one.kept.high * 100, one.n)
        for one in (slices[i] for i in order[:_MOST_SHOWN])
    )
    chart = Chart(
        "forest",
        "Skill kept above the floor, the weakest slices first",
        "",
        "% of the teacher's",
        (Series("student", rows, "student"),),
        (Mark(least * 100, "least"), Mark(100.0, "teacher")),
    )
    limits = (
        "Slices are those that tasks declare by their tags; a weakness that cuts across them is not seen.",
        "The worst of many is worse by luck: the shrunk value is the better guess of it.",
        wording.ONE_SIDED,
        wording.ONE_SEED,
    )
    return Finding("collapse", _QUESTION, verdict, sentence, reason, tuple(estimates), (chart,), limits)


def _slices(task: Answered, least: float, smallest: int, margin: float, seed: int) -> Iterator[_Slice]:
    """The task as a whole, and by each value of each tag."""
    floor_N = floor_of(task).score_N
    teacher_N, student_N = task.score("teacher"), task.score("student")
    first_N = np.array([_first(seed, task.task, c) for c in task.cluster.tolist()])
    parts: list[tuple[str, NDArray[np.bool_]]] = [(task.task, np.ones(task.size, dtype=bool))]
    for tag, value_N in task.tags.items():
        values = sorted(set(value_N.tolist()) - {""})
        if len(values) > 1:
            parts += [(f"{task.task}, {tag} {value}", np.asarray(value_N == value)) for value in values]
    for name, rows in parts:
        if int(rows.sum()) < smallest or len(np.unique(task.cluster[rows])) < _FEWEST:
            continue

        def kept(of: NDArray[np.bool_]) -> Retention:
            return statistics.retention(
                teacher_N[of], student_N[of], floor_N[of], task.cluster[of], threshold=least, margin=margin
            )

        whole = kept(rows)
        if not math.isfinite(whole.value):
            continue
        halves = tuple(kept(rows & side) if (rows & side).any() else None for side in (first_N, ~first_N))
        one, other = halves
        both = (one, other) if one and other and all(math.isfinite(x.value) for x in (one, other)) else None
        yield _Slice(name, int(rows.sum()), whole, both)


def _first(seed: int, task: str, cluster: int) -> bool:
    """Whether a cluster is of the half to discover on."""
    return hashlib.sha256(f"{seed}/{task}/{cluster}".encode()).digest()[0] % 2 == 0


def _confirmed(slices: Sequence[_Slice]) -> list[_Slice]:
    """Suspects of the one half that the other half confirms."""
    halved = [(one, one.halves) for one in slices if one.halves]
    if not halved:
        return []
    listed = statistics.benjamini_hochberg([halves[0].p_below for _, halves in halved])
    suspects = [pair for pair, p in zip(halved, listed, strict=True) if p <= _FALSE]
    if not suspects:
        return []
    adjusted = statistics.holm([halves[1].p_below for _, halves in suspects])
    return [one for (one, _), p in zip(suspects, adjusted, strict=True) if p <= 0.05]


def _shrunk(kept: Sequence[Retention]) -> list[float]:
    """Each share moved towards the mean by how little is known of it."""
    return statistics.shrunk([one.value for one in kept], [max(1e-6, (one.high - one.low) / 3.92) for one in kept])
