"""Words that say nothing."""

from __future__ import annotations

import random

_SAID = ("Well, let me see.", "Okay, here it is.", "Right, one more.", "So, this is it.", "Now then.")


def filler(text: str, rng: random.Random) -> str:
    """A short sentence that says nothing stands before the rest.

    Args:
        text: what is edited.
        rng: which sentence.
    """
    return f"{rng.choice(_SAID)} {text}"
