"""Shares as they are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from stillhouse.data.choosing import TaskSize


def fixed(tasks: Sequence[TaskSize], *, shares: dict[str, Annotated[float, Field(gt=0)]]) -> list[float]:
    """Each task has the share that is written down: ``shares: {translation: 3, chat: 1}`` is three quarters and one.

    Args:
        tasks: whose names are looked up.
        shares: of every task by name, of any sum.

    """
    return [float(shares[task.name]) for task in tasks]
