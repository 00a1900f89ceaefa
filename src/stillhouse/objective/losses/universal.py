"""Universal logit distillation: probabilities compared by rank, across vocabularies."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stillhouse.types import Batch, Output, Signal, across, needs


@across
@needs("dense")
def universal(student: Output, teacher: Signal, batch: Batch) -> Tensor:
    """Sum of |p − q| over the sorted probabilities: as sure as the teacher, of whatever it may be.

    The shorter vocabulary is filled up with zeros; per position, [N], 0 to 2. It needs no common vocabulary and knows nothing
    of what is said: for teachers of another tokenizer, beside a loss on labels. Boizard et al. 2024 (ULD), arXiv:2402.12030,
    §3.
    """
    assert teacher.logits_NV is not None, "a signal of hidden states is turned into logits by rows()"
    ours_NV, theirs_NV = student.logits_NV, teacher.logits_NV
    if torch.float64 not in (ours_NV.dtype, theirs_NV.dtype):
        ours_NV, theirs_NV = ours_NV.float(), theirs_NV.float()
    q_NV = torch.softmax(ours_NV, -1).sort(-1, descending=True).values
    p_NV = torch.softmax(theirs_NV, -1).sort(-1, descending=True).values
    longer = max(q_NV.shape[-1], p_NV.shape[-1])
    q_NV, p_NV = (F.pad(x_NV, (0, longer - x_NV.shape[-1])) for x_NV in (q_NV, p_NV))
    return (p_NV - q_NV).abs().sum(-1)
