"""Only what there is much to learn from."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from stillhouse.refinement.draft import Case, Draft


def focus(draft: Draft, case: Case, *, keep: Annotated[float, Field(gt=0, le=1)] = 0.5) -> tuple[Draft, str]:
    """Of the text only the part is read on which the student is furthest from its teacher (sampler `focused`).

    Args:
        draft: of the round.
        case: what is weak.
        keep: the share that is read.

    """
    if case.settings.data.sampler:
        return draft, "the recipe has a sampler of its own (data.sampler)"
    said = f"only the {keep:.0%} of the text is read on which student and teacher differ most"
    return replace(draft, sampler=({"name": "focused", "keep": keep},)), said
