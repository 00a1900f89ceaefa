"""MMLU: exam questions of many subjects."""

from __future__ import annotations

from stillhouse.evaluate.questions import Question, Task, choice, rows


def mmlu(*, path: str = "mmlu/test.jsonl.gz", dev: str = "mmlu/validation.jsonl") -> Task:
    """How well does it answer exam questions?

    Hendrycks et al. 2021, arXiv:2009.03300, with the answers' texts instead of letters.

    Args:
        path: JSONL of subject, question, choices, answer.
        dev: likewise, to choose the normalisation on.
    """

    def read(file: str) -> tuple[Question, ...]:
        return tuple(
            choice(
                f"{row['subject']}.{number}",
                f"Question: {row['question']}\nAnswer:",
                [f" {text}" for text in row["choices"]],
                row["answer"],
                tags={"subject": row["subject"]},
                free="Answer:",
            )
            for number, row in enumerate(rows(file))
        )

    return Task(read(path), "knowledge", read(dev))
