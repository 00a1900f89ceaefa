"""How long a document is."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from stillhouse.data.grams import words
from stillhouse.data.judging import Filter, band


def length(
    *,
    least: Annotated[int, Field(ge=0)] = 1,
    most: Annotated[int, Field(ge=0)] | None = None,
    unit: Literal["words", "characters"] = "words",
) -> Filter:
    """Documents that are too short or too long.

    Args:
        least: the shortest that is kept.
        most: the longest that is kept; any if not given.
        unit: what is counted; where a script writes no spaces, a character is a word.
    """

    def count(text: str) -> int:
        return len(text) if unit == "characters" else len(words(text))

    return band(
        lambda documents: np.array([count(d.words) for d in documents], dtype=np.float64),
        lambda value: f"{value:,.0f} {unit}",
        least=least,
        most=most,
    )
