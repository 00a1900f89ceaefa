"""How sure the teacher is."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from stillhouse.types import Output, Signal


def teacher_confidence(
    student: Output,
    teacher: Signal,
    *,
    by: Literal["probability", "entropy", "margin"] = "probability",
    power: Annotated[float, Field(ge=0)] = 1.0,
) -> Tensor:
    """How sure the teacher is of its word, from 0 to 1: positions where it guesses count less.

    Per position, [N], at temperature 1. Of a truncated teacher the remainder is taken as spread evenly over the outcomes it
    does not name, so its entropy is an upper bound; of a sampled one the draws are taken as they are. By entropy after
    Kwon et al. 2020, "Adaptive Knowledge Distillation Based on Entropy", ICASSP.

    Args:
        student: for the number of outcomes where the teacher is truncated.
        teacher: its distribution.
        by: ``probability`` of its first choice; ``entropy``, as 1 − H / log V; ``margin``, first less second probability.
        power: the confidence is raised to it; 0 makes all positions count the same.

    """
    outcomes = teacher.vocabulary or student.logits_NV.shape[-1]
    if teacher.dense:
        assert teacher.logits_NV is not None, "a signal of hidden states is turned into logits by rows()"
        p_NK = torch.softmax(teacher.logits_NV.float(), -1)
        rest_N = p_NK.new_zeros(len(p_NK))
    else:
        assert teacher.logp_NK is not None
        p_NK = teacher.logp_NK.float().exp()
        rest_N = p_NK.new_zeros(len(p_NK)) if teacher.rest_N is None else teacher.rest_N.float().exp()
    sure_N: Tensor
    if by == "entropy":
        unnamed = max(outcomes - p_NK.shape[-1], 1)
        entropy_N = torch.special.entr(p_NK).sum(-1) + torch.special.entr(rest_N) + rest_N * math.log(unnamed)
        sure_N = 1.0 - entropy_N / math.log(max(outcomes, 2))
    elif by == "margin":
        first_N2 = torch.cat([p_NK, rest_N[:, None]], -1) if p_NK.shape[-1] == 1 else p_NK
        first_N2 = first_N2.topk(2, -1).values
        sure_N = first_N2[:, 0] - first_N2[:, 1]
    else:
        sure_N = p_NK.amax(-1)
    return sure_N.clamp(0.0, 1.0).pow(power)
