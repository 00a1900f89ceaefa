"""Less certainty."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from stillhouse.refinement.draft import Case, Draft


def soften(
    draft: Draft,
    case: Case,
    *,
    smoothing: Annotated[float, Field(gt=0, lt=1)] = 0.05,
    alpha: Annotated[float, Field(gt=0, le=1)] = 0.9,
) -> tuple[Draft, str]:
    """Smoothed labels, and at least so much of the loss the teacher's, whose probabilities are soft: for an overconfident student.

    Args:
        draft: of the round.
        case: what is weak.
        smoothing: share of a label that goes to all outcomes alike.
        alpha: the teacher's share of the loss, at least.

    """
    now: dict[str, Any] = {**case.settings.objective.model_dump(mode="json"), **draft.objective}
    if now["hard"]["name"] == "label_smoothing":
        return draft, "labels are smoothed already"
    changed: dict[str, Any] = {"hard": {"name": "label_smoothing", "smoothing": smoothing}}
    said = f"labels smoothed by {smoothing:g}"
    if isinstance(now["alpha"], int | float) and now["alpha"] < alpha:
        changed["alpha"] = alpha
        said += f", alpha {alpha:g} instead of {now['alpha']:g}"
    return replace(draft, objective={**draft.objective, **changed}), said
