"""Which part of what is held out a cluster belongs to: a hash of its name says so, and nothing else can.

There is no seed: whoever could draw the parts again could draw until the sealed one pleases.
"""

from __future__ import annotations

import hashlib
from typing import Literal

Part = Literal["discover", "confirm", "sealed"]

SHARES: dict[Part, float] = {"discover": 0.4, "confirm": 0.3, "sealed": 0.3}
"""What is looked at to find weaknesses, to judge a round, and once, at the end."""


def part_of(cluster: str) -> Part:
    """The part of a document (by its text's hash) or of a cluster of questions (by its name)."""
    digest = hashlib.sha256(f"stillhouse/parts/{cluster}".encode("utf-8", "surrogatepass")).digest()
    place = int.from_bytes(digest[:8], "big") / 2.0**64
    if place < SHARES["discover"]:
        return "discover"
    return "confirm" if place < SHARES["discover"] + SHARES["confirm"] else "sealed"


def answered(cluster: str, part: Literal["all", "open", "sealed"]) -> bool:
    """Whether a cluster is answered where ``evaluate.part`` says so."""
    return part == "all" or (part_of(cluster) == "sealed") == (part == "sealed")
