"""GSM8K: grade-school mathematics in words."""

from __future__ import annotations

import re

from stillhouse.evaluate.questions import Task, rows, write

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def gsm8k(
    *, path: str = "gsm8k/test.jsonl", examples: str = "gsm8k/train.jsonl.gz", shots: int = 3, new_tokens: int = 160
) -> Task:
    """Does it solve grade-school problems?

    Cobbe et al. 2021, arXiv:2110.14168. Worked examples come first; the last number that is written is the answer.

    Args:
        path: JSONL of question, answer, final.
        examples: likewise, for the worked ones.
        shots: how many of those.
        new_tokens: of an answer, at most.
    """

    def shown(row: dict[str, str]) -> str:
        return f"Question: {row['question']}\nAnswer: {re.sub('<<.*?>>', '', row['answer'])}\n\n"

    before = "".join(shown(row) for row in rows(examples)[:shots]) if shots else ""
    return Task(
        tuple(
            write(
                str(number),
                f"{before}Question: {row['question']}\nAnswer:",
                _Last(row["final"]),
                stop=("\n\n", "Question:"),
                new_tokens=new_tokens,
                tags={"steps": str(row["answer"].count("<<"))},
            )
            for number, row in enumerate(rows(path))
        ),
        "reasoning",
    )


class _Last:
    """Whether the last number of a text is the right one."""

    def __init__(self, right: str) -> None:
        self.right = float(right.replace(",", ""))

    def __call__(self, text: str) -> float | None:
        """1, 0, or None where there is no number."""
        numbers = _NUMBER.findall(text)
        return float(float(numbers[-1].replace(",", "")) == self.right) if numbers else None
