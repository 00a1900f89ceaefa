"""LAMBADA: the last word of a passage."""

from __future__ import annotations

from stillhouse.evaluate.questions import Task, rows, word


def lambada(*, path: str = "lambada/test.jsonl") -> Task:
    """Does it find the last word of a passage?

    Paperno et al. 2016, arXiv:1606.06031. The word must be the likeliest, token by token. What would follow it is not known, so
    no end is asked for.

    Args:
        path: JSONL of context, answer.
    """
    questions = [word(str(number), row["context"], f" {row['answer']}") for number, row in enumerate(rows(path))]
    return Task(tuple(questions), "long context")
