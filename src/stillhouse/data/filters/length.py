"""How long a document is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from stillhouse.data.grams import own_words
from stillhouse.data.judging import Filter, band
from stillhouse.data.render import Rendered


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

    def count(documents: Sequence[Rendered]) -> npt.NDArray[np.float64]:
        if unit == "characters":
            return np.array([len(d.words) for d in documents], dtype=np.float64)
        return np.diff(own_words(documents)[1]).astype(np.float64)

    return band(
        count,
        lambda value: f"{value:,.0f} {unit}",
        least=least,
        most=most,
        quick=True,
    )
