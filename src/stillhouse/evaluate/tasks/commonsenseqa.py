"""CommonsenseQA: five answers to an everyday question."""

from __future__ import annotations

from stillhouse.evaluate.questions import Question, Task, choice, rows


def commonsenseqa(
    *, path: str = "commonsenseqa/validation.jsonl", dev: str = "commonsenseqa/train.jsonl.gz", dev_questions: int = 300
) -> Task:
    """How much common sense does it have?

    Talmor et al. 2019, arXiv:1811.00937; the answers' texts are compared.

    Args:
        path: JSONL of id, question, choices, answer.
        dev: likewise, to choose the normalisation on.
        dev_questions: how many of those.
    """

    def read(file: str, most: int | None = None) -> tuple[Question, ...]:
        return tuple(
            choice(
                row["id"],
                f"Question: {row['question']}\nAnswer:",
                [f" {text}" for text in row["choices"]],
                row["answer"],
                free="Answer:",
            )
            for row in rows(file)[:most]
        )

    return Task(read(path), "common sense", read(dev, dev_questions))
