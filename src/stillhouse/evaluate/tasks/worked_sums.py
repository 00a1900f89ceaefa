"""Chains of small sums, worked out step by step."""

from __future__ import annotations

import random
import re

from stillhouse.evaluate.questions import Task, write
from stillhouse.evaluate.sums import chain, worked

_ANSWER = re.compile(r"Answer: (-?\d+)")


def worked_sums(*, steps: tuple[int, ...] = (1, 2, 3, 4), questions: int = 100, shots: int = 4, seed: int = 0) -> Task:
    """Does it calculate better if it writes the steps?

    "7 + 2 - 4: 7 + 2 = 9, 9 - 4 = 5. Answer: 5": the sums of ``chains`` under the same seed, but written out. The measure ``reasoning``
    tells how many of the written steps are true, whether the answer is the last one's result, and what writing them is worth.

    Args:
        steps: how many operations; a level each.
        questions: of each level.
        shots: worked ones before it.
        seed: another one makes other questions.
    """
    found = []
    for level in steps:
        rng = random.Random(f"{seed}/{level}")
        for number in range(questions):
            before = [worked(chain(rng, level)[0]) for _ in range(shots)]
            asked, result = chain(rng, level)
            found.append(
                write(
                    f"{level}.{number}",
                    "".join(f"{line}\n" for line in before) + f"{asked}:",
                    _Answer(result),
                    stop=("\n",),
                    new_tokens=16 + 12 * level,
                    tags={"steps": str(level)},
                    solution=worked(asked).removeprefix(f"{asked}:") + "\n",
                )
            )
    return Task(tuple(found), "reasoning")


class _Answer:
    """Whether the answer that is named is the right one."""

    def __init__(self, right: int) -> None:
        self.right = right

    def __call__(self, text: str) -> float | None:
        """1, 0, or None where none is named."""
        found = _ANSWER.search(text)
        return float(int(found[1]) == self.right) if found else None
