"""Questions that the student lost, and those it gained, with what both answered: what stands behind the numbers."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from stillhouse.evaluate.answers import Answered, Answers

EACH = 5
"""Of each capability, lost and gained."""

LONGEST = 1200
"""Characters of a text that are kept; of a longer question the end, before which the answer was given."""


def examples(answers: Answers, *, each: int = EACH) -> list[dict[str, Any]]:
    """Of each capability some questions that only the teacher has right and some that only the student has.

    They are drawn by a hash of the question, not chosen: the same table shows the same ones, and none is a favourite.

    Args:
        answers: the table; of teacher and student, with the words of the questions.
        each: how many of each kind, at most.

    Returns:
        as JSON values: capability, how many were lost and gained of how many, and of the drawn ones task, kind, question, right answer, and
        what teacher and student answered.
    """
    tasks = [t for t in answers.having("teacher", "student") if t.kind != "text" and t.contexts]
    found = []
    for capability in dict.fromkeys(task.capability for task in tasks):
        of = [task for task in tasks if task.capability == capability]
        changed = {"lost": [], "gained": []}  # type: dict[str, list[tuple[str, Answered, int]]]
        for task in of:
            teacher_N, student_N = task.score("teacher") > 0.5, task.score("student") > 0.5
            for kind, rows in (("lost", teacher_N & ~student_N), ("gained", student_N & ~teacher_N)):
                changed[kind] += [(_draw(task, i), task, i) for i in np.flatnonzero(rows).tolist()]
        shown = [
            {"change": kind, **_shown(task, i)}
            for kind, rows in changed.items()
            for _, task, i in sorted(rows, key=lambda row: row[0])[:each]
        ]
        counts = {kind: len(rows) for kind, rows in changed.items()}
        if shown:
            found.append({"capability": capability, "of": sum(task.size for task in of), **counts, "shown": shown})
    return found


def _draw(task: Answered, i: int) -> str:
    return hashlib.sha256(f"{task.task}/{task.question[i]}".encode("utf-8", "replace")).hexdigest()


def _shown(task: Answered, i: int) -> dict[str, Any]:
    """One question and its answers in words."""
    contexts, options = task.contexts[i], task.options[i]
    gold = int(task.gold[i])
    right = options[gold] if options else ""
    asked = contexts[gold if len(contexts) > 1 else 0] if contexts else ""
    said = {role: _said(task, role, i) for role in ("teacher", "student")}
    return {
        "task": task.task,
        "question": str(task.question[i]),
        "asked": asked if len(asked) <= LONGEST else "… " + asked[-LONGEST:],
        "options": [option[:LONGEST] for option in options],
        "right": right[:LONGEST],
        "teacher": said["teacher"][:LONGEST],
        "student": said["student"][:LONGEST],
    }


def _said(task: Answered, role: str, i: int) -> str:
    """What a role answered; of one word that was not the likeliest it is not known what was."""
    if task.kind == "choice":
        return (
            task.options[i][int(task.chosen(role)[i])] if task.options[i] else f"option {int(task.chosen(role)[i]) + 1}"
        )
    if task.kind == "word":
        return task.options[i][0] if task.score(role)[i] > 0.5 else "something else"
    return task.roles[role].text[i]
