"""Reverse Kullback–Leibler divergence."""

from __future__ import annotations

from torch import Tensor

from stillhouse.objective.support import common
from stillhouse.types import Batch, Output, Signal, needs


@needs("topk")
def reverse_kl(student: Output, teacher: Signal, batch: Batch, *, temperature: float = 1.0) -> Tensor:
    """KL(student ‖ teacher): the student says only what the teacher might say.

    Per position, [N], in nats, times temperature². Gu et al. 2023 (MiniLLM), arXiv:2306.08543, §2. Against a truncated
    teacher, whatever the student says outside the named outcomes is compared as one sum: it is pushed down to the remainder,
    but not told where to go.
    """
    log_q_NS, log_p_NS = common(student, teacher, temperature)
    return (log_q_NS.exp() * (log_q_NS - log_p_NS)).sum(-1) * temperature**2
