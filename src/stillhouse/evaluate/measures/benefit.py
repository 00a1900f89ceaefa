"""The student against the same student without the teacher, and against itself before training."""

from __future__ import annotations

import math

from stillhouse.evaluate import statistics, wording
from stillhouse.evaluate.records import Chart, Estimate, Finding, Items, Mark, Point, Series, Verdict
from stillhouse.evaluate.statistics import Interval
from stillhouse.evaluate.wording import estimate, say, with_interval

_QUESTION = "Did the teacher help?"
_OTHER = {
    "control": "the same student trained without the teacher",
    "before": "the student before training",
}


def benefit(items: Items) -> Finding:
    """Did the teacher help?

    Paired differences by document of bits per byte (and of the KL from the teacher), other − student: above 0 the student
    is better. PASS if the 95 % interval against the control (same student, data and budget, no teacher) lies above 0, FAIL
    if below. PGR = (control − student) / (control − teacher): the share of the way to the teacher that the teacher's
    signal bought (Burns et al. 2023, arXiv:2312.09390, §3).

    Args:
        items: the table; student and control are needed for a verdict.
    """
    if not items.has("student"):
        return wording.not_measured("benefit", _QUESTION, "the student was not scored")
    if items.documents < 2:
        return wording.not_measured("benefit", _QUESTION, "an interval needs two documents or more")
    n = items.size
    estimates: list[Estimate] = []
    gains: dict[str, Interval] = {}
    unit = items.loss("student")[2]
    for other in (role for role in _OTHER if items.has(role)):
        loss_N, size_N, _ = items.loss(other)
        gains[other] = statistics.ratio(loss_N - items.loss("student")[0], size_N, items.document)
        estimates.append(estimate(f"{unit} saved against {other}", "student", gains[other], unit, n))
        if items.has(other, "kl") and items.has("student", "kl"):
            nearer_N = items.roles[other].column("kl") - items.roles["student"].column("kl")
            nearer = statistics.mean(nearer_N, items.document)
            estimates.append(estimate(f"KL from the teacher, {other} − student", "student", nearer, "nats", n))

    charts = (
        Chart(
            "forest",
            f"What the student is better by: {unit}, above 0 is better",
            "",
            unit,
            tuple(
                Series(f"against {other}", (Point(f"against {other}", g.value, g.low, g.high, n),), "student")
                for other, g in gains.items()
            ),
            (Mark(0.0, "no difference"),),
        ),
    )
    limits = (
        "Judged on the loss on held-out text, at the budget of this run; a longer run may end otherwise.",
        "One control run: part of the difference can be luck of the training.",
        *wording.sample_limits(items),
    )
    learned = f" Against {_OTHER['before']} it saves {say(gains['before'], unit)}." if "before" in gains else ""
    if "control" not in gains:
        return Finding(
            "benefit",
            _QUESTION,
            "NOT MEASURED",
            f"Not measured: there is no control, the same student trained without the teacher.{learned}",
            "Set evaluate.control to true to train one, or take benefit out of evaluate.measures.",
            tuple(estimates),
            charts if gains else (),
            limits,
        )

    gain = gains["control"]
    way = ""
    if items.has("teacher"):
        recovered = statistics.retention(
            items.loss("teacher")[0],
            items.loss("student")[0],
            items.loss("control")[0],
            items.document,
            size_N=items.loss("student")[1],
            margin=0.0,
            lower_is_better=True,
        )
        value, low, high = (x * 100 for x in (recovered.value, recovered.low, recovered.high))
        if not math.isnan(recovered.value):  # it is where the teacher is not clearly better than the control
            estimates.append(Estimate("performance gap recovered", "student", value, low, high, "%", n))
            way = f", {with_interval(value, low, high, '%')} of the way from it to the teacher"

    verdict: Verdict
    if gain.low > 0:
        verdict, sentence = (
            "PASS",
            f"The teacher helped: the student saves {say(gain, unit)} against {_OTHER['control']}{way}.",
        )
        reason = "The interval of the paired difference lies above 0."
    elif gain.high < 0:
        verdict = "FAIL"
        sentence = (
            f"The teacher did harm: the student needs {say(gain.scaled(-1), unit)} more than {_OTHER['control']}."
        )
        reason = "The interval of the paired difference lies below 0."
    else:
        verdict = "INCONCLUSIVE"
        sentence = f"It cannot be told whether the teacher helped: the student saves {say(gain, unit)} against {_OTHER['control']}."
        reason = (
            "Student and control score the same on every document: they may be the same model."
            if gain.value == 0.0 and gain.se == 0.0
            else "The interval of the paired difference includes 0. "
            + wording.to_decide(statistics.clusters_needed(gain, alpha=0.025), gain.clusters)
        )
    return Finding("benefit", _QUESTION, verdict, sentence + learned, reason, tuple(estimates), charts, limits)
