"""Distance between attention maps."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.objective.attended import by_document, log_attention, same_heads
from stillhouse.types import Attended, Batch, Output, Signal, needs


@needs("attention")
def attention_mse(student: Output, teacher: Signal, batch: Batch) -> Tensor:
    """Squared distance of attention maps after the softmax, averaged over heads and pairs of layers.

    Per position, [N], 0 to 2: summed, not averaged, over the tokens looked at, so that a row of a long document counts as
    much as one of a short. Heads are matched one to one where there are equally many; where one number divides the other,
    neighbouring heads are averaged; else all heads of each. After Jiao et al. 2019 (TinyBERT), arXiv:1909.10351, §3.1, which
    compares scores before the softmax: these have no common scale where head widths differ.
    """
    pairs = list(zip(student.layers["attention"], teacher.layers["attention"], strict=True))
    return torch.stack([_distance(ours, theirs, batch) for ours, theirs in pairs]).mean(0)


def _distance(ours: Attended, theirs: Attended, batch: Batch) -> Tensor:
    causal = ours.causal or theirs.causal

    def compare(start: int, stop: int, rows_R: Tensor) -> Tensor:
        log_q, log_p = same_heads(
            log_attention(ours, start, stop, rows_R, causal), log_attention(theirs, start, stop, rows_R, causal)
        )
        return (log_p.exp() - log_q.exp()).square().sum(-1).mean(0)

    return by_document(batch, compare)
