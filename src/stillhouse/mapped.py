"""Weights that lie mapped in memory from their file: handed back to the system while they are not used.

safetensors are mapped, not read: a page of weights takes memory once it is looked at, and until something else needs the
room. The teacher speaks once a micro-batch and is silent while the student works, which is when memory peaks, so its pages
need not be counted then. They stay in the system's file cache; looking at them again costs microseconds.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from torch import Tensor

LEAST_BYTES = 64 * 2**20
"""Less than this is not worth the look through the process's mappings (tens of milliseconds)."""

_DONTNEED = 4
_ENTRY = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) r\S+p \S+ \S+ \d+ +(/.*\.safetensors)$")


def release(tensors: Iterable[Tensor]) -> int:
    """Hand the pages of mapped tensors back to the system; they are read again when they are looked at.

    Only mappings of safetensors files of which no page was ever written to: what is in memory is what is in the file.
    Does nothing on systems other than Linux.

    Args:
        tensors: whose mappings to look for; tensors that lie in plain memory are left alone.

    Returns:
        bytes of the mappings handed back.

    """
    if sys.platform != "linux":
        return 0
    mapped = [t for t in tensors if t.device.type == "cpu"]
    if sum(t.numel() * t.element_size() for t in mapped) < LEAST_BYTES:
        return 0
    addresses = [t.data_ptr() for t in mapped]
    released = 0
    for start, stop in _clean_mappings():
        if any(start <= address < stop for address in addresses):
            released += stop - start if _libc().madvise(start, stop - start, _DONTNEED) == 0 else 0
    return released


def _clean_mappings() -> list[tuple[int, int]]:
    """Where this process has safetensors files mapped, privately and unchanged: (first byte, byte after the last)."""
    try:
        lines = Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found, entry = [], None
    for line in lines:
        if "-" in line.split(" ", 1)[0]:  # the head of an entry; what follows is its account
            entry = _ENTRY.match(line)
        elif entry and line.startswith("Anonymous:"):
            if line.split()[1] == "0":
                found.append((int(entry[1], 16), int(entry[2], 16)))
            entry = None
    return found


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc
