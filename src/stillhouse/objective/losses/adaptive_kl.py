"""Forward and reverse KL, weighed by where the gap is."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from stillhouse.objective.support import common
from stillhouse.types import Batch, Output, Signal, needs

_FIRST = 64
"""Outcomes among which the head is looked for first."""


@needs("topk")
def adaptive_kl(
    student: Output,
    teacher: Signal,
    batch: Batch,
    *,
    head: Annotated[float, Field(gt=0, le=1)] = 0.5,
    temperature: float = 1.0,
) -> Tensor:
    """Forward KL as far as the gap lies in the teacher's head, reverse KL as far as in its tail.

    The head is the smallest set of most probable outcomes whose probability reaches ``head``; the gap is Σ|p − q|. Forward KL
    is weighed by the head's share of the gap, reverse KL by the tail's; no gradient flows through the shares. Per position,
    [N], in nats, times temperature². Of a truncated teacher the remainder belongs to the tail. Wu et al. 2024 (AKL),
    arXiv:2404.02657, section "Adaptive Kullback-Leiber".

    Args:
        student: its logits.
        teacher: its distribution.
        batch: not looked at.
        head: probability that the head holds (µ in the paper).
        temperature: of both.

    """
    log_q_NS, log_p_NS = common(student, teacher, temperature)
    p_NS, q_NS = log_p_NS.exp(), log_q_NS.exp()
    with torch.no_grad():
        named = p_NS.shape[-1] - (0 if teacher.dense and teacher.shared is None else 1)
        gap_NS = (p_NS - q_NS).abs()
        count = min(
            _FIRST, named
        )  # a head is short as a rule: sorting the whole vocabulary would cost more than all else
        top_NK, order_NK = p_NS[:, :named].topk(count, -1)
        while count < named and not bool((top_NK.sum(-1) >= head).all()):
            count = min(4 * count, named)
            top_NK, order_NK = p_NS[:, :named].topk(count, -1)
        before_NK = top_NK.cumsum(-1) - top_NK
        head_N = (gap_NS.gather(-1, order_NK) * (before_NK < head)).sum(-1)
        share_N = head_N / gap_NS.sum(-1).clamp_min(torch.finfo(gap_NS.dtype).tiny)
    forward_N = (p_NS * (log_p_NS - log_q_NS)).sum(-1)
    reverse_N = (q_NS * (log_q_NS - log_p_NS)).sum(-1)
    return (share_N * forward_N + (1.0 - share_N) * reverse_N) * temperature**2
