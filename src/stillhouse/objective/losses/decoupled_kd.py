"""Decoupled distillation: the true outcome and all others, each with its own weight."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from stillhouse.objective.support import common
from stillhouse.types import Batch, Output, Signal, needs

_NONE = -1e9
"""Left out of a sum of exponentials; finite, so that no product is NaN."""


@needs("dense")
def decoupled_kd(
    student: Output,
    teacher: Signal,
    batch: Batch,
    *,
    target: Annotated[float, Field(ge=0)] = 1.0,
    other: Annotated[float, Field(ge=0)] = 1.0,
    temperature: float = 1.0,
) -> Tensor:
    """How sure of the true outcome, and how the others compare, as two KLs weighed apart.

    ``target · KL(true or not) + other · KL(among all but the true one)``; per position, [N], in nats, times temperature².
    Forward KL is the same with ``other`` = 1 − p(true): where the teacher is sure it hardly tells of the others, here it
    does. Zhao et al. 2022 (DKD), arXiv:2203.08679, §3, which takes ``target`` 1 and ``other`` up to 10 on images.

    Where the student wrote the text itself (``truth_N`` is 0) its word is no true outcome, and setting it apart would only
    make much of what it happened to draw: there it is the plain forward KL, which singles out none.

    Args:
        student: its logits.
        teacher: its logits.
        batch: for the labels, and which of them are true.
        target: weight of the first (α in the paper).
        other: weight of the second (β).
        temperature: of both.

    """
    log_q_NS, log_p_NS = common(student, teacher, temperature)
    true_N = batch.labels_N
    if teacher.shared is not None:  # where the label stands among the shared outcomes, else it is one of the others
        known_NM = true_N[:, None] == teacher.shared[0]
        true_N = torch.where(known_NM.any(-1), known_NM.int().argmax(-1), known_NM.shape[-1])
    is_true_NS = torch.arange(log_q_NS.shape[-1], device=true_N.device) == true_N[:, None]

    def split(log_NS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of the true outcome, of not it, and of the others given not it."""
        true_N1 = log_NS.masked_fill(~is_true_NS, _NONE).amax(-1, keepdim=True)
        others_NS = log_NS.masked_fill(is_true_NS, _NONE)
        not_N1 = others_NS.logsumexp(-1, keepdim=True)
        return true_N1, not_N1, others_NS - not_N1

    q_true_N1, q_not_N1, q_others_NS = split(log_q_NS)
    p_true_N1, p_not_N1, p_others_NS = split(log_p_NS)
    target_N1 = p_true_N1.exp() * (p_true_N1 - q_true_N1) + p_not_N1.exp() * (p_not_N1 - q_not_N1)
    other_N = (p_others_NS.exp() * (p_others_NS - q_others_NS)).sum(-1)
    value_N = target * target_N1.squeeze(-1) + other * other_N
    if batch.truth_N is not None:
        whole_N = (log_p_NS.exp() * (log_p_NS - log_q_NS)).sum(-1)
        value_N = torch.where(batch.truth_N > 0, value_N, whole_N)
    return value_N * temperature**2
