"""Steps on the way to an answer: whether those that are written are true, what writing them is worth, and what is known of each part."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stillhouse.evaluate import statistics
from stillhouse.evaluate.answers import Answered
from stillhouse.evaluate.records import Estimate
from stillhouse.evaluate.wording import estimate

_ROLES = ("teacher", "student")

_STEP = re.compile(r"(?<![\d.])(-?\d+) *([-+*×/]) *(-?\d+) *= *(-?\d+)(?![\d.]*\d)")
_NUMBER = re.compile(r"-?\d+")


@dataclass(frozen=True)
class Chain:
    """One written answer.

    Args:
        true: of each step, whether what it says is so.
        follows: whether the last number is the last step's result; None where no number stands behind the steps.
    """

    true: tuple[bool, ...]
    follows: bool | None

    @property
    def first_wrong(self) -> int | None:
        """How many steps were true before the first that is not; None where all are."""
        return None if all(self.true) else self.true.index(False)


def chain_of(text: str) -> Chain | None:
    """The steps "a ∘ b = c" of a text; None where it has none."""
    found = list(_STEP.finditer(text))
    if not found:
        return None
    true = tuple(_holds(*(match[i] for i in range(1, 5))) for match in found)
    behind = _NUMBER.findall(text[found[-1].end() :])
    return Chain(true, int(behind[-1]) == int(found[-1][4]) if behind else None)


def written(task: Answered, role: str) -> list[Estimate]:
    """Of the steps that a role wrote: how many are true, whether its answers follow from them, how far it comes; none where it wrote none.

    Args:
        task: whose answers are written.
        role: who wrote.
    """
    chains = [chain_of(text) for text in task.roles[role].text] if task.kind == "write" else []
    if not any(chains):
        return []
    name = task.task
    there = np.array([chain is not None for chain in chains])
    kept = [chain for chain in chains if chain is not None]
    cluster = task.cluster[there]
    true = np.array([sum(chain.true) for chain in kept], dtype=np.float64)
    size = np.array([len(chain.true) for chain in kept], dtype=np.float64)
    found = [
        estimate(f"{name}: answers with steps", role, statistics.share(there.astype(float), task.cluster).scaled(100), "%", len(chains)),
        estimate(f"{name}: written steps that are true", role, statistics.ratio(true, size, cluster).scaled(100), "%", int(size.sum())),
    ]  # fmt: skip
    follows = np.array([chain.follows is not None for chain in kept])
    if follows.any():
        as_told = np.array([bool(chain.follows) for chain in kept], dtype=np.float64)[follows]
        share = statistics.share(as_told, cluster[follows]).scaled(100)
        found.append(estimate(f"{name}: the answer is the last step's result", role, share, "%", len(as_told)))
    wrong = [chain.first_wrong for chain in kept]
    before = np.array([place for place in wrong if place is not None], dtype=np.float64)
    if len(before):
        mean = statistics.mean(before, cluster[[place is not None for place in wrong]])
        found.append(estimate(f"{name}: true steps before the first wrong one", role, mean, "steps", len(before)))
    return found


def worth(task: Answered, other: Answered) -> list[Estimate]:
    """How much more is right where the steps are written than where the same questions are answered at once; and that of the student less
    the teacher's.

    Args:
        task: in which steps are written.
        other: the same questions, answered at once.
    """
    place = {question: i for i, question in enumerate(other.question.tolist())}
    mine = [i for i, question in enumerate(task.question.tolist()) if question in place]
    theirs = [place[task.question[i]] for i in mine]
    roles = [role for role in _ROLES if role in task.roles and role in other.roles]
    if len(mine) < 2 or not roles:
        return []
    gains = {role: (task.score(role)[mine] - other.score(role)[theirs]) * 100 for role in roles}
    label = f"{task.task}: right with steps − without ({other.task})"
    found = [
        estimate(label, role, statistics.mean(gain, task.cluster[mine]), "pp", len(mine))
        for role, gain in gains.items()
    ]
    if len(gains) == len(_ROLES):
        difference = statistics.mean(gains["student"] - gains["teacher"], task.cluster[mine])
        found.append(estimate(f"{label}, student − teacher", "student", difference, "pp", len(mine)))
    return found


def put_together(task: Answered) -> list[Estimate]:
    """How often the whole is wrong where all its parts are right (the compositionality gap), and how much more often the student's is.

    Args:
        task: whose questions "3.17" have parts "3.17/0", "3.17/1" …; nothing is said of others.
    """
    parts: dict[str, list[int]] = {}
    for i, question in enumerate(task.question.tolist()):
        whole, slash, _ = str(question).partition("/")
        if slash:
            parts.setdefault(whole, []).append(i)
    index = {str(question): i for i, question in enumerate(task.question.tolist())}
    wholes = [index[whole] for whole in parts if whole in index]
    known = {role: _known(task, role, parts, index) for role in _ROLES if role in task.roles}
    found = []
    for role, all_W in known.items():
        if all_W.sum() >= 2:
            at = np.array(wholes)[all_W]
            gap = statistics.share(1 - task.score(role)[at], task.cluster[at]).scaled(100)
            found.append(estimate(f"{task.task}: the whole wrong though all parts are right", role, gap, "%", len(at)))
    both_W = np.logical_and.reduce(list(known.values())) if len(known) == len(_ROLES) else np.zeros(0, dtype=bool)
    if both_W.sum() >= 2:
        at = np.array(wholes)[both_W]
        more = statistics.mean(task.score("teacher")[at] - task.score("student")[at], task.cluster[at]).scaled(100)
        label = f"{task.task}: the same, student − teacher, where both know all parts"
        found.append(estimate(label, "student", more, "pp", len(at)))
    return found


def _known(task: Answered, role: str, parts: Mapping[str, list[int]], index: Mapping[str, int]) -> np.ndarray:
    """Of each whole, whether a role has all its parts right."""
    right_N = task.score(role) > 0.5
    return np.array([bool(right_N[own].all()) for whole, own in parts.items() if whole in index], dtype=bool)


def _holds(a: str, sign: str, b: str, c: str) -> bool:
    one, other, result = int(a), int(b), int(c)
    if sign == "/":
        return other != 0 and result * other == one
    return {"+": one + other, "-": one - other}.get(sign, one * other) == result
