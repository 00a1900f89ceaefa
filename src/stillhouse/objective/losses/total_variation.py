"""Total variation distance."""

from __future__ import annotations

from torch import Tensor

from stillhouse.objective.support import common
from stillhouse.types import Batch, Output, Signal, needs


@needs("topk")
def total_variation(student: Output, teacher: Signal, batch: Batch, *, temperature: float = 1.0) -> Tensor:
    """Half the sum of |p − q|: the chance that speculative decoding rejects the student's word.

    Per position, [N], 0 to 1 at temperature 1. Times temperature, not its square: the distance is of first order in the
    logits, its gradient falls as 1/T, and T gives that back. Its gradient does not vanish as the two approach each other, so
    the last steps jitter around agreement. Wen et al. 2023 (f-DISTILL), arXiv:2307.15190, §3.
    """
    log_q_NS, log_p_NS = common(student, teacher, temperature)
    return 0.5 * (log_p_NS.exp() - log_q_NS.exp()).abs().sum(-1) * temperature
