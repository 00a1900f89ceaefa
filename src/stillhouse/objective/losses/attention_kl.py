"""Divergence of attention maps."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.objective.attended import by_document, log_attention, same_heads
from stillhouse.types import Attended, Batch, Output, Signal, needs


@needs("attention")
def attention_kl(student: Output, teacher: Signal, batch: Batch) -> Tensor:
    """KL(teacher's attention ‖ student's): where each token looks, averaged over heads and pairs of layers.

    Per position, [N], in nats. Heads are matched one to one where there are equally many; where one number divides the
    other, neighbouring heads are averaged; else all heads of each. Wang et al. 2020 (MiniLM), arXiv:2002.10957, §3.1.
    """
    pairs = list(zip(student.layers["attention"], teacher.layers["attention"], strict=True))
    return torch.stack([_kl(ours, theirs, batch) for ours, theirs in pairs]).mean(0)


def _kl(ours: Attended, theirs: Attended, batch: Batch) -> Tensor:
    causal = ours.causal or theirs.causal

    def compare(start: int, stop: int, rows_R: Tensor) -> Tensor:
        log_q, log_p = same_heads(
            log_attention(ours, start, stop, rows_R, causal), log_attention(theirs, start, stop, rows_R, causal)
        )
        return (log_p.exp() * (log_p - log_q)).sum(-1).mean(0)

    return by_document(batch, compare)
