"""The α–β divergence."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from stillhouse.errors import RecipeError, fail
from stillhouse.objective.support import common
from stillhouse.types import Batch, Output, Signal, needs

_SMALL = 0.05
"""Below it the three terms cancel to more than float32 carries."""


@needs("topk")
def alpha_beta(
    student: Output,
    teacher: Signal,
    batch: Batch,
    *,
    alpha: Annotated[float, Field(ge=0)] = 0.2,
    beta: Annotated[float, Field(ge=0)] = 0.7,
    temperature: float = 1.0,
) -> Tensor:
    """α–β divergence: how much large errors and the student's own confidence count, set apart.

    ``Σ [α/(α+β) p^(α+β) + β/(α+β) q^(α+β) − p^α q^β] / (αβ)`` with p the teacher and q the student; per position, [N], times
    temperature². A smaller α attends more to outcomes where the two differ most, a larger β to those the student is sure of.
    (1, 0) is forward KL, (0, 1) reverse KL, (½, ½) four times the squared Hellinger distance; the ends are taken exactly.
    Wang et al. 2025 (ABKD), arXiv:2505.04560; Cichocki et al. 2011, doi:10.3390/e13010134, §2.

    Args:
        student: its logits.
        teacher: its distribution.
        batch: not looked at.
        alpha: exponent of the teacher, 0 or more.
        beta: exponent of the student, 0 or more; not both 0.
        temperature: of both.

    Raises:
        RecipeError: both exponents are 0.

    """
    if alpha == beta == 0.0:
        raise fail(
            RecipeError, "alpha_beta", "alpha and beta are both 0", "Give at least one of them a positive value."
        )
    log_q_NS, log_p_NS = common(student, teacher, temperature)
    dtype = log_q_NS.dtype
    if 0.0 < min(alpha, beta) < _SMALL:
        log_q_NS, log_p_NS = log_q_NS.double(), log_p_NS.double()
    power = alpha + beta
    p_NS, q_NS = torch.exp(power * log_p_NS), torch.exp(power * log_q_NS)
    if beta == 0.0:
        value_NS = (p_NS * power * (log_p_NS - log_q_NS) + q_NS - p_NS) / power**2
    elif alpha == 0.0:
        value_NS = (q_NS * power * (log_q_NS - log_p_NS) + p_NS - q_NS) / power**2
    else:
        mixed_NS = torch.exp(alpha * log_p_NS + beta * log_q_NS)
        value_NS = (alpha / power * p_NS + beta / power * q_NS - mixed_NS) / (alpha * beta)
    return value_NS.sum(-1).to(dtype) * temperature**2
