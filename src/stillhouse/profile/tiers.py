"""The ladder of devices by the memory they give one application, and what the next smaller one would need."""

from __future__ import annotations

TIERS = (
    (1e6, "a microcontroller"),
    (200e6, "a phone application"),
    (1e9, "less than 1 GB"),
    (10e9, "1 to 10 GB"),
    (50e9, "10 to 50 GB"),
    (float("inf"), "more than 50 GB"),
)
"""Bytes of memory that a kind of device gives one application, and the device. Phones end applications at 100 to 200 MB."""


def tier(peak: float) -> str:
    """The smallest kind of device that has so much memory."""
    return TIERS[_index(peak)][1]


def next_down(peak: float, size: float, parameters: int = 0) -> str:
    """What the next smaller kind of device would need.

    What a process holds beyond its file (the runtime, the keys and values, buffers) is taken to stay as it is.

    Args:
        peak: the most memory that the process held, bytes.
        size: of the file, bytes.
        parameters: of the model; 0 if they were not counted.
    """
    index = _index(peak)
    if index == 0:
        return "there is none"
    limit, device = TIERS[index - 1]
    rest = peak - size
    room = limit - rest
    if room <= 0:
        return f"{device}: the runtime and its buffers alone hold {rest / 1e6:,.0f} MB of its {limit / 1e6:,.0f}; take another runtime"
    told = f"{device}: a file of {room / 1e6:,.0f} MB, {size / room:.1f} times less"
    if parameters:
        told += f" ({8 * room / parameters:.1f} bits a weight, or {parameters * room / size / 1e6:,.0f} million weights as they are)"
    return told


def _index(peak: float) -> int:
    return next(i for i, (limit, _) in enumerate(TIERS) if peak <= limit)
