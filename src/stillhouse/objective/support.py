"""Teacher and student on one support, so that each divergence is written once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stillhouse.types import Output, Signal


def common(student: Output, teacher: Signal, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probabilities of both on the same outcomes, at a temperature.

    A dense teacher: all outcomes that both know. Where one vocabulary is longer (a head padded to a round size), both are
    cut to the shared prefix and normalised there: an entry that only one of them has is no outcome to compare.

    A truncated teacher: the K outcomes it names, and the rest as one more, S = K + 1. At temperature 1 this is exact. At
    another the rest is tempered as if spread evenly over the outcomes not named, which is an approximation.

    Args:
        student: with ``logits_NV``.
        teacher: its signal of the same positions.
        temperature: logits of both are divided by it.

    Returns:
        log q [N, S] of the student and log p [N, S] of the teacher, in nats, float32 (float64 if the logits are).

    """
    logits_NV = student.logits_NV if student.logits_NV.dtype == torch.float64 else student.logits_NV.float()
    if teacher.dense:
        assert teacher.logits_NV is not None, "a signal of hidden states is turned into logits by rows()"
        shared = min(logits_NV.shape[-1], teacher.logits_NV.shape[-1])
        log_q_NV = torch.log_softmax(logits_NV[:, :shared] / temperature, -1)
        log_p_NV = torch.log_softmax(teacher.logits_NV[:, :shared].to(logits_NV.dtype) / temperature, -1)
        return log_q_NV, log_p_NV
    assert teacher.ids_NK is not None and teacher.logp_NK is not None and teacher.rest_N is not None
    log_q_NK = torch.log_softmax(logits_NV / temperature, -1).gather(-1, teacher.ids_NK)
    log_q_NS = torch.cat([log_q_NK, _log_rest(log_q_NK)[:, None]], -1)
    log_p_NS = torch.cat([teacher.logp_NK, teacher.rest_N[:, None]], -1).to(logits_NV.dtype)
    if temperature != 1.0:
        unnamed = max(logits_NV.shape[-1] - teacher.ids_NK.shape[-1], 1)
        spread = log_p_NS.new_tensor([0.0] * teacher.ids_NK.shape[-1] + [math.log(unnamed)])
        log_p_NS = torch.log_softmax((log_p_NS - spread) / temperature + spread, -1)
    return log_q_NS, log_p_NS


def _log_rest(log_q_NK: Tensor) -> Tensor:
    """log(1 − Σ q), kept finite where the named outcomes take all."""
    tiny = torch.finfo(log_q_NK.dtype).eps
    return torch.log((1.0 - log_q_NK.exp().sum(-1)).clamp_min(tiny))
