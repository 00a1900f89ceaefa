"""What these items can decide: for each gate the smallest loss that would have been seen, and the items that a PASS takes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from stillhouse.evaluate import statistics
from stillhouse.evaluate.answers import Answered, Answers
from stillhouse.evaluate.records import FloatArray, Items
from stillhouse.evaluate.skill import Skill, skill
from stillhouse.evaluate.statistics import Interval, Retention

CLOSE = 0.7
"""Latent correlation of teacher and student that is assumed before there is a student."""


@dataclass(frozen=True)
class Power:
    """One gate.

    Args:
        gate: name of the measure.
        of: task or text.
        rule: what must hold, in words.
        items: how many there are.
        clusters: likewise.
        one: what a cluster is: ``document`` or ``question``.
        seen: the smallest deviation from the rule's bound that these items decide with 80 % power; None where that is not known.
        unit: of ``seen``.
        needed: clusters at which a student as good as the teacher passes with 80 % power; None where nothing would do.
        why: why nothing can be decided; empty where something can.
    """

    gate: str
    of: str
    rule: str
    items: int
    clusters: int
    one: str
    seen: float | None
    unit: str
    needed: int | None
    why: str = ""

    @property
    def passes(self) -> bool:
        """Whether a student as good as the teacher would pass on these items."""
        return not self.why and self.needed is not None and self.needed <= self.clusters

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"possible": self.passes}


def power(items: Items, answers: Answers, *, retention: float = 0.9) -> list[Power]:
    """What the stored tables can decide, gate by gate.

    Args:
        items: the table of text; may be empty.
        answers: the table of answers; may be empty. Without a student the spread is guessed from the teacher alone.
        retention: the share that must be kept.
    """
    found = []
    if items.has("teacher") and items.has("floor") and items.has("student") and items.documents > 1:
        found.append(_of_text(items, retention))
        if items.has("student", "conf", "correct"):
            found.append(_of_gap(items))
    for task in answers.tasks:
        if "teacher" not in task.roles or task.kind == "text":
            continue
        found.append(_of_task(task, retention) if task.skill else _of_probe(task))
    return found


def _of_text(items: Items, retention: float) -> Power:
    roles = ("teacher", "student", "floor")
    rule = f"{retention * 100:g} % of the skill kept"
    if items.has("student", "correct") and items.bytes is None:
        teacher, student, floor = (items.roles[role].column("correct") for role in roles)
        kept = statistics.retention(teacher, student, floor, items.document, threshold=retention)
        return _kept("accuracy", "texts", rule, kept, items.size, "document", retention)
    teacher, student, floor = (items.loss(role)[0] for role in roles)
    kept = statistics.retention(
        teacher, student, floor, items.document,
        size_N=items.loss("teacher")[1], threshold=retention, lower_is_better=True,
    )  # fmt: skip
    return _kept("performance", "held-out text", rule, kept, items.size, "document", retention)


def _of_gap(items: Items) -> Power:
    gap_N: FloatArray = items.roles["student"].column("conf") - items.roles["student"].column("correct")
    gap = statistics.mean(gap_N, items.document).scaled(100)
    return Power("calibration", "held-out text", "confidence within 5 pp", items.size, gap.clusters, "document",
                 statistics.smallest_decided(gap), "pp", _needed(gap, 5.0))  # fmt: skip


def _of_task(task: Answered, retention: float) -> Power:
    rule = f"{retention * 100:g} % of the skill kept"
    judged = "student" if "student" in task.roles else "teacher"
    one = skill(task, (judged,), threshold=retention)
    if one.reason:
        return Power(
            "tasks", task.task, rule, task.size, one.kept[judged].gap.clusters, "question", None, "%", None, one.reason
        )
    if judged == "student":
        return _kept("tasks", task.task, rule, one.kept["student"], task.size, "question", retention)
    return _guessed(one, rule, retention)


def _guessed(one: Skill, rule: str, retention: float) -> Power:
    """Before there is a student: independent questions, and answers that go together as those of siblings do."""
    right = min(0.999, float(one.right["teacher"].mean()))
    needed = statistics.items_needed(teacher=right, floor=one.floor.mean, threshold=retention, correlation=CLOSE)
    size = one.task.size
    return Power("tasks", one.task.task, rule, size, one.kept["teacher"].gap.clusters, "question", None, "%", needed)


def _kept(gate: str, of: str, rule: str, kept: Retention, items: int, one: str, retention: float) -> Power:
    clusters = kept.gap.clusters
    if not math.isfinite(kept.value):
        return Power(gate, of, rule, items, clusters, one, None, "%", None, "the teacher shows no skill here")
    seen = statistics.smallest_decided(kept.surplus) / kept.gap.value * 100
    return Power(
        gate, of, rule, items, clusters, one, seen, "%", _needed(kept.surplus, (1 - retention) * kept.gap.value)
    )


def _of_probe(task: Answered) -> Power:
    rule = "at most 3 pp more than the teacher"
    if "student" not in task.roles:
        return Power(
            "bias", task.task, rule, task.size, task.size, "question", None, "pp", None, "there is no student yet"
        )
    grown = statistics.mean(task.score("student") - task.score("teacher"), task.cluster).scaled(100)
    return Power("bias", task.task, rule, task.size, grown.clusters, "question", statistics.smallest_decided(grown), "pp",
                 _needed(grown, 3.0))  # fmt: skip


def _needed(spread: Interval, effect: float) -> int | None:
    """Clusters that show an effect of this size, the spread being what it is; 5 where there is none."""
    if spread.se == 0.0 and effect > 0.0:
        return 5
    return statistics.clusters_needed(
        Interval(effect, effect, effect, spread.se, spread.clusters, spread.df), alpha=0.05, power=0.8
    )
