"""Angle between hidden states."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stillhouse.types import Batch, Output, Signal, needs


@needs("hidden")
def hidden_cosine(student: Output, teacher: Signal, batch: Batch) -> Tensor:
    """One minus the cosine between hidden states, averaged over the pairs of layers: their direction, not their size.

    Per position, [N], 0 to 2. The student's states are projected to the teacher's width before, by a learned map where the
    widths differ. Sanh et al. 2019 (DistilBERT), arXiv:1910.01108, §2.
    """
    pairs = list(zip(student.layers["hidden"], teacher.layers["hidden"], strict=True))
    return torch.stack([_cosine(ours_NH, theirs_NH) for ours_NH, theirs_NH in pairs]).mean(0)


def _cosine(ours_NH: Tensor, theirs_NH: Tensor) -> Tensor:
    if ours_NH.dtype != torch.float64:
        ours_NH, theirs_NH = ours_NH.float(), theirs_NH.float()
    gap_NH = F.normalize(ours_NH, dim=-1) - F.normalize(theirs_NH, dim=-1)
    return 0.5 * gap_NH.square().sum(-1)  # 1 − cos, without its cancellation
