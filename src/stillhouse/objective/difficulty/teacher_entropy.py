"""How unsure the teacher is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stillhouse.types import Output, Signal


def teacher_entropy(student: Output, teacher: Signal) -> Tensor:
    """Entropy of the teacher's distribution at temperature 1, [N], in nats: low where it knows what comes.

    Of a top-k teacher the remainder is taken as spread evenly over the outcomes that it does not name, an upper bound; of a
    sampled one the draws are taken as they are.
    """
    if teacher.dense:
        assert teacher.logits_NV is not None, "a signal of hidden states is turned into logits by rows()"
        of_all_N: Tensor = torch.special.entr(torch.softmax(teacher.logits_NV.float(), -1)).sum(-1)
        return of_all_N
    assert teacher.logp_NK is not None
    p_NK = teacher.logp_NK.float().exp()
    entropy_N: Tensor = torch.special.entr(p_NK).sum(-1)
    if teacher.rest_N is None:
        return entropy_N
    rest_N = teacher.rest_N.float().exp()
    unnamed = max(student.logits_NV.shape[-1] - p_NK.shape[-1], 1)
    entropy_N += torch.special.entr(rest_N) + rest_N * math.log(unnamed)
    return entropy_N
