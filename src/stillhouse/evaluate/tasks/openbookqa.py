"""OpenBookQA: elementary science without the book."""

from __future__ import annotations

from stillhouse.evaluate.questions import Question, Task, choice, rows


def openbookqa(*, path: str = "openbookqa/test.jsonl", dev: str = "openbookqa/validation.jsonl") -> Task:
    """How well does it know elementary science?

    Mihaylov et al. 2018, arXiv:1809.02789.

    Args:
        path: JSONL of id, question, choices, answer.
        dev: likewise, to choose the normalisation on.
    """

    def read(file: str) -> tuple[Question, ...]:
        return tuple(
            choice(row["id"], row["question"], [f" {text}" for text in row["choices"]], row["answer"], free="Answer:")
            for row in rows(file)
        )

    return Task(read(path), "knowledge", read(dev))
