"""HellaSwag: which of four continuations."""

from __future__ import annotations

from stillhouse.evaluate.questions import Task, choice, rows, split


def hellaswag(*, path: str = "hellaswag/validation.jsonl") -> Task:
    """Does it find the true continuation of a scene likelier?

    Zellers et al. 2019, arXiv:1905.07830.

    Args:
        path: JSONL of ind, context, choices, answer.
    """
    questions = [
        choice(str(row["ind"]), row["context"], [f" {text}" for text in row["choices"]], row["answer"])
        for row in rows(path)
    ]
    scored, dev = split(questions, 150)
    return Task(scored, "common sense", dev)
