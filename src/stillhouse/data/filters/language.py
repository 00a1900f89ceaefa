"""Which language a document is in."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from stillhouse.data.judging import Filter, Several, band
from stillhouse.data.render import Rendered
from stillhouse.errors import RecipeError, did_you_mean, fail

MOST_CHARACTERS = 2000
"""Of a document that are looked at: more does not make it surer."""


def language(
    *,
    keep: Annotated[Several, Field(min_length=1)] = ("en",),
    least: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2,
    shortest: Annotated[int, Field(ge=1)] = 40,
) -> Filter:
    """Documents in other languages than those wanted, by the classifier of py3langid (Lui and Baldwin 2012), 139 languages.

    What is measured is how probable the wanted languages are together.

    Args:
        keep: codes of the languages that are wanted, such as en, de, ja (ISO 639-1).
        least: the lowest probability that is kept.
        shortest: shorter texts, in UTF-8 bytes, are kept: too little is known of them.

    Raises:
        RecipeError: py3langid is not installed, or does not know a language.
    """
    identifier = _identifier()
    known = [str(code) for code in identifier.labels]
    for code in keep:
        if code not in known:
            raise fail(RecipeError, "keep", f"'{code}' is no language that is known", did_you_mean(code, known))

    def probability(text: str) -> float:
        if len(text.strip().encode("utf-8", "surrogatepass")) < shortest:
            return float("nan")
        return float(sum(p for code, p in identifier.rank(text[:MOST_CHARACTERS]) if code in keep))

    def measure(documents: Sequence[Rendered]) -> npt.NDArray[np.float64]:
        return np.array([probability(d.words) for d in documents], dtype=np.float64)

    return band(measure, lambda value: f"{', '.join(keep)}: probability {value:.2f}", least=least)


@cache
def _identifier() -> Any:
    """The classifier; half a second to load."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        way_out = "pip install 'stillhouse[filters]'"
        raise fail(RecipeError, "name", f"languages cannot be told: {error}", way_out) from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
