"""No capitals."""

from __future__ import annotations

import random


def lower_case(text: str, rng: random.Random) -> str:
    """All letters small, as many people type.

    Args:
        text: what is edited.
        rng: of edits that draw.
    """
    return text.lower()
