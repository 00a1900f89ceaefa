"""BoolQ: yes or no from a passage."""

from __future__ import annotations

from stillhouse.evaluate.questions import Question, Task, choice, rows


def boolq(
    *, path: str = "boolq/validation.jsonl.gz", dev: str = "boolq/train.jsonl.gz", dev_questions: int = 200
) -> Task:
    """Does it answer yes-or-no questions about a passage?

    Clark et al. 2019, arXiv:1905.10044. A small model says one of the two nearly always: compare it with the majority.

    Args:
        path: JSONL of passage, question, label (1 is yes).
        dev: likewise, to choose the normalisation on.
        dev_questions: how many of those.
    """

    def read(file: str, most: int | None = None) -> tuple[Question, ...]:
        return tuple(
            choice(
                str(number),
                f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:",
                [" no", " yes"],
                row["label"],
                cluster=row["title"],
                free="Answer:",
            )
            for number, row in enumerate(rows(file)[:most])
        )

    return Task(read(path), "reading", read(dev, dev_questions))
