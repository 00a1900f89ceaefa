"""Only where the teacher is right."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from stillhouse.types import Batch, Signal


def correctness_gate(teacher: Signal, batch: Batch, *, otherwise: Annotated[float, Field(ge=0)] = 0.0) -> Tensor:
    """1 where the teacher's first choice is the true outcome, else less: its mistakes are not learned.

    Per position, [N]. Of next tokens even a good teacher's first choice is often not the true one, and its distribution worth
    learning all the same: ``otherwise`` above 0 keeps some of it. As the mask of DSKD, Zhang et al. 2024, arXiv:2406.17328.

    Where the student wrote the text itself (``truth_N`` is 0) there is no true outcome that the teacher could miss, and one who
    contradicts the student is what it is asked for: 1 there, whatever it says. ``own_text`` weighs such text as a whole.

    Args:
        teacher: its distribution; of a sampled one, the outcome drawn most.
        batch: for the labels, and which of them are true.
        otherwise: what the other positions count.

    """
    if teacher.dense:
        assert teacher.logits_NV is not None, "a signal of hidden states is turned into logits by rows()"
        choice_N = teacher.logits_NV.argmax(-1)
        if teacher.shared is not None:  # its ids → ours; what only it knows is never right
            ours_M, theirs_M = teacher.shared
            ours_V = choice_N.new_full((teacher.logits_NV.shape[-1],), -1)
            ours_V[theirs_M] = ours_M
            choice_N = ours_V[choice_N]
    else:
        assert teacher.ids_NK is not None and teacher.logp_NK is not None
        choice_N = teacher.ids_NK.gather(-1, teacher.logp_NK.argmax(-1, keepdim=True)).squeeze(-1)
    right_N = choice_N == batch.labels_N
    if batch.truth_N is not None:
        right_N = right_N | (batch.truth_N <= 0)
    return torch.where(right_N, 1.0, otherwise)
