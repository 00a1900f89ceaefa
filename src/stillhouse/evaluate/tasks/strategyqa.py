"""StrategyQA: yes or no by way of facts that are not told."""

from __future__ import annotations

from stillhouse.evaluate.questions import Task, choice, rows, split


def strategyqa(*, path: str = "strategyqa/test.jsonl") -> Task:
    """Does it answer questions that take several facts?

    Geva et al. 2021, arXiv:2101.02235.

    Args:
        path: JSONL of question, choices (Yes, No), answer.
    """
    questions = [
        choice(
            str(number),
            f"Question: {row['question']}\nAnswer:",
            [f" {text.lower()}" for text in row["choices"]],
            row["answer"],
            free="Answer:",
        )
        for number, row in enumerate(rows(path))
    ]
    scored, dev = split(questions, 200)
    return Task(scored, "reasoning", dev)
