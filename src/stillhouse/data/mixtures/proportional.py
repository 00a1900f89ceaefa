"""Shares by size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from stillhouse.data.choosing import TaskSize


def proportional(tasks: Sequence[TaskSize], *, tau: Annotated[float, Field(ge=0, le=1)] = 1.0) -> list[float]:
    """A task's share goes by its size to the power τ: at 1 by size, at 0 all alike, between them small tasks are lifted.

    As languages are balanced in multilingual models (Conneau et al. 2020, arXiv:1911.02116, §3.1, with 0.3); a temperature T
    elsewhere is τ = 1 / T.

    Args:
        tasks: with their sizes.
        tau: the power.

    """
    return [float(task.tokens) ** tau for task in tasks]
