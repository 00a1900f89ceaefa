"""KL at a temperature and cross-entropy with their closed-form gradient, row by row.

Two ways to the same numbers: plain torch, which says what is meant, and a few lines of C that do it in three passes over a
row that stays in cache. The C is compiled once per machine at first use; where there is no compiler, torch does it.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

_FLAGS = ["-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]


def kl_ce_(
    logits_NV: Tensor,
    teacher_NV: Tensor | None,
    labels_N: Tensor,
    temperature: float,
    soft_N: Tensor,
    hard_N: Tensor,
) -> tuple[Tensor, Tensor]:
    """Replace student logits by the gradient of ``Σ soft · T² KL(teacher ‖ student at T) + Σ hard · CE``.

    Args:
        logits_NV: the student's, float32; overwritten with the gradient.
        teacher_NV: the teacher's, float32; may be overwritten. None: cross-entropy alone.
        labels_N: true outcomes.
        temperature: T, of the soft part.
        soft_N: what each position's divergence is multiplied by.
        hard_N: what each position's cross-entropy is multiplied by.

    Returns:
        the unweighted T² · KL and CE of each position, [N] each.

    Closed form: Hinton et al. 2015, arXiv:1503.02531, eq. 2; here ``T · (softmax(s/T) − softmax(t/T))`` after the factor T².

    """
    library = _library() if _takes(logits_NV, teacher_NV) else None
    if library is None:
        return kl_ce_torch_(logits_NV, teacher_NV, labels_N, temperature, soft_N, hard_N)
    rows, V = logits_NV.shape
    Vt = V if teacher_NV is None else teacher_NV.shape[1]
    kl_N, ce_N = torch.zeros(rows), torch.empty(rows)
    soft_N, hard_N, labels_N = soft_N.float().contiguous(), hard_N.float().contiguous(), labels_N.contiguous()
    threads = max(1, min(torch.get_num_threads(), rows))
    scratch = torch.empty(threads, 2 * V)

    def part(index: int) -> None:
        library.kl_ce_rows(
            _pointer(logits_NV), _pointer(teacher_NV), _pointer(labels_N),
            rows * index // threads, rows * (index + 1) // threads, V, Vt, min(V, Vt), temperature,
            _pointer(soft_N), _pointer(hard_N), _pointer(scratch[index]), _pointer(kl_N), _pointer(ce_N),
        )  # fmt: skip

    others = [_pool().submit(part, index) for index in range(1, threads)]
    part(0)
    for other in others:
        other.result()
    return kl_N, ce_N


def kl_ce_torch_(
    logits_NV: Tensor,
    teacher_NV: Tensor | None,
    labels_N: Tensor,
    temperature: float,
    soft_N: Tensor,
    hard_N: Tensor,
) -> tuple[Tensor, Tensor]:
    """The same as ``kl_ce_`` in plain torch."""
    log_q_NV = torch.log_softmax(logits_NV, -1)
    ce_N = -log_q_NV.gather(-1, labels_N[:, None])[:, 0]
    kl_N = torch.zeros_like(ce_N)
    gradient_NV = log_q_NV.exp_().mul_(hard_N[:, None])
    gradient_NV.scatter_add_(-1, labels_N[:, None], -hard_N[:, None].to(gradient_NV.dtype))
    if teacher_NV is not None:
        shared = min(logits_NV.shape[1], teacher_NV.shape[1])
        log_q_NS = torch.log_softmax(logits_NV[:, :shared] / temperature, -1)
        log_p_NS = torch.log_softmax(teacher_NV[:, :shared] / temperature, -1)
        p_NS = log_p_NS.exp()
        kl_N = (p_NS * (log_p_NS - log_q_NS)).sum(-1) * temperature**2
        gradient_NV[:, :shared] += log_q_NS.exp_().sub_(p_NS).mul_(soft_N[:, None] * temperature)
    logits_NV.copy_(gradient_NV)
    return kl_N, ce_N


def _takes(logits_NV: Tensor, teacher_NV: Tensor | None) -> bool:
    """Whether the compiled rows can work on these tensors."""
    tensors = [logits_NV] if teacher_NV is None else [logits_NV, teacher_NV]
    return all(x.device.type == "cpu" and x.dtype == torch.float32 and x.is_contiguous() for x in tensors)


def _pointer(x: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if x is None else x.data_ptr())


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 1) - 1), thread_name_prefix="rows")


@cache
def _library() -> ctypes.CDLL | None:
    """The compiled rows, or None where they cannot be had."""
    source = Path(__file__).with_suffix(".c")
    compiler = os.environ.get("CC", "cc")
    key = hashlib.sha256(
        source.read_bytes() + repr((_FLAGS, compiler, platform.machine(), _cpu())).encode()
    ).hexdigest()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stillhouse"
    target = folder / f"rows-{key[:16]}.so"
    try:
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as temporary:
                built = Path(temporary) / "rows.so"
                command = [compiler, *_FLAGS, "-o", str(built), str(source), "-lm"]
                subprocess.run(command, check=True, capture_output=True, timeout=60)
                built.replace(target)
        library = ctypes.CDLL(str(target))
    except (OSError, subprocess.SubprocessError):
        return None
    i64, f32, pointer = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
    library.kl_ce_rows.argtypes = [pointer] * 3 + [i64] * 5 + [f32] + [pointer] * 5
    library.kl_ce_rows.restype = None
    return library


def _cpu() -> str:
    """What tells CPUs apart: code made for one may not run on another that shares a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
