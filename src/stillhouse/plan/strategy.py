"""Which technique for which compression, and what it can be expected to keep: the guide's rules, with their reasons."""

from __future__ import annotations

import math
from dataclasses import dataclass

GUIDE = "the guide's band, not measured here"
"""Where the expected retention comes from."""

BANDS: tuple[tuple[float, float, float, float], ...] = (
    (3.0, 5.0, 0.95, 0.98),
    (10.0, 20.0, 0.90, 0.95),
    (50.0, 100.0, 0.80, 0.90),
)
"""The guide: compression from, to; share of the teacher's quality kept from, to. All parameters counted, embeddings too."""

NEAR = 1.03
"""A student of 5.1x is what was found for 5x: a band ends so much later than it says."""

STEP = (5.0, 7.0)
"""The guide: a teacher-assistant is so many times smaller than the one before."""


@dataclass(frozen=True)
class Band:
    """A share of the teacher's quality that a student may be expected to keep.

    Args:
        low: at least; None where the guide says nothing.
        high: at most.
        source: whose word this is.

    """

    low: float | None
    high: float
    source: str


@dataclass(frozen=True)
class Prescription:
    """What the guide prescribes for a compression.

    Args:
        name: conservative, moderate or aggressive.
        alpha: the teacher's share of the loss, as a recipe says it.
        soft: the divergence.
        temperature: of both distributions.
        features: whether hidden states of key layers are matched.
        stages: how many students one after another, the last one included; 1 is the direct way.
        quantise: whether the last stage should train with quantisation in the loop.
        why: part of the recipe → the reason for what it says.

    """

    name: str
    alpha: str | float
    soft: str
    temperature: float
    features: bool
    stages: int
    quantise: bool
    why: dict[str, str]


def expected(ratio: float) -> Band:
    """The retention that the guide expects of a compression; between its bands, interpolated over the logarithm of the ratio.

    Args:
        ratio: how many times fewer parameters than the teacher, at least 1.

    """
    if ratio > BANDS[-1][1] * NEAR:
        return Band(None, BANDS[-1][3], f"beyond the guide, which ends at {BANDS[-1][1]:g}x")
    for start, stop, low, high in BANDS:
        if start <= ratio <= stop * NEAR:
            return Band(low, high, f"{GUIDE} ({start:g}–{stop:g}x)")
    before = (1.0, 1.0, 1.0)  # a student of the teacher's size can be the teacher
    for start, stop, low, high in BANDS:
        if ratio < start:
            share = math.log(ratio / before[0]) / math.log(start / before[0])
            source = f"interpolated between the guide's bands at {before[0]:g}x and {start:g}x, not measured here"
            return Band(_between(before[1], low, share), _between(before[2], high, share), source)
        before = (stop, low, high)
    raise AssertionError(ratio)


def stages_of(ratio: float) -> int:
    """How many steps of 5–7x lead to a compression; the number whose equal steps come nearest to the middle of that range."""
    return max(1, round(math.log(ratio) / math.log(math.sqrt(STEP[0] * STEP[1]))))


def prescribe(ratio: float) -> Prescription:
    """The guide's strategy for a compression. Between two of its bands, the nearer one's (by the logarithm of the ratio).

    Args:
        ratio: how many times fewer parameters than the teacher.

    """
    size = f"{ratio:.1f}x"
    if ratio < math.sqrt(BANDS[0][1] * BANDS[1][0]):
        why = {
            "strategy": f"conservative: at {size} the student can follow nearly all the teacher says; standard distillation is enough",
            "alpha": "0.8–0.9 at such compressions: the teacher says more of every label than the label itself",
            "soft": "Forward KL covers all that the teacher might say, and the student is large enough to",
        }
        return Prescription("conservative", "high", "forward_kl", 2.0, False, 1, False, why)
    if ratio < math.sqrt(BANDS[1][1] * BANDS[2][0]):
        why = {
            "strategy": f"moderate: at {size} the student must choose what to keep; several tasks and the teacher's inner "
            "states show it what matters",
            "alpha": "0.5–0.7 at such compressions: the student cannot follow every nuance, the text anchors it",
            "soft": "Forward KL covers all that the teacher might say",
            "features": "Hidden states of key layers are a path to follow where outputs alone leave too much open",
        }
        return Prescription("moderate", "moderate", "forward_kl", 2.0, True, 1, False, why)
    why = {
        "strategy": f"aggressive: {size} is too far for one step; students one after another, each the next one's teacher",
        "alpha": "0.5 at such compressions: text and teacher weigh the same",
        "soft": "The skewed KL stays bounded where a small student says nothing (DistiLLM, arXiv:2402.03898, §3.1)",
        "features": "Hidden states of key layers are a path to follow where outputs alone leave too much open",
    }
    return Prescription("aggressive", 0.5, "skew_forward_kl", 2.0, True, max(2, stages_of(ratio)), True, why)


def preferred(name: str, fast: bool) -> tuple[tuple[str, ...], str]:
    """Ways to cut a teacher, the first choice first, and the reason: rules of thumb where this project has not measured them.

    Args:
        name: of the prescription.
        fast: whether latencies alone decide.

    """
    if fast:
        reason = "a layer costs its turn however narrow it is, so fewer layers are faster than narrower ones"
        return ("depth", "balanced", "width"), reason
    if name == "conservative":
        reason = "whole layers keep all their weights, so the student starts as near to its teacher as it can"
        return ("depth", "balanced", "width"), reason
    reason = (
        "depth or width alone would have to give too much; three thin layers ended nearer to their teacher than two whole "
        "ones of as many weights (SST-2 at 3.1x, one seed, docs/log.md)"
    )
    return ("balanced", "width", "depth"), reason


def _between(first: float, last: float, share: float) -> float:
    return first + (last - first) * share
