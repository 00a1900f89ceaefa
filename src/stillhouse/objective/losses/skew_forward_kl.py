"""Skew KL with the mixture in the student's place."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from stillhouse.objective.skewed import kl_to_mixture
from stillhouse.objective.support import common
from stillhouse.types import Batch, Output, Signal, needs


@needs("topk")
def skew_forward_kl(
    student: Output,
    teacher: Signal,
    batch: Batch,
    *,
    skew: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    temperature: float = 1.0,
) -> Tensor:
    """KL(teacher ‖ mixture of both): forward KL that stays bounded where the student says nothing.

    ``KL(p ‖ λp + (1 − λ)q)`` with p the teacher, q the student and λ the skew; per position, [N], in nats, times
    temperature². The KL is at most −log λ, so that one outcome the student deems impossible cannot drown the rest. Near
    agreement it is (1 − λ)² times the plain KL, as in the paper. Ko et al. 2024 (DistiLLM), arXiv:2402.03898, §3.1, where λ
    is α.

    Args:
        student: its logits.
        teacher: its distribution.
        batch: not looked at.
        skew: λ, from 0 (plain KL) to below 1.
        temperature: of both.

    """
    log_q_NS, log_p_NS = common(student, teacher, temperature)
    return kl_to_mixture(log_p_NS, log_q_NS, skew) * temperature**2
