"""Reasoning: what is lost with every step."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from stillhouse.evaluate import statistics, steps, wording
from stillhouse.evaluate.answers import Answered, Answers
from stillhouse.evaluate.records import Chart, Estimate, Finding, FloatArray, Point, Series, Verdict
from stillhouse.evaluate.skill import skill
from stillhouse.evaluate.statistics import Retention
from stillhouse.evaluate.wording import estimate, number, plain

_QUESTION = "Does the student keep facts and lose the steps that put them together?"


def reasoning(
    answers: Answers, *, several: float = 0.8, beyond_one: float = 15.0, margin: float = 0.03,
    direct: dict[str, str] | None = None, seed: int = 0,
) -> Finding:  # fmt: skip
    """Does the student keep facts and lose the steps that put them together?

    Tasks whose questions say how many ``steps`` they take. Kept skill at one step and at several; the reliability of a step p, from
    accuracy(k) ≈ floor + (1 − floor) · p^k, and the horizon ln ½ / ln p: steps after which half is lost. PASS if ``several`` of the
    skill at several steps is kept and it surely is not ``beyond_one`` pp less than at one step; FAIL if the first is refuted, or the
    second surely fails. Described beside it: of written steps how many are true and whether the answer follows from them; what writing
    them is worth; and, where a task asks the parts of its questions too, how often all parts are known and the whole is not.

    Args:
        answers: the table; of teacher and student.
        several: share of the teacher's skill at two steps and more that must be kept.
        beyond_one: pp of kept skill by which several steps may lie below one.
        margin: share of the questions by which the teacher must surely be above the floor.
        direct: task in which steps are written → the one that asks the same questions without; worked_sums → chains if not given.
        seed: of the bootstrap.
    """
    pairs = {"worked_sums": "chains"} if direct is None else direct
    asked = [task for task in answers.having("teacher", "student") if "steps" in task.tags and task.kind != "text"]
    if not asked:
        return wording.not_measured("reasoning", _QUESTION, "no task tells how many steps its questions take")
    estimates: list[Estimate] = []
    series: list[Series] = []
    verdicts: list[tuple[Verdict, str, str]] = []
    for task in asked:
        steps_N = np.array([int(s) if s.isdigit() else 0 for s in task.tags["steps"].tolist()])
        for role in ("teacher", "student"):
            points = []
            for k in sorted(set(steps_N.tolist()) - {0}):
                rows = steps_N == k
                share = statistics.share(task.score(role)[rows], task.cluster[rows]).scaled(100)
                estimates.append(estimate(f"{task.task}: right at {k} steps", role, share, "%", int(rows.sum())))
                points.append(Point(float(k), share.value, share.low, share.high, int(rows.sum())))
            series.append(Series(f"{task.task}, {role}", tuple(points), role))
            horizon = _horizon(task, role, steps_N, seed)
            if horizon:
                estimates += horizon
            estimates += steps.written(task, role)
        estimates += steps.put_together(task)
        if (other := answers.named(pairs.get(task.task, ""))) is not None:
            estimates += steps.worth(task, other)
        verdicts.append(_judged(task, steps_N, several, beyond_one, margin, estimates))
    chart = Chart("line", "Right by the number of steps", "steps", "% right", tuple(series))
    order: tuple[Verdict, ...] = ("FAIL", "INCONCLUSIVE", "PASS", "UNINFORMATIVE")
    verdict = next(v for v in order if any(v == each[0] for each in verdicts))
    if verdict == "PASS" and any(each[0] == "UNINFORMATIVE" for each in verdicts):
        told = [each for each in verdicts if each[0] != "UNINFORMATIVE"]
    else:
        told = [each for each in verdicts if each[0] == verdict]
    sentence = " ".join(each[1] for each in told)
    reason = " ".join(each[2] for each in verdicts if each[2])
    limits = (
        "Steps of made-up questions: what is lost of real reasoning may differ.",
        wording.ONE_SIDED,
        wording.ONE_SEED,
    )
    return Finding("reasoning", _QUESTION, verdict, sentence, reason, tuple(estimates), (chart,), limits)


def _judged(
    task: Answered, steps_N: NDArray[np.int64], several: float, beyond_one: float, margin: float, estimates: list[Estimate]
) -> tuple[Verdict, str, str]:  # fmt: skip
    """Verdict, sentence and reason of one task."""
    sides = {"one step": steps_N == 1, "several steps": steps_N >= 2}
    kept: dict[str, Retention] = {}
    for name, rows in sides.items():
        if not rows.any():
            return "UNINFORMATIVE", f"{task.task} has no questions of {name}.", ""
        one = skill(task.taken(rows), ("student",), threshold=several, margin=margin)
        if one.reason:
            return (
                "UNINFORMATIVE",
                f"{task.task}, {name}: {one.reason}.",
                f"{task.task}: nothing can be said of {name}.",
            )
        kept[name] = one.kept["student"]
        value, low, high = (x * 100 for x in (kept[name].value, kept[name].low, kept[name].high))
        estimates.append(
            Estimate(f"{task.task}: skill kept at {name}", "student", value, low, high, "%", int(rows.sum()))
        )
    one_step, more = kept["one step"], kept["several steps"]
    gap = statistics.difference(more, one_step).scaled(100)
    low, high = gap.bounds(0.9)
    n = int((steps_N >= 1).sum())
    estimates.append(estimate(f"{task.task}: kept at several steps − at one", "student", gap, "pp", n))
    numbers = (
        f"{task.task}: of the teacher's skill the student keeps {number(one_step.value * 100)} % at one step and "
        f"{number(more.value * 100)} % [{number(more.low * 100)}, {number(more.high * 100)}] at several."
    )
    if more.verdict == "FAIL" or high < -beyond_one:
        what = (
            f"less than {plain(several * 100)} %"
            if more.verdict == "FAIL"
            else f"surely {plain(beyond_one)} pp less than at one step"
        )
        return "FAIL", numbers, f"{task.task}: it keeps {what} at several steps."
    if more.verdict == "PASS" and low > -beyond_one:
        return "PASS", numbers, ""
    open_ones = wording.to_decide(more.needed, more.gap.clusters, "question") if more.verdict != "PASS" else (
        f"several steps may keep up to {number(-low)} pp less than one.")  # fmt: skip
    return "INCONCLUSIVE", numbers, f"{task.task}: {open_ones}"


def _horizon(task: Answered, role: str, steps_N: NDArray[np.int64], seed: int) -> list[Estimate]:
    """Reliability of a step and how many halve it, with bootstrap intervals; none where nothing or everything is right."""
    rows = steps_N >= 1
    index_N, clusters = statistics.cluster_index(task.cluster[rows])
    levels = sorted(set(steps_N[rows].tolist()))
    floor_N, right_N, k_N = task.floor_N[rows], task.score(role)[rows], steps_N[rows]
    counts, rights, floors = [], [], []
    for k in levels:
        at = (k_N == k).astype(np.float64)
        counts.append(np.bincount(index_N, at, clusters))
        rights.append(np.bincount(index_N, at * right_N, clusters))
        floors.append(float(floor_N[k_N == k].mean()))
    n_GL, right_GL = np.stack(counts, axis=1), np.stack(rights, axis=1)
    c_L, k_L = np.array(floors), np.array(levels, dtype=np.float64)
    grid_P = np.linspace(0.005, 0.999, 399)
    p_PL = np.clip(c_L + (1 - c_L) * grid_P[:, None] ** k_L, 1e-9, 1 - 1e-9)

    def likeliest(weights_RG: FloatArray) -> FloatArray:
        all_RL, right_RL = weights_RG @ n_GL, weights_RG @ right_GL
        ll_RP = right_RL @ np.log(p_PL).T + (all_RL - right_RL) @ np.log1p(-p_PL).T
        return np.asarray(grid_P[ll_RP.argmax(axis=1)])

    p = statistics.bootstrap(likeliest, clusters, seed=seed, replicates=500, kind="percentile")
    if not grid_P[0] < p.value < grid_P[-1]:
        return []
    value, low, high = (math.log(0.5) / math.log(x) for x in (p.value, max(p.low, 1e-3), min(p.high, 0.9999)))
    n = int(rows.sum())
    return [
        estimate(f"{task.task}: reliability of a step", role, p.scaled(100), "%", n),
        Estimate(f"{task.task}: horizon", role, value, low, high, "steps", n),
    ]
