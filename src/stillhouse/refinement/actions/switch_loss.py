"""Another divergence."""

from __future__ import annotations

from dataclasses import replace

from stillhouse.refinement.draft import Case, Draft


def switch_loss(draft: Draft, case: Case, *, to: str = "reverse_kl") -> tuple[Draft, str]:
    """The teacher is followed by another divergence: reverse KL goes where the teacher is sure, and leaves the rest.

    Args:
        draft: of the round.
        case: what is weak.
        to: a loss; `stillhouse list loss`.

    """
    now = {**case.settings.objective.model_dump(mode="json"), **draft.objective}["soft"]["name"]
    if now == to:
        return draft, f"the loss is {to} already"
    return replace(draft, objective={**draft.objective, "soft": {"name": to}}), f"{to} instead of {now}"
