"""What a filter is: how documents are measured, and which of them the measurements remove.

Measuring is most of the work and knows one document at a time, so any process may measure any part of the documents. The
judgement sees all measurements in the order of the documents, so it does not depend on how the work was shared out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator

from stillhouse.data.render import Rendered
from stillhouse.errors import RecipeError, fail

Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[Any]

Several = Annotated[tuple[str, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
"""An option that is one text or a list of them."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Of what a filter measured, told so that a threshold can be chosen by them."""


@dataclass(frozen=True)
class Removed:
    """A document that a filter takes out.

    Args:
        row: its place among the documents that were measured.
        why: what was found, as people read it.
        like: the row of the document that it is like, where that is why.
    """

    row: int
    why: str
    like: int | None = None


class Measured(Protocol):
    """What was measured of all documents that earlier filters left, in their order."""

    @property
    def held_out(self) -> npt.NDArray[np.bool_]:
        """Of each document whether it is held out."""
        ...

    @property
    def stays(self) -> npt.NDArray[np.bool_]:
        """Of each document whether it stays whatever is found, because it is of the recipe's files of held-out texts."""
        ...

    def __len__(self) -> int:
        """How many documents."""
        ...

    def parts(self) -> Iterator[Rows]:
        """The measurements, one row a document, a part of them at a time."""
        ...

    def column(self, index: int) -> Rows:
        """One column of the measurements of all documents."""
        ...

    def document(self, row: int) -> Rendered:
        """A document, read again."""
        ...

    def where(self, row: int) -> str:
        """Where a document came from: its source and the number of its record."""
        ...


@dataclass(frozen=True)
class Filter:
    """A filter, its options chosen.

    Args:
        measure: documents → one row each. Nothing but a document decides its row.
        judge: the measurements of all documents → those to be removed, in order.
        facts: the same → what else is to be told, as plain values.
        quotes: whether texts that it removes may be shown.
        compares: whether it compares documents with each other. Then the texts of the recipe's held-out files are among
            those measured, before all others; they stay, whatever is found.
        quick: whether measuring costs about as much as reading, and any text can be measured. Such filters that follow one
            another measure in one reading, also documents that one of them takes out before the next, for which these do not count.
    """

    measure: Callable[[Sequence[Rendered]], Rows]
    judge: Callable[[Measured], Iterator[Removed]]
    facts: Callable[[Measured], dict[str, Any]] = lambda _: {}
    quotes: bool = True
    compares: bool = False
    quick: bool = False


def band(
    measure: Callable[[Sequence[Rendered]], Rows],
    say: Callable[[float], str],
    *,
    least: float | None = None,
    most: float | None = None,
    quotes: bool = True,
    quick: bool = False,
) -> Filter:
    """A filter that measures one number of each document and keeps those in a band, its ends included.

    Args:
        measure: documents → float64 [D]; NaN where there is nothing to measure, which is kept.
        say: a number as people read it.
        least: the lowest that is kept.
        most: the highest that is kept.
        quotes: whether texts that it removes may be shown.
        quick: as ``Filter`` has it.

    Raises:
        RecipeError: nothing could be kept.
    """
    if least is not None and most is not None and least > most:
        raise fail(RecipeError, "least", f"is {least:g}, above most, which is {most:g}", "Nothing would be kept.")

    def judge(measured: Measured) -> Iterator[Removed]:
        before = 0
        for values in measured.parts():
            low = values < least if least is not None else np.zeros(len(values), dtype=bool)
            high = values > most if most is not None else np.zeros(len(values), dtype=bool)
            for i in np.flatnonzero(low | high).tolist():
                limit = f"at least {say(least or 0.0)}" if low[i] else f"at most {say(most or 0.0)}"
                yield Removed(before + i, f"{say(float(values[i]))}, {limit} is kept")
            before += len(values)

    def facts(measured: Measured) -> dict[str, Any]:
        values = np.empty(len(measured))
        count = 0
        for part in measured.parts():
            finite = part[np.isfinite(part)]
            values[count : count + len(finite)] = finite
            count += len(finite)
        if not count:
            return {}
        found = np.quantile(values[:count], QUANTILES, method="inverted_cdf", overwrite_input=True)
        return {"measured": {f"{q:.0%}": say(float(v)) for q, v in zip(QUANTILES, found, strict=True)}}

    return Filter(measure, judge, facts, quotes, quick=quick)
