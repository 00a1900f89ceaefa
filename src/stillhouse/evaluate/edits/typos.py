"""Typing mistakes."""

from __future__ import annotations

import random
import re

_WORD = re.compile(r"[^\W\d_]{5,}")


def typos(text: str, rng: random.Random, *, share: float = 0.1) -> str:
    """Two neighbouring letters inside some long words change places; first and last letters stay.

    Args:
        text: what is edited.
        rng: which words.
        share: of the words of five letters or more.
    """

    def swapped(found: re.Match[str]) -> str:
        word = found[0]
        if rng.random() >= share:
            return word
        i = rng.randrange(1, len(word) - 2)
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]

    return _WORD.sub(swapped, text)
