"""Cross-entropy with softened labels: distillation from a teacher who knows nothing."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from stillhouse.types import Batch, Output, Signal


def label_smoothing(
    student: Output, teacher: Signal | None, batch: Batch, *, smoothing: Annotated[float, Field(ge=0, le=1)] = 0.1
) -> Tensor:
    """Cross-entropy with 1 − ε on the true outcome and ε spread over all: the baseline without a teacher.

    Per position, [N], in nats. What a teacher adds must be more than this. Szegedy et al. 2015, arXiv:1512.00567, §7; as a
    baseline of distillation: Yuan et al. 2019, arXiv:1909.11723.

    Args:
        student: its logits.
        teacher: not looked at.
        batch: for the labels.
        smoothing: ε; 0 is plain cross-entropy.

    """
    logits_NV = student.logits_NV if student.logits_NV.dtype == torch.float64 else student.logits_NV.float()
    return F.cross_entropy(logits_NV, batch.labels_N, reduction="none", label_smoothing=smoothing)
