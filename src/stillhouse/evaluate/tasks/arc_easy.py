"""ARC-easy: grade-school science."""

from __future__ import annotations

from stillhouse.evaluate.questions import Question, Task, choice, rows


def arc_easy(*, path: str = "arc_easy/test.jsonl", dev: str = "arc_easy/validation.jsonl") -> Task:
    """How well does it know grade-school science?

    Clark et al. 2018, arXiv:1803.05457. The answers' texts are compared, never letters: a small model that is shown letters
    says one of them always.

    Args:
        path: JSONL of id, question, choices, answer.
        dev: likewise, to choose the normalisation on.
    """

    def read(file: str) -> tuple[Question, ...]:
        return tuple(
            choice(
                row["id"],
                f"Question: {row['question']}\nAnswer:",
                [f" {text}" for text in row["choices"]],
                row["answer"],
                free="Answer:",
            )
            for row in rows(file)
        )

    return Task(read(path), "knowledge", read(dev))
