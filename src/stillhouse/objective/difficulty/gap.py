"""How far the student is from its teacher."""

from __future__ import annotations

from torch import Tensor

from stillhouse.objective.support import common
from stillhouse.types import Batch, Output, Signal


def gap(student: Output, teacher: Signal, batch: Batch) -> Tensor:
    """KL(teacher ‖ student) at temperature 1, [N], in nats: what the student has yet to learn from its teacher.

    Of a truncated teacher the outcomes that it does not name count as one, so it is a lower bound.
    """
    log_q_NS, log_p_NS = common(student, teacher)
    return (log_p_NS.exp() * (log_p_NS - log_q_NS)).sum(-1)
