"""Shares by size, up to a limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from stillhouse.data.choosing import TaskSize


def capped(tasks: Sequence[TaskSize], *, most: Annotated[int, Field(ge=1)]) -> list[float]:
    """A task's share goes by its size, but a task of more than so many tokens counts as one of so many.

    The artificial limit of T5 (Raffel et al. 2020, arXiv:1910.10683, §3.5.2), counted in tokens here and in examples there.

    Args:
        tasks: with their sizes.
        most: tokens.

    """
    return [float(min(task.tokens, most)) for task in tasks]
