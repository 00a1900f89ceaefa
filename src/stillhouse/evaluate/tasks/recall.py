"""Recall from context: a value by its key."""

from __future__ import annotations

import random

from stillhouse.errors import RecipeError, fail
from stillhouse.evaluate.questions import Task, word

_KEYS = [
    "lamp",
    "river",
    "stone",
    "cloud",
    "table",
    "green",
    "horse",
    "paper",
    "violin",
    "garden",
    "silver",
    "window",
    "bread",
    "tower",
    "ocean",
    "candle",
    "forest",
    "hammer",
    "ladder",
    "mirror",
    "needle",
    "orange",
    "pepper",
    "rabbit",
    "saddle",
    "tiger",
    "bottle",
    "valley",
    "wagon",
    "yellow",
    "basket",
    "copper",
]
_VALUES = [
    "north",
    "seven",
    "apple",
    "winter",
    "copper",
    "music",
    "friday",
    "doctor",
    "purple",
    "island",
    "market",
    "letter",
    "summer",
    "animal",
    "bridge",
    "castle",
    "dinner",
    "engine",
    "flower",
    "guitar",
    "harbor",
    "insect",
    "jacket",
    "kitchen",
    "leather",
    "monday",
    "number",
    "oxygen",
    "pocket",
    "queen",
    "rocket",
    "school",
]


def recall(*, pairs: tuple[int, ...] = (4, 8, 16), questions: int = 300, seed: int = 0) -> Task:
    """Does it find a value in its context by the key?

    Lines of "key: value", then one of the keys again. The cheapest probe of reading from context, and one that averages hide: a
    student can keep its grammar and lose all of this. Without skill one copies any of the values: 1 / pairs.

    Args:
        pairs: how many lines; a level each.
        questions: of each level.
        seed: another one makes other questions.
    """
    most = min(len(_KEYS), len(_VALUES))
    if not 1 <= min(pairs) <= max(pairs) <= most:
        raise fail(RecipeError, "pairs", f"is {list(pairs)}", f"There are words for 1 to {most} pairs.")
    found = []
    for level in pairs:
        rng = random.Random(f"{seed}/{level}")
        for number in range(questions):
            keys = rng.sample(_KEYS, level)
            values = rng.sample(_VALUES, level)
            asked = rng.randrange(level)
            lines = "".join(f"{key}: {value}\n" for key, value in zip(keys, values, strict=True))
            found.append(
                word(
                    f"{level}.{number}",
                    f"{lines}{keys[asked]}:",
                    f" {values[asked]}",
                    end="\n",
                    tags={"pairs": str(level)},
                    floor=1 / level,
                )
            )
    return Task(tuple(found), "recall")
