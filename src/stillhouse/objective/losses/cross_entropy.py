"""Cross-entropy with the true outcome."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from stillhouse.types import Batch, Output, Signal


def cross_entropy(student: Output, teacher: Signal | None, batch: Batch) -> Tensor:
    """−log q(true outcome): the task's own loss, needs no teacher.

    Per position, [N], in nats. The hard part of distillation: Hinton et al. 2015, arXiv:1503.02531, §2.
    """
    return F.cross_entropy(student.logits_NV.float(), batch.labels_N, reduction="none")
