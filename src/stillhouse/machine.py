"""What this machine is and what it can do, measured and not guessed."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

SHAPE = (512, 576, 1536)
"""Rows, inner width and columns of the measured matrix product: a layer of a small model."""
WORTH = 1.5
"""How many times faster bfloat16 must be before its rounding is accepted."""


@dataclass(frozen=True)
class Choice:
    """An arithmetic and why it was chosen.

    Args:
        dtype: ``float32`` or ``bfloat16``.
        reason: one sentence with the numbers.
    """

    dtype: Literal["float32", "bfloat16"]
    reason: str

    @property
    def torch(self) -> torch.dtype:
        """As torch names it."""
        return torch.bfloat16 if self.dtype == "bfloat16" else torch.float32

    def to_dict(self) -> dict[str, str]:
        """As plain values."""
        return {"dtype": self.dtype, "reason": self.reason}


def choose_dtype(requested: str, device: torch.device | str, shape: tuple[int, int, int] = SHAPE) -> Choice:
    """The arithmetic to use: as requested, or for ``auto`` the one that a measurement of under half a second favours.

    On a CPU without instructions for it, bfloat16 can be hundreds of times slower than float32, and nothing warns.

    Args:
        requested: ``auto``, ``float32`` or ``bfloat16``.
        device: where it would be used.
        shape: rows, inner width and columns of the matrix product that is measured.
    """
    device = torch.device(device)
    if requested == "float32":
        return Choice("float32", "float32, as the recipe asks.")
    if requested == "bfloat16":
        return Choice("bfloat16", "bfloat16, as the recipe asks.")
    full = measure_gemm(torch.float32, device, shape, seconds=0.15)
    half = measure_gemm(torch.bfloat16, device, shape, seconds=0.15)
    numbers = f"bfloat16 matrix products run at {half:,.1f} GFLOP/s here, float32 at {full:,.1f}"
    if half >= WORTH * full:
        return Choice("bfloat16", f"{numbers}: {half / full:.1f} times as fast.")
    return Choice("float32", f"{numbers}: not {WORTH} times as fast, so float32 is kept.")


def measure_gemm(
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    shape: tuple[int, int, int] = SHAPE,
    seconds: float = 0.15,
) -> float:
    """Speed of a matrix product in GFLOP/s (a multiply-add is two): the best of the repetitions that fit in the time.

    Starts with few rows and doubles them while time is left, so that arithmetic the machine has no instructions for
    is found slow without waiting for it. On a CPU the clock is that of this thread: while other programs have the core it stands,
    or a busy core would be taken for one that computes slowly.
    """
    rows, inner, columns = shape
    device = torch.device(device)
    clock = time.perf_counter if device.type == "cuda" else time.thread_time
    left = torch.ones(rows, inner, dtype=dtype, device=device)
    right = torch.ones(inner, columns, dtype=dtype, device=device)

    def once(rows: int) -> float:
        _wait(device)
        began = clock()
        torch.mm(left[:rows], right)
        _wait(device)
        return 2e-9 * rows * inner * columns / max(1e-9, clock() - began)

    began = clock()
    part, speed = max(1, rows // 64), 0.0
    once(part)  # the first product also loads the library
    while True:
        speed = max(speed, once(part))
        if clock() - began > seconds:
            return speed
        part = min(rows, 2 * part)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def set_threads(threads: int | None) -> int:
    """Use so many CPU threads (all that this process may use, if None); returns how many are used.

    ``OMP_NUM_THREADS`` wins over the default, and ``torchrun`` sets it to 1: its processes share the cores.
    """
    if threads is None and "OMP_NUM_THREADS" not in os.environ:
        threads = _cores()
    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_rss() -> int:
    """The most memory this process has held so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory() -> int:
    """Main memory of the machine (or of the container's limit, if lower), in bytes; 0 if unknown."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def cpu_name() -> str:
    """The processor, as it calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def measure_bandwidth(megabytes: int = 128, seconds: float = 0.3) -> float:
    """What memory delivers to one copy, in GB/s (a byte copied is one read and one written): the best that fits in the time."""
    source = torch.zeros(megabytes * 250_000)
    target = torch.empty_like(source)
    best, began = 0.0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        start = time.perf_counter()
        target.copy_(source)
        best = max(best, 2e-9 * 4 * source.numel() / (time.perf_counter() - start))
    return best


def has_vnni() -> bool:
    """Whether the processor adds products of 8-bit numbers exactly (VNNI, or Arm's dot product); without it pairs saturate at 16 bits."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return True
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False  # not known: choose what is right everywhere
    return any(f" {flag} " in flags for flag in ("avx512_vnni", "avx_vnni", "amx_int8"))


def describe() -> dict[str, Any]:
    """What a result depends on beside the recipe: processor, memory, versions, threads."""
    import transformers

    gpu = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return {
        "cpu": cpu_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": _cores(),
        "threads": torch.get_num_threads(),
        "memory_bytes": memory(),
        "gpu": gpu,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
