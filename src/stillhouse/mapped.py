"""Weights that lie mapped in memory from their file: handed back to the system while they are not used.

safetensors are mapped, not read: a page of weights takes memory once it is looked at, and until something else needs the
room. The teacher speaks once a micro-batch and is silent while the student works, which is when memory peaks, so its pages
need not be counted then. They stay in the system's file cache; looking at them again costs microseconds.
"""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
from torch import Tensor

LEAST_BYTES = 64 * 2**20
"""Less than this is not worth the look through the process's mappings."""
_MAPS, _PAGEMAP = Path("/proc/self/maps"), Path("/proc/self/pagemap")

_DONTNEED = 4
_ENTRY = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) r\S+p \S+ \S+ \d+ +/.*\.safetensors$", re.MULTILINE)
_PRESENT, _SWAPPED, _OF_FILE = (np.uint64(1 << bit) for bit in (63, 62, 61))
"""Of a page's entry in /proc/self/pagemap; one that was written to is its process's own, in memory or swapped."""
_PAGES = 1 << 17
"""Whose entries are read at a time: a megabyte of them, of half a gigabyte of weights."""


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
    try:
        found = [
            (int(start, 16), int(stop, 16))
            for start, stop in _ENTRY.findall(_MAPS.read_text(encoding="utf-8", errors="replace"))
        ]
        released = 0
        for start, stop in found:
            if any(start <= address < stop for address in addresses) and _clean(start, stop):
                released += stop - start if _libc().madvise(start, stop - start, _DONTNEED) == 0 else 0
        return released
    except OSError:  # a system that does not tell
        return 0


def _clean(start: int, stop: int) -> bool:
    """Whether what this process sees of a mapping is what is in its file: no page was written to."""
    page = mmap.PAGESIZE
    with _PAGEMAP.open("rb", buffering=0) as entries:
        for at in range(start, stop, page * _PAGES):
            pages = min(_PAGES, (stop - at) // page)
            entries.seek(at // page * 8)
            part = np.frombuffer(entries.read(pages * 8), np.uint64)
            written = ((part & _SWAPPED) != 0) | ((part & (_PRESENT | _OF_FILE)) == _PRESENT)
            if len(part) < pages or written.any():
                return False
    return True


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc
