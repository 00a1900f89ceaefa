"""Replay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from stillhouse.recipe import Source
from stillhouse.refinement.draft import Case, Draft


def rehearse(
    draft: Draft,
    case: Case,
    *,
    source: Mapping[str, Any] | None = None,
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5,
) -> tuple[Draft, str]:
    """What was known before is read again: text of a further source; without one, what rounds favoured is favoured less.

    Args:
        draft: of the round.
        case: what is weak.
        source: text to rehearse, as in ``data.sources``: general text, 5 to 10 % of what is learned from.
        factor: without a source: of what each favoured slice has above its own share and weight, what stays.

    """
    if source is not None:
        added = Source.model_validate(dict(source)).model_dump(mode="json") | {"characters": 0}
        if added in [dict(each) for each in draft.added]:
            return draft, "that text is rehearsed already"
        return replace(draft, added=(*draft.added, added)), f"text of {added['name']} is rehearsed"
    if not draft.weights and not draft.factors:
        return draft, "no slice is favoured yet, and no source of text to rehearse is given"

    def milder(values: Mapping[str, float]) -> dict[str, float]:
        return {name: 1 + factor * (value - 1) for name, value in values.items()}

    said = f"what slices have above their own share is multiplied by {factor:g}"
    return replace(draft, weights=milder(draft.weights), factors=milder(draft.factors)), said
