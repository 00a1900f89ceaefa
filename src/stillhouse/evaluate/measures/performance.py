"""Task performance of a language model on held-out text: bits per byte, and what is kept of the teacher's skill."""

from __future__ import annotations

from stillhouse.evaluate import statistics, wording
from stillhouse.evaluate.records import Chart, Estimate, Finding, Items, Mark, Point, Series
from stillhouse.evaluate.wording import count, estimate, number, plain, say, with_interval

_QUESTION = "How much of the teacher's skill does the student keep?"
_LADDER = ("floor", "before", "control", "direct", "student", "teacher")


def performance(items: Items, *, retention: float = 0.9, margin: float = 0.03) -> Finding:
    """How much of the teacher's skill does the student keep?

    R = (floor − student) / (floor − teacher) of the bits per byte, as sums: 0 is a unigram model of the labels, 1 the
    teacher. PASS and FAIL by a paired non-inferiority test with documents as clusters (``statistics.retention``).

    Args:
        items: the table; roles teacher, student and floor are needed.
        retention: the share that must be kept.
        margin: bits per byte (nats per item without bytes) by which the teacher must surely be above the floor.
    """
    for role in ("teacher", "student", "floor"):
        if not items.has(role):
            return wording.not_measured("performance", _QUESTION, f"the {role} was not scored")
    if items.documents < 2:
        return wording.not_measured("performance", _QUESTION, "an interval needs two documents or more")
    n = items.size
    roles = [role for role in _LADDER if items.has(role)]
    estimates: list[Estimate] = []

    costs = {}
    for role in roles:
        loss_N, size_N, unit = items.loss(role)
        costs[role] = statistics.ratio(loss_N, size_N, items.document)
        estimates.append(estimate(unit, role, costs[role], unit, n))
    if unit == "bits per byte":
        estimates += [
            estimate("nats per token", role, statistics.mean(items.roles[role].nll, items.document), "nats", n)
            for role in roles
        ]

    kept = {}
    for role in ("student", "control", "direct", "before"):
        if items.has(role):
            kept[role] = statistics.retention(
                items.loss("teacher")[0],
                items.loss(role)[0],
                items.loss("floor")[0],
                items.document,
                size_N=size_N,
                threshold=retention,
                margin=margin,
                lower_is_better=True,
            )
            r = kept[role]
            estimates.append(
                Estimate("skill kept above the floor", role, r.value * 100, r.low * 100, r.high * 100, "%", n)
            )
            raw = statistics.ratio(items.roles[role].nll, items.roles["teacher"].nll, items.document)
            estimates.append(estimate(f"raw ratio of {unit}, {role} ÷ teacher", role, raw, "×", n))
    for role in roles:
        if items.has(role, "correct"):
            right = wording.within(statistics.mean(items.roles[role].column("correct"), items.document), 0, 1)
            estimates.append(estimate("top-1 accuracy", role, right.scaled(100), "%", n))

    result = kept["student"]
    asked = f"{plain(retention * 100)} %"
    numbers = (
        f"{say(costs['student'], unit)}, teacher {number(costs['teacher'].value)}, floor {number(costs['floor'].value)}"
    )
    if result.verdict == "UNINFORMATIVE":
        seen = "is not clearly better" if result.gap.value < margin else "cannot be shown to be better"
        sentence = (
            f"The teacher {seen} than a unigram model on this text ({numbers}): there is nothing to compare with."
        )
        reason = (
            f"The teacher is above the floor by {say(result.gap, unit)}, from {count(result.gap.clusters, 'document')}; the lower "
            f"bound must reach {plain(margin)}, and the difference three standard errors."
        )
    elif result.verdict == "NOT MEASURED":
        sentence = "Not measured: one document holds everything that counts."
        reason = "An interval needs two documents or more."
    else:
        share = with_interval(result.value * 100, result.low * 100, result.high * 100, "%")
        sentence = (
            f"The student keeps {share} of the teacher's skill above the unigram floor ({numbers}); asked for: {asked}."
        )
        reason = wording.kept_reason(result, asked)

    return Finding(
        "performance",
        _QUESTION,
        result.verdict,
        sentence,
        reason,
        tuple(estimates),
        (
            Chart(
                "forest",
                "Skill kept above the unigram floor",
                "",
                "% of the teacher's",
                tuple(
                    Series(role, (Point(role, r.value * 100, r.low * 100, r.high * 100, n),), role)
                    for role, r in kept.items()
                ),
                (Mark(retention * 100, "asked for"), Mark(100.0, "teacher")),
            ),
            Chart(
                "ladder",
                f"From the floor to the teacher: {unit}, lower is better",
                "",
                unit,
                tuple(Series(role, (Point(role, c.value, c.low, c.high, n),), role) for role, c in costs.items()),
            ),
        ),
        (
            "An average over text: a capability that little of it needs can be lost without showing here.",
            wording.ONE_SIDED,
            *wording.sample_limits(items),
        ),
    )
