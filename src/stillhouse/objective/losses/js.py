"""Generalised Jensen–Shannon divergence."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from stillhouse.objective.support import common
from stillhouse.types import Batch, Output, Signal, needs

_LARGE = 80.0
"""exp of it still fits float32; beyond it log(1 − β + β eᵈ) is a straight line."""


@needs("topk")
def js(
    student: Output,
    teacher: Signal,
    batch: Batch,
    *,
    beta: Annotated[float, Field(ge=0, le=1)] = 0.5,
    temperature: float = 1.0,
) -> Tensor:
    """Generalised Jensen–Shannon divergence, scaled to run from forward KL to reverse KL.

    ``[β KL(p ‖ m) + (1 − β) KL(q ‖ m)] / (β(1 − β))`` with ``m = βp + (1 − β)q``, p the teacher, q the student; per position,
    [N], in nats, times temperature². Without the division the value, and its gradient, fall to 0 towards either end; with it
    the limits are forward KL (β → 0) and reverse KL (β → 1), both taken exactly, and near agreement every β is as large as
    either. β = ½ is four times the Jensen–Shannon divergence. Agarwal et al. 2023 (GKD), arXiv:2306.13649, §2.

    Args:
        student: its logits.
        teacher: its distribution.
        batch: not looked at.
        beta: share of the teacher in the mixture, 0 to 1.
        temperature: of both.

    """
    log_q_NS, log_p_NS = common(student, teacher, temperature)
    if beta > 0.5:  # the same with the two exchanged; below, β ≤ ½ keeps log1p away from −1
        beta, log_q_NS, log_p_NS = 1.0 - beta, log_p_NS, log_q_NS
    p_NS, log_ratio_NS = log_p_NS.exp(), log_p_NS - log_q_NS
    if beta == 0.0:
        return (p_NS * log_ratio_NS).sum(-1) * temperature**2
    q_NS = log_q_NS.exp()
    # log(m / q), exact to rounding however small β is
    log_m_q_NS = torch.log1p(beta * torch.expm1(log_ratio_NS.clamp_max(_LARGE))) + (log_ratio_NS - _LARGE).clamp_min(0)
    # KL(q ‖ m) / β, with Σ(p − q) added: 0, but for a stored teacher whose sum is 1 only up to rounding; without it the
    # value would jump by that at β → 0
    student_NS = (p_NS - q_NS) - q_NS * (log_m_q_NS / beta)
    teacher_NS = p_NS * (log_ratio_NS - log_m_q_NS) / (1.0 - beta)
    return (student_NS + teacher_NS).sum(-1) * temperature**2
