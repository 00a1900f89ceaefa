"""What is computed over whole rows of logits: the usual losses with their closed-form gradient, and an evaluation's scores.

Two ways to the same numbers: plain torch, which says what is meant, and a few lines of C that do it in a few passes over a
row that stays in cache. The C is compiled once per machine at first use; where there is no compiler, torch does it.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from stillhouse.files import cache_folder

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

    def part(first: int, last: int, scratch: Tensor) -> None:
        library.kl_ce_rows(
            _pointer(logits_NV), _pointer(teacher_NV), _pointer(labels_N), first, last, V, Vt, min(V, Vt), temperature,
            _pointer(soft_N), _pointer(hard_N), _pointer(scratch), _pointer(kl_N), _pointer(ce_N),
        )  # fmt: skip

    _share(part, rows, V)
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


def topk_kl_ce_(
    logits_NV: Tensor,
    ids_NK: Tensor,
    logp_NS: Tensor,
    labels_N: Tensor,
    temperature: float,
    soft_N: Tensor,
    hard_N: Tensor,
) -> tuple[Tensor, Tensor]:
    """As ``kl_ce_``, against a teacher of which only some outcomes are known.

    Args:
        logits_NV: the student's, float32; overwritten with the gradient.
        ids_NK: outcomes named, each once in a row; −1 for none.
        logp_NS: their log-probabilities at the temperature, and in column K that of all others together; −inf there: the
            named ones stand for all (they were sampled).
        labels_N: true outcomes.
        temperature: T, of the soft part.
        soft_N: what each position's divergence is multiplied by.
        hard_N: what each position's cross-entropy is multiplied by.

    Returns:
        the unweighted T² · KL over the named outcomes and the rest, and CE, of each position, [N] each.

    """
    library = _library() if _takes(logits_NV, None) else None
    if library is None:
        return topk_kl_ce_torch_(logits_NV, ids_NK, logp_NS, labels_N, temperature, soft_N, hard_N)
    (rows, V), K = logits_NV.shape, ids_NK.shape[1]
    kl_N, ce_N = torch.empty(rows), torch.empty(rows)
    soft_N, hard_N, labels_N = soft_N.float().contiguous(), hard_N.float().contiguous(), labels_N.contiguous()
    ids_NK, logp_NS = ids_NK.long().contiguous(), logp_NS.float().contiguous()

    def part(first: int, last: int, scratch: Tensor) -> None:
        library.topk_kl_ce_rows(
            _pointer(logits_NV), _pointer(labels_N), _pointer(ids_NK), _pointer(logp_NS), first, last, V, K, temperature,
            _pointer(soft_N), _pointer(hard_N), _pointer(scratch), _pointer(kl_N), _pointer(ce_N),
        )  # fmt: skip

    _share(part, rows, V)
    return kl_N, ce_N


def topk_kl_ce_torch_(
    logits_NV: Tensor,
    ids_NK: Tensor,
    logp_NS: Tensor,
    labels_N: Tensor,
    temperature: float,
    soft_N: Tensor,
    hard_N: Tensor,
) -> tuple[Tensor, Tensor]:
    """The same as ``topk_kl_ce_`` in plain torch."""
    none_NK, at_NK = ids_NK < 0, ids_NK.clamp_min(0)
    log_q_NV = torch.log_softmax(logits_NV, -1)
    ce_N = -log_q_NV.gather(-1, labels_N[:, None])[:, 0]
    gradient_NV = log_q_NV.exp_().mul_(hard_N[:, None])
    gradient_NV.scatter_add_(-1, labels_N[:, None], -hard_N[:, None].to(gradient_NV.dtype))
    log_q_NV = torch.log_softmax(logits_NV / temperature, -1)
    log_q_NK = log_q_NV.gather(-1, at_NK)
    p_NK = logp_NS[:, :-1].exp().masked_fill(none_NK, 0.0)
    p_rest_N, log_p_rest_N = logp_NS[:, -1].exp(), logp_NS[:, -1].clamp_min(-1e4)
    q_rest_N = 1.0 - log_q_NK.exp().masked_fill(none_NK, 0.0).sum(-1)
    least = torch.finfo(torch.float32).eps
    kl_N = (p_NK * (logp_NS[:, :-1].clamp_min(-1e4) - log_q_NK)).sum(-1)
    kl_N = (kl_N + p_rest_N * (log_p_rest_N - q_rest_N.clamp_min(least).log())) * temperature**2
    p_rest_N = p_rest_N.masked_fill(q_rest_N <= least, 0.0)
    named_N = p_NK.sum(-1) + p_rest_N
    others_N = named_N - p_rest_N / q_rest_N.clamp_min(least)
    q_NV = log_q_NV.exp_()
    q_NK = q_NV.gather(-1, at_NK)
    scale_N1 = soft_N[:, None] * temperature
    gradient_NV += q_NV.mul_(others_N[:, None]).mul_(scale_N1)
    correction_NK = (q_NK * (named_N - others_N)[:, None] - p_NK).masked_fill(none_NK, 0.0)
    gradient_NV.scatter_add_(-1, at_NK, (correction_NK * scale_N1).to(gradient_NV.dtype))
    logits_NV.copy_(gradient_NV)
    return kl_N, ce_N


@dataclass(frozen=True)
class Compared:
    """What an evaluation asks of N positions; see ``compare``."""

    nll_N: Tensor
    kl_N: Tensor
    accept_N: Tensor
    conf_N: Tensor
    top_N: Tensor
    teacher_top_N: Tensor


def compare(logits_NV: Tensor, teacher_NV: Tensor, labels_N: Tensor) -> Compared:
    """Score a model's logits against the labels and the teacher's, at temperature 1, in nats.

    Where one vocabulary is longer, what compares the two lives on the shared prefix.

    Args:
        logits_NV: the model's.
        teacher_NV: the teacher's.
        labels_N: true outcomes.

    Returns:
        −log q(label); KL(teacher ‖ model); Σ min(p, q), the chance that a draw of the model passes as the teacher's
        (speculative sampling, Leviathan et al. 2023, arXiv:2211.17192, §3); the largest probability; and both argmaxes.

    """
    library = _library() if _takes(logits_NV, teacher_NV) else None
    if library is None:
        return compare_torch(logits_NV, teacher_NV, labels_N)
    (rows, V), Vt = logits_NV.shape, teacher_NV.shape[1]
    out, top, labels_N = (
        torch.empty(rows, 4, dtype=torch.float64),
        torch.empty(rows, 2, dtype=torch.int64),
        labels_N.contiguous(),
    )

    def part(first: int, last: int, scratch: Tensor) -> None:
        library.compare_rows(
            _pointer(logits_NV), _pointer(teacher_NV), _pointer(labels_N), first, last, V, Vt, min(V, Vt),
            _pointer(scratch), _pointer(out), _pointer(top),
        )  # fmt: skip

    _share(part, rows, V)
    return Compared(out[:, 0], out[:, 1], out[:, 2], out[:, 3], top[:, 0], top[:, 1])


def compare_torch(logits_NV: Tensor, teacher_NV: Tensor, labels_N: Tensor) -> Compared:
    """The same as ``compare`` in plain torch."""
    logits_NV, teacher_NV = logits_NV.float(), teacher_NV.float()
    shared = min(logits_NV.shape[1], teacher_NV.shape[1])
    log_q_NV = torch.log_softmax(logits_NV, -1)
    log_q_NS = torch.log_softmax(logits_NV[:, :shared], -1)
    log_p_NS = torch.log_softmax(teacher_NV[:, :shared], -1)
    conf_N, top_N = log_q_NV.max(-1)
    return Compared(
        nll_N=-log_q_NV.gather(-1, labels_N[:, None])[:, 0].double(),
        kl_N=(log_p_NS.exp() * (log_p_NS - log_q_NS)).sum(-1).double(),
        accept_N=torch.minimum(log_p_NS, log_q_NS).exp().sum(-1).double(),
        conf_N=conf_N.exp().double(),
        top_N=top_N,
        teacher_top_N=teacher_NV.argmax(-1),
    )


def _share(part: Callable[[int, int, Tensor], None], rows: int, V: int) -> None:
    """Call ``part(first, last, scratch [2 V])`` over the rows, in as many threads as torch uses."""
    threads = max(1, min(torch.get_num_threads(), rows))
    scratch = torch.empty(threads, 2 * V)
    borders = [rows * index // threads for index in range(threads + 1)]
    others = [_pool().submit(part, borders[i], borders[i + 1], scratch[i]) for i in range(1, threads)]
    part(borders[0], borders[1], scratch[0])
    for other in others:
        other.result()


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
    folder = cache_folder()
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
    library.topk_kl_ce_rows.argtypes = [pointer] * 4 + [i64] * 4 + [f32] + [pointer] * 5
    library.topk_kl_ce_rows.restype = None
    library.compare_rows.argtypes = [pointer] * 3 + [i64] * 5 + [pointer] * 3
    library.compare_rows.restype = None
    return library


def _cpu() -> str:
    """What tells CPUs apart: code made for one may not run on another that shares a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
