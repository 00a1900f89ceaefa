"""Chains of small sums, by their number of steps."""

from __future__ import annotations

import random
from collections import Counter

from stillhouse.evaluate.questions import Task, word
from stillhouse.evaluate.sums import chain


def chains(*, steps: tuple[int, ...] = (1, 2, 3, 4), questions: int = 300, shots: int = 4, seed: int = 0) -> Task:
    """How many steps can it calculate?

    "7 + 2 - 4 = 5": one-digit numbers, every result on the way from 0 to 9. Examples of as many steps come first. The result and
    the end of its line must be the likeliest. Without skill one says the commonest result.

    Args:
        steps: how many operations; a level each.
        questions: of each level.
        shots: solved ones before it.
        seed: another one makes other questions.
    """
    found = []
    for level in steps:
        rng = random.Random(f"{seed}/{level}")
        asked = [([chain(rng, level) for _ in range(shots)], chain(rng, level)) for _ in range(questions)]
        commonest = Counter(result for _, (_, result) in asked).most_common(1)[0][1] / questions
        for number, (before, (sum_, result)) in enumerate(asked):
            shown = "".join(f"{text} = {value}\n" for text, value in before)
            found.append(
                word(
                    f"{level}.{number}",
                    f"{shown}{sum_} =",
                    f" {result}",
                    end="\n",
                    tags={"steps": str(level)},
                    floor=commonest,
                )
            )
    return Task(tuple(found), "reasoning")
