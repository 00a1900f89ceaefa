"""Forward Kullback–Leibler divergence."""

from __future__ import annotations

from torch import Tensor

from stillhouse.objective.support import common
from stillhouse.types import Batch, Output, Signal


def forward_kl(student: Output, teacher: Signal, batch: Batch, *, temperature: float = 1.0) -> Tensor:
    """KL(teacher ‖ student): the student covers everything the teacher might say.

    Per position, [N], in nats, times temperature²: softening divides the gradient by T², and this gives it back, so that
    the balance with a hard loss does not move with T. Hinton et al. 2015, arXiv:1503.02531, §2.
    """
    log_q_NS, log_p_NS = common(student, teacher, temperature)
    return (log_p_NS.exp() * (log_p_NS - log_q_NS)).sum(-1) * temperature**2
