"""What share of the items the student can serve at its teacher's accuracy, if the rest goes to the teacher."""

from __future__ import annotations

from typing import Any

import numpy as np

from stillhouse.evaluate import statistics
from stillhouse.evaluate.records import Items


def advise(chosen_on: Items, tried_on: Items, cost: float) -> dict[str, Any] | None:
    """A threshold of confidence, chosen on items that rounds may look at and tried on those that nobody looked at before.

    Chosen is the lowest threshold above which the student is right at least as often as the teacher is on all items (the
    risk–coverage curve of Geifman and El-Yaniv 2017, arXiv:1705.08500). Tried: which share is above it, how often the student is right
    there, and how often both together are right.

    Args:
        chosen_on: of discover and confirm.
        tried_on: of the sealed part.
        cost: of an answer of the student, as a share of the teacher's.

    Returns:
        the advice as plain values; None where confidences were not scored.
    """
    if not all(
        items.has(role, "conf", "correct") for items in (chosen_on, tried_on) for role in ("teacher", "student")
    ):
        return None
    student = chosen_on.roles["student"]
    goal = float(chosen_on.roles["teacher"].column("correct").mean())
    threshold = _threshold(student.column("conf"), student.column("correct"), goal)
    served_N = tried_on.roles["student"].column("conf") >= threshold
    right_N, theirs_N = (tried_on.roles[role].column("correct") for role in ("student", "teacher"))
    share = statistics.share(served_N.astype(np.float64), tried_on.document)
    together = statistics.mean(np.where(served_N, right_N, theirs_N) - theirs_N, tried_on.document)
    return {
        "threshold": threshold if np.isfinite(threshold) else None,
        "served": [round(x, 6) for x in (share.value, share.low, share.high)],
        "right_where_served": round(float(right_N[served_N].mean()), 6) if served_N.any() else None,
        "teacher_right": round(float(theirs_N.mean()), 6),
        "both_minus_teacher": [round(x, 6) for x in (together.value, together.low, together.high)],
        "cost_of_student": round(cost, 6),
        "saved": round(share.value - cost, 6),  # the student answers first, also what it then defers
    }


def _threshold(conf_N: np.ndarray, correct_N: np.ndarray, goal: float) -> float:
    """The lowest confidence at and above which the share that is right reaches the goal; infinite if none does."""
    order = np.argsort(-conf_N, kind="stable")
    right_N = np.cumsum(correct_N[order]) / np.arange(1, len(order) + 1)
    last_of_tie = np.append(np.diff(conf_N[order]) != 0, True)
    reached = np.flatnonzero((right_N >= goal) & last_of_tie)
    return float(conf_N[order][reached[-1]]) if len(reached) else float("inf")
