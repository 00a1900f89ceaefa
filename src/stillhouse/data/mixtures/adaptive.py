"""Shares by how far the student is from its teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from stillhouse.data.choosing import TaskSize


def adaptive(
    tasks: Sequence[TaskSize],
    *,
    power: Annotated[float, Field(ge=0)] = 1.0,
    tau: Annotated[float, Field(ge=0, le=1)] = 0.0,
    least: Annotated[float, Field(gt=0, le=1)] = 0.02,
    every: Annotated[int, Field(ge=1)] = 50,
) -> list[float]:
    """A task's share goes by the student's current gap to the teacher on it, so that what lags behind is read more.

    The gap is KL(teacher ‖ student) on held-out text of the task, measured anew every so many steps. The idea of reweighting
    groups by their excess loss is that of DoReMi (Xie et al. 2023, arXiv:2305.10429); here there is no second model and no
    moving average, only the gap of now.

    Args:
        tasks: with their gaps and sizes.
        power: of the gap; 0 does not look at it.
        tau: of the size beside it, as for ``proportional``; 0 does not look at it.
        least: that a share is, as a part of an equal one: a task that is learned is not forgotten.
        every: steps between two measurements.

    """
    raw = [max(task.gap, 0.0) ** power * float(task.tokens) ** tau for task in tasks]
    total = sum(raw)
    if total <= 0.0:
        return [1.0] * len(tasks)
    return [max(value / total, least / len(tasks)) for value in raw]
