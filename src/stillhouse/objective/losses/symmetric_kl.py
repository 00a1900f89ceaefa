"""Jeffreys' divergence, halved."""

from __future__ import annotations

from torch import Tensor

from stillhouse.objective.support import common
from stillhouse.types import Batch, Output, Signal, needs


@needs("topk")
def symmetric_kl(student: Output, teacher: Signal, batch: Batch, *, temperature: float = 1.0) -> Tensor:
    """Mean of forward and reverse KL: half of Jeffreys' divergence.

    ½ Σ (p − q)(log p − log q) per position, [N], in nats, times temperature². Halved so that near agreement it is as large
    as either KL, and α means the same. Kullback and Leibler 1951, doi:10.1214/aoms/1177729694, §2, where it is J; after
    Jeffreys 1946, doi:10.1098/rspa.1946.0056.
    """
    log_q_NS, log_p_NS = common(student, teacher, temperature)
    return 0.5 * ((log_p_NS.exp() - log_q_NS.exp()) * (log_p_NS - log_q_NS)).sum(-1) * temperature**2
