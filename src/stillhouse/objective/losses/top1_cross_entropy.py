"""Cross-entropy with the teacher's first choice."""

from __future__ import annotations

from torch import Tensor

from stillhouse.objective.support import common
from stillhouse.types import Batch, Output, Signal, needs


@needs("topk")
def top1_cross_entropy(student: Output, teacher: Signal, batch: Batch) -> Tensor:
    """−log q(the teacher's most probable outcome): a hard label from the teacher.

    Per position, [N], in nats. What is left of distillation where a teacher tells only its choice; its lowest value is 0 and
    not at agreement. Lee 2013 (Pseudo-Label), §2; per word as in Kim & Rush 2016, arXiv:1606.07947, §3.
    """
    log_q_NS, log_p_NS = common(student, teacher)
    if not teacher.dense or teacher.shared is not None:  # the last is the sum of all others: not an outcome to choose
        log_q_NS, log_p_NS = log_q_NS[:, :-1], log_p_NS[:, :-1]
    return -log_q_NS.gather(-1, log_p_NS.argmax(-1, keepdim=True)).squeeze(-1)
