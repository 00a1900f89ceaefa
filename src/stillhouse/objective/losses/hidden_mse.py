"""Distance between hidden states."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.types import Batch, Output, Signal, needs


@needs("hidden")
def hidden_mse(student: Output, teacher: Signal, batch: Batch) -> Tensor:
    """Mean squared difference of hidden states, over the teacher's width and the pairs of layers.

    Per position, [N]. The student's states are projected to the teacher's width before, by a learned map where the widths
    differ. It takes the size of the states as it is: in a model with a few very large entries these decide; ``hidden_cosine``
    does not mind. Romero et al. 2014 (FitNets), arXiv:1412.6550, §2.2; Jiao et al. 2019 (TinyBERT), arXiv:1909.10351, §3.1.
    """
    pairs = list(zip(student.layers["hidden"], teacher.layers["hidden"], strict=True))
    return torch.stack([_mse(ours_NH, theirs_NH) for ours_NH, theirs_NH in pairs]).mean(0)


def _mse(ours_NH: Tensor, theirs_NH: Tensor) -> Tensor:
    if ours_NH.dtype != torch.float64:
        ours_NH, theirs_NH = ours_NH.float(), theirs_NH.float()
    return (ours_NH - theirs_NH).square().mean(-1)
