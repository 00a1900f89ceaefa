"""Weights by gap."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log
from typing import Annotated

from pydantic import Field

from stillhouse.refinement.draft import Case, Draft


def reweight(
    draft: Draft, case: Case, *, rate: Annotated[float, Field(gt=0)] = 2.0, most: Annotated[float, Field(gt=1)] = 4.0
) -> tuple[Draft, str]:
    """Each weak slice counts more in the loss, by its gap to what is asked: w ← w · exp(rate · gap), from 1 / most to most.

    The exponentiated-gradient step of group DRO (Sagawa et al. 2020, arXiv:1911.08731, Alg. 1), on the gap to the teacher and not on
    the loss: a slice that is hard for everybody must not eat the budget.

    Args:
        draft: of the round.
        case: what is weak.
        rate: of the step.
        most: the largest weight, and one over the smallest.

    """
    weak = [one for one in case.weak if one.tag]
    if not weak:
        return draft, "no slice is weaker than the rest: there is nothing to weigh more"
    draft = draft.with_slices(weak)
    weights = dict(draft.weights)
    for one in weak:
        step = min(rate * one.gap, 2 * log(most))  # more than that is clipped anyway, and might overflow
        weights[one.name] = min(most, max(1 / most, weights.get(one.name, 1.0) * exp(step)))
    told = ", ".join(f"{one.name} {weights[one.name]:.2f}" for one in weak)
    return replace(draft, weights=weights), f"weights in the loss against the rest: {told}"
