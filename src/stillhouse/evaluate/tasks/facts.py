"""Facts put together, by how many it takes."""

from __future__ import annotations

import random
from itertools import pairwise

from stillhouse.errors import RecipeError, fail
from stillhouse.evaluate.questions import Question, Task, choice

_NAMES = (
    "Anna Ben Clara David Emma Felix Grace Henry Iris Jack Karen Leo Mary Nick Olga Paul Rosa Sam Tina Victor".split()  # noqa: SIM905 – easier to read
)


def facts(
    *, steps: tuple[int, ...] = (1, 2, 3), people: int = 6, questions: int = 300, parts: bool = False, seed: int = 0
) -> Task:
    """Can it put facts together that it was told?

    "The boss of Anna is Ben. The boss of Ben is Clara. …", and then "The boss of the boss of Anna is". One fact of the context is
    enough at one step; more steps take as many. All names in the context but the one asked about are options.

    Args:
        steps: how many facts; a level each.
        people: in the context.
        questions: of each level.
        parts: also ask each fact that a question of several steps takes, alone; then ``reasoning`` tells how often all of them are
            known and the whole is not (Press et al. 2022, arXiv:2210.03350).
        seed: another one makes other questions.
    """
    if max(steps) >= people:
        raise fail(RecipeError, "people", f"{people} people know {people - 1} bosses at most", "Ask for more people.")
    found = []
    for level in steps:
        rng = random.Random(f"{seed}/{level}")
        for number in range(questions):
            names = rng.sample(_NAMES, people)
            told = [f"The boss of {a} is {b}." for a, b in pairwise(names)]
            rng.shuffle(told)
            start = rng.randrange(people - level)
            context = f"{' '.join(told)} The {'boss of the ' * (level - 1)}boss of"
            found.append(_asked(rng, f"{level}.{number}", context, names, start, level))
            if parts and level > 1:
                found += [
                    _asked(rng, f"{level}.{number}/{hop}", f"{' '.join(told)} The boss of", names, start + hop, 1)
                    for hop in range(level)
                ]
    return Task(tuple(found), "reasoning", normalisation="raw")


def _asked(rng: random.Random, id: str, context: str, names: list[str], start: int, steps: int) -> Question:
    """Who stands so many steps above one of them."""
    options = [name for name in names if name != names[start]]
    rng.shuffle(options)
    return choice(
        id,
        f"{context} {names[start]} is",
        [f" {name}" for name in options],
        options.index(names[start + steps]),
        cluster=id.partition("/")[0],
        tags={"steps": str(steps)},
    )
