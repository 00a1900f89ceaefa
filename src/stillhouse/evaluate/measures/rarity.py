"""Rare words: what is lost on them."""

from __future__ import annotations

import numpy as np

from stillhouse.evaluate import statistics, wording
from stillhouse.evaluate.records import Chart, Estimate, Finding, Items, Mark, Point, Series
from stillhouse.evaluate.wording import estimate, number, say

_QUESTION = "What does the student lose on rare words?"
_ROLES = ("before", "control", "direct", "student")


def rarity(items: Items, *, bins: int = 5) -> Finding:
    """What does the student lose on rare words?

    Tokens in equal parts by how often they were a label in training, and in each the nats that a role needs more than the teacher.
    Averages are ruled by common words; names and terms go first, and show here. No verdict.

    Args:
        items: the table; of teacher and floor, whose loss says how rare a token is.
        bins: how many parts.
    """
    roles = [role for role in _ROLES if items.has(role)]
    if not items.has("teacher") or not items.has("floor") or "student" not in roles:
        return wording.not_measured(
            "rarity", _QUESTION, "teacher, student and training counts were not scored on the same text"
        )
    if items.bytes is None:
        return wording.not_measured("rarity", _QUESTION, "classes are no words")
    if items.documents < 2 or items.size < 20 * bins:
        return wording.not_measured("rarity", _QUESTION, f"{items.size:,} tokens are too few for {bins} parts")
    rare_N = items.roles["floor"].nll
    edges = np.unique(np.quantile(rare_N, np.linspace(0, 1, bins + 1))[1:-1])
    part_N = np.searchsorted(edges, rare_N, side="left")
    teacher_N = items.roles["teacher"].nll
    estimates: list[Estimate] = []
    lines = []
    lost = {}
    for role in roles:
        points = []
        for part in range(len(edges) + 1):
            rows = part_N == part
            n = int(rows.sum())
            if n < 20 or len(np.unique(items.document[rows])) < 2:
                continue
            found = statistics.mean((items.roles[role].nll - teacher_N)[rows], items.document[rows])
            once_in = float(np.exp(rare_N[rows].mean()))
            estimates.append(estimate(f"loss on tokens seen once in {once_in:,.0f}", role, found, "nats", n))
            points.append(Point(float(np.log10(once_in)), found.value, found.low, found.high, n))
            if role == "student":
                lost[once_in] = found
        lines.append(Series(role, tuple(points), role))
    if len(lost) < 2:
        return wording.not_measured("rarity", _QUESTION, "all tokens are about as common as each other")
    common, rare = lost[min(lost)], lost[max(lost)]
    sentence = (
        f"On its commonest tokens the student needs {say(common, 'nats')} more than the teacher, on its rarest {say(rare, 'nats')}"
        + (f": {number(rare.value / common.value)} times as much." if common.low > 0 and rare.low > 0 else ".")
    )
    chart = Chart(
        "line",
        "Loss beyond the teacher's, from common to rare tokens",
        "log10 of: once in so many tokens",
        "nats",
        tuple(lines),
        (Mark(0.0, "teacher"),),
    )
    limits = ("Rare by the labels of this training text, not by the language.", *wording.sample_limits(items))
    return Finding("rarity", _QUESTION, "DESCRIPTIVE", sentence, "", tuple(estimates), (chart,), limits)
