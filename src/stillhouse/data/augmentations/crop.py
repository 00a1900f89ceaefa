"""A stretch of a text."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Annotated

from pydantic import Field


def crop(
    texts: Sequence[str],
    *,
    shortest: Annotated[int, Field(ge=1)] = 1,
    longest: Annotated[int, Field(ge=1)] | None = None,
) -> Callable[[str, random.Random], str]:
    """Some words of a text that follow one another, as many as chance says (n-grams, Tang et al. 2019, arXiv:1903.12136).

    Args:
        texts: all that will be asked for.
        shortest: words that are left, at least.
        longest: words that are left, at most; all if not given.

    Returns:
        a text and where chance comes from → a part of it. Words are what white space parts.
    """

    def make(text: str, draw: random.Random) -> str:
        words = text.split()
        most = min(len(words), longest or len(words))
        least = min(shortest, most)
        length = least + int(draw.random() * (most - least + 1))
        start = int(draw.random() * (len(words) - length + 1))
        return " ".join(words[start : start + length])

    return make
