"""A value that jumps."""

from __future__ import annotations

from itertools import pairwise

from stillhouse.errors import Problem, RecipeError


def step(progress: float, *, at: list[float], values: list[float]) -> float:
    """From one value to the next at given shares of the run: ``at: [0, 0.5], values: [0.9, 0.3]``.

    Args:
        progress: share of the steps taken, 0 to 1.
        at: from which share on each value holds; rising, the first is 0.
        values: as many.

    Raises:
        RecipeError: not as many values as shares, or shares that do not rise from 0.

    """
    problems = []
    if len(at) != len(values):
        problems.append(
            Problem("step", f"{len(at)} shares at which, but {len(values)} values", "Give one value for each share.")
        )
    if not at or at[0] != 0.0 or at[-1] > 1.0 or any(later <= earlier for earlier, later in pairwise(at)):
        problems.append(
            Problem("step", f"at: {at} does not rise from 0 to at most 1", "Begin with 0, such as [0, 0.5].")
        )
    if problems:
        raise RecipeError(*problems)
    return next(value for share, value in zip(reversed(at), reversed(values), strict=True) if progress >= share)
