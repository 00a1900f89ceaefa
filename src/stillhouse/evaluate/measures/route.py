"""The student that came by stages against the same one taught by the teacher itself."""

from __future__ import annotations

from stillhouse.evaluate import statistics, wording
from stillhouse.evaluate.records import Chart, Finding, Items, Mark, Point, Series, Verdict
from stillhouse.evaluate.wording import estimate, say

_QUESTION = "Did the stages on the way help?"
_OTHER = "the same student taught by the teacher without stages, on as many tokens in all"


def route(items: Items) -> Finding:
    """Did the stages on the way help?

    The paired difference by document of bits per byte, direct − student: above 0 the student that came by stages is better
    (teacher assistants: Mirzadeh et al. 2020, arXiv:1902.03393, §4). PASS if its 95 % interval lies above 0, FAIL if below.

    Args:
        items: the table; student and direct are needed.
    """
    if not items.has("student") or not items.has("direct"):
        return wording.not_measured("route", _QUESTION, "there is no student without stages (evaluate.direct)")
    if items.documents < 2:
        return wording.not_measured("route", _QUESTION, "an interval needs two documents or more")
    n = items.size
    unit = items.loss("student")[2]
    loss_N, size_N, _ = items.loss("direct")
    gain = statistics.ratio(loss_N - items.loss("student")[0], size_N, items.document)
    estimates = [estimate(f"{unit} saved against direct", "student", gain, unit, n)]
    if items.has("direct", "kl") and items.has("student", "kl"):
        nearer_N = items.roles["direct"].column("kl") - items.roles["student"].column("kl")
        nearer = statistics.mean(nearer_N, items.document)
        estimates.append(estimate("KL from the teacher, direct − student", "student", nearer, "nats", n))
    verdict: Verdict
    if gain.low > 0:
        verdict, sentence = "PASS", f"The stages helped: the student saves {say(gain, unit)} against {_OTHER}."
        reason = "The interval of the paired difference lies above 0."
    elif gain.high < 0:
        verdict = "FAIL"
        sentence = f"The stages did harm: the student needs {say(gain.scaled(-1), unit)} more than {_OTHER}."
        reason = "The interval of the paired difference lies below 0."
    else:
        verdict = "INCONCLUSIVE"
        sentence = f"It cannot be told whether the stages helped: the student saves {say(gain, unit)} against {_OTHER}."
        needed = statistics.clusters_needed(gain, alpha=0.025)
        reason = f"The interval of the paired difference includes 0. {wording.to_decide(needed, gain.clusters)}"
    chart = Chart(
        "forest",
        f"What the stages bought: {unit}, above 0 is better",
        "",
        unit,
        (Series("against direct", (Point("against direct", gain.value, gain.low, gain.high, n),), "student"),),
        (Mark(0.0, "no difference"),),
    )
    limits = (
        "Equal tokens are not equal arithmetic: a step of a larger assistant costs more than one of the student.",
        "One run of each: part of the difference can be luck of the training.",
        *wording.sample_limits(items),
    )
    return Finding("route", _QUESTION, verdict, sentence, reason, tuple(estimates), (chart,), limits)
