"""How hard the text is for the student."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from stillhouse.types import Batch, Output


def student_loss(student: Output, batch: Batch) -> Tensor:
    """−log of the probability that the student gives the true outcome, [N], in nats. Needs no teacher.

    High where there is much to learn and where there is nothing to learn: noise stays hard for ever.
    """
    return F.cross_entropy(student.logits_NV.float(), batch.labels_N, reduction="none")
