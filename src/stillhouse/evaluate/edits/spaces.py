"""More space."""

from __future__ import annotations

import random
import re

_GAP = re.compile(r"(?<=\S) (?=\S)")


def spaces(text: str, rng: random.Random, *, share: float = 0.2) -> str:
    """Some spaces between words are two.

    Args:
        text: what is edited.
        rng: which ones.
        share: of the spaces.
    """
    return _GAP.sub(lambda _: "  " if rng.random() < share else " ", text)
