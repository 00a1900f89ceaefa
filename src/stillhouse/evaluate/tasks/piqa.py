"""PIQA: two ways to do something."""

from __future__ import annotations

from stillhouse.evaluate.questions import Question, Task, choice, rows


def piqa(*, path: str = "piqa/validation.jsonl", dev: str = "piqa/train.jsonl", dev_questions: int = 300) -> Task:
    """Does it know how things are done with things?

    Bisk et al. 2020, arXiv:1911.11641.

    Args:
        path: JSONL of goal, choices, answer.
        dev: likewise, to choose the normalisation on.
        dev_questions: how many of those.
    """

    def read(file: str, most: int | None = None) -> tuple[Question, ...]:
        return tuple(
            choice(
                str(number),
                f"Question: {row['goal']}\nAnswer:",
                [f" {text}" for text in row["choices"]],
                row["answer"],
                free="Answer:",
            )
            for number, row in enumerate(rows(file)[:most])
        )

    return Task(read(path), "common sense", read(dev, dev_questions))
