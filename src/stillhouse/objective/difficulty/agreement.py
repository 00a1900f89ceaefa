"""How often samples of teacher and student would differ."""

from __future__ import annotations

from torch import Tensor

from stillhouse.objective.support import common
from stillhouse.types import Batch, Output, Signal


def agreement(student: Output, teacher: Signal, batch: Batch) -> Tensor:
    """Chance that a sample of the student and one of the teacher are not the same, 1 − Σ p q, [N].

    This is what drawing many samples at each position would estimate, computed without drawing; whole answers are not compared.
    Of a truncated teacher two samples outside of what it names count as different.
    """
    log_q_NS, log_p_NS = common(student, teacher)
    both_NS = (log_q_NS + log_p_NS).exp()
    rest = not teacher.sampled and not (
        teacher.dense and teacher.shared is None
    )  # the last of the support is all others
    return 1.0 - both_NS[:, : both_NS.shape[-1] - rest].sum(-1)
