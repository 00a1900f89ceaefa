"""From what is nearly learned to what is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from stillhouse.refinement.draft import Case, Draft


def curriculum_by_gap(
    draft: Draft, case: Case, *, begin: Annotated[float, Field(gt=0, le=1)] = 0.2
) -> tuple[Draft, str]:
    """The text is read from where the student is near its teacher to where it is far (sampler `curriculum`): steps before chains.

    Args:
        draft: of the round.
        case: what is weak.
        begin: the share of the text in play at first.

    """
    if case.settings.data.sampler:
        return draft, "the recipe has a sampler of its own (data.sampler)"
    said = f"the text is read from easy to hard, beginning with the easiest {begin:.0%}"
    return replace(draft, sampler=({"name": "curriculum", "begin": begin},)), said
