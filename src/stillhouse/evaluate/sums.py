"""Chains of small sums, and how they are worked out."""

from __future__ import annotations

import random


def chain(rng: random.Random, steps: int) -> tuple[str, int]:
    """A sum of so many steps, and its result; every result on the way is from 0 to 9.

    Args:
        rng: which one is drawn.
        steps: operations.
    """
    value = rng.randint(0, 9)
    text = str(value)
    for _ in range(steps):
        change = rng.choice([x for x in range(-value, 10 - value) if x != 0])
        value += change
        text += f" {'+' if change > 0 else '-'} {abs(change)}"
    return text, value


def worked(asked: str) -> str:
    """A sum with its steps and its answer.

    Args:
        asked: such as ``7 + 2 - 4``.
    """
    first, *rest = asked.split()
    value, steps = int(first), []
    for sign, change in zip(rest[::2], rest[1::2], strict=True):
        after = value + int(change) if sign == "+" else value - int(change)
        steps.append(f"{value} {sign} {change} = {after}")
        value = after
    return f"{asked}: {', '.join(steps)}. Answer: {value}"
