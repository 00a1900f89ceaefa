"""Whether texts of none of the classes are noticed, where one class stands for all of them."""

from __future__ import annotations

from collections.abc import Sequence

from stillhouse.errors import RecipeError, did_you_mean, fail
from stillhouse.evaluate import statistics, wording
from stillhouse.evaluate.records import Chart, Finding, Items, Point, Series
from stillhouse.evaluate.wording import estimate, number, say

_QUESTION = "Are texts noticed that are out of scope?"


def out_of_scope(items: Items, classes: Sequence[str] = (), *, outside: str) -> Finding:
    """Are texts noticed that are out of scope?

    Asked of CLINC150 by Larson et al. 2019 (arXiv:1909.02027). Recall of the class that stands for them, its precision, and the accuracy within scope, of every role; the paired
    difference of the recalls. Described, not judged: which of the two must not be lost is for the user to say.

    Args:
        items: the table.
        classes: of the data, in their order.
        outside: name of the class that stands for all that is out of scope.

    Raises:
        RecipeError: there is no such class.
    """
    if outside not in classes:
        raise fail(
            RecipeError, "out_of_scope.outside", f"there is no class '{outside}'", did_you_mean(outside, list(classes))
        )
    number_of = list(classes).index(outside)
    out_N = items.label == number_of
    if not items.has("student", "said") or not out_N.any() or out_N.all():
        return wording.not_measured(
            "out_of_scope", _QUESTION, "there are no such texts, or what was said is not stored"
        )
    estimates, recalls = [], {}
    for role in ("before", "control", "direct", "student", "teacher"):
        if not items.has(role, "said"):
            continue
        said_N, right_N = items.roles[role].column("said"), items.roles[role].column("correct")
        shares = {
            "recall out of scope": (right_N, out_N),
            "precision out of scope": (right_N, said_N == number_of),
            "accuracy within scope": (right_N, ~out_N),
        }
        for label, (hit_N, among_N) in shares.items():
            if among_N.any():
                share = statistics.mean(hit_N[among_N], items.document[among_N])
                share = wording.within(share, 0, 1).scaled(100)
                estimates.append(estimate(label, role, share, "%", int(among_N.sum())))
                if label.startswith("recall"):
                    recalls[role] = share
    numbers = f"{say(recalls['student'], '%')} of them"
    if "teacher" in recalls:
        lost_N = items.roles["teacher"].column("correct") - items.roles["student"].column("correct")
        lost = statistics.mean(lost_N[out_N], items.document[out_N]).scaled(100)
        estimates.append(
            estimate("recall out of scope lost, teacher − student", "student", lost, "pp", int(out_N.sum()))
        )
        numbers += f", the teacher {number(recalls['teacher'].value)} %, a difference of {say(lost, 'pp')}"
    sentence = f"Of {wording.count(int(out_N.sum()), 'text')} out of scope the student notices {numbers}."
    ladder = tuple(
        Series(role, (Point(role, x.value, x.low, x.high, int(out_N.sum())),), role) for role, x in recalls.items()
    )
    charts = (Chart("ladder", "Texts out of scope that are noticed", "", "%", ladder),)
    reason = "What is noticed out of scope is bought with what is refused within it: see the accuracy within scope."
    limits = tuple(wording.sample_limits(items))
    return Finding("out_of_scope", _QUESTION, "DESCRIPTIVE", sentence, reason, tuple(estimates), charts, limits)
