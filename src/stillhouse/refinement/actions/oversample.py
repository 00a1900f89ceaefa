"""A larger share of the text."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from stillhouse.refinement.draft import Case, Draft


def oversample(
    draft: Draft, case: Case, *, factor: Annotated[float, Field(gt=1)] = 2.0, most: Annotated[float, Field(gt=1)] = 8.0
) -> tuple[Draft, str]:
    """Each weak slice is read more often: so many times the share of the text that it has.

    Args:
        draft: of the round.
        case: what is weak.
        factor: by which the share grows in each round in which the slice is weak.
        most: of its own share, over all rounds.

    """
    weak = [one for one in case.weak if one.tag]
    if not weak:
        return draft, "no slice is weaker than the rest: there is nothing to read more of"
    draft = draft.with_slices(weak)
    factors = {**draft.factors, **{one.name: min(most, draft.factors.get(one.name, 1.0) * factor) for one in weak}}
    told = ", ".join(f"{one.name} {factors[one.name]:g} times" for one in weak)
    return replace(draft, factors=factors), f"share of the text: {told}"
