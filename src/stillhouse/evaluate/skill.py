"""What of a task is skill: scores above a measured floor, for those tasks that can tell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stillhouse.evaluate import statistics
from stillhouse.evaluate.answers import Answered, Answers
from stillhouse.evaluate.records import FloatArray
from stillhouse.evaluate.statistics import Retention

CONSTANT_BITS = 0.3
"""Entropy of the answers' places below which a model always says the same."""

LEAST = 20
"""Questions below which nothing is said of a task."""


@dataclass(frozen=True)
class Floor:
    """What a task scores without skill.

    Args:
        score_N: of each question.
        what: how it is had, in words.
    """

    score_N: FloatArray
    what: str

    @property
    def mean(self) -> float:
        """Of all questions."""
        return float(self.score_N.mean())


def floor_of(task: Answered) -> Floor:
    """The best that can be had without skill, measured and not assumed.

    Of options: chance, always the commonest place, always the longest option, the option that is likeliest without the
    question. Of written text: what the teacher's answers to other questions score. Chance is taken question by question, the
    others as one number; chance only where none of them is higher.
    """
    found = [Floor(task.floor_N, "chance" if task.floor_N.any() else "nothing")]

    def add(share: float, what: str) -> None:
        found.append(Floor(np.full(task.size, share), what))

    if task.kind == "choice":
        add(float(np.bincount(task.gold).max()) / task.size, "always the commonest place")
        longest = np.nanargmax(task.characters_NK, axis=1)
        add(float((longest == task.gold).mean()), "always the longest option")
        teacher = task.roles.get("teacher")
        if teacher is not None and teacher.free_NK is not None:
            add(
                float((np.nanargmax(teacher.free_NK, axis=1) == task.gold).mean()), "the likeliest without the question"
            )
    if task.kind == "write" and "floor" in task.roles:
        add(float(task.score("floor").mean()), "answers to other questions")
    return max(found, key=lambda floor: floor.mean)


def constant(task: Answered, role: str) -> str:
    """A sentence if a role answers nearly all questions with the option at one place though the right ones are elsewhere."""
    if task.kind != "choice" or task.size < LEAST:
        return ""
    chosen = task.chosen(role)
    if _bits(chosen) >= CONSTANT_BITS or _bits(task.gold) < 2 * CONSTANT_BITS:
        return ""
    commonest = int(np.bincount(chosen).argmax())
    return f"the {role} says option {commonest + 1} to {int((chosen == commonest).sum()):,} of {task.size:,} questions"


def _bits(values: FloatArray | np.ndarray) -> float:
    share = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(share * np.log2(share)).sum())


@dataclass(frozen=True)
class Skill:
    """One task as it is judged.

    Args:
        task: its answers.
        floor: what is had without skill.
        right: role → score of each question.
        kept: role → what it kept of the first role's skill; with the verdict UNINFORMATIVE where that one shows none.
        reason: why nothing can be said of the task; empty where something can.
    """

    task: Answered
    floor: Floor
    right: dict[str, FloatArray]
    kept: dict[str, Retention]
    reason: str = ""

    @property
    def informative(self) -> bool:
        """Whether there is skill to compare with."""
        return not self.reason


def skill(
    task: Answered, roles: tuple[str, ...], *, of: str = "teacher", threshold: float = 0.9, margin: float = 0.03
) -> Skill:
    """What some roles kept of another's skill in a task.

    Args:
        task: its answers; ``of`` and at least one of the roles gave some.
        roles: who is judged.
        of: whose skill is the whole.
        threshold: the share that must be kept.
        margin: by how much ``of`` must surely be above the floor.
    """
    floor = floor_of(task)
    there = [role for role in roles if role in task.roles]
    right = {role: task.score(role) for role in (of, *there)}
    kept = {
        role: statistics.retention(
            right[of], right[role], floor.score_N, task.cluster, threshold=threshold, margin=margin
        )
        for role in there
    }
    return Skill(task, floor, right, kept, _reason(task, kept[there[0]], floor, of, margin))


def _reason(task: Answered, first: Retention, floor: Floor, of: str, margin: float) -> str:
    if task.size < LEAST:
        return f"only {task.size} questions"
    if same := constant(task, of):
        return same
    if first.verdict == "NOT MEASURED":
        return "one cluster holds all questions"
    if first.verdict == "UNINFORMATIVE":
        value, low = floor.mean + first.gap.value, floor.mean + first.gap.bounds(0.95)[0]
        return (
            f"the {of} scores {value * 100:.1f} %, surely only {low * 100:.1f} %, where {floor.what} has {floor.mean * 100:.1f} %"
            f" (it must be {margin * 100:g} pp above that, by three standard errors)"
        )
    return ""


def skills(
    answers: Answers, *, roles: tuple[str, ...] = ("student",), of: str = "teacher", threshold: float = 0.9, margin: float = 0.03
) -> list[Skill]:  # fmt: skip
    """Of all tasks about a skill that ``of`` and the first of the roles answered; texts, which have no floor, left out."""
    asked = [task for task in answers.having(of, roles[0]) if task.kind != "text"]
    return [skill(task, roles, of=of, threshold=threshold, margin=margin) for task in asked]
