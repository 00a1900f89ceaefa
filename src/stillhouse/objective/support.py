"""Teacher and student on one support, so that each divergence is written once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stillhouse.types import Output, Signal

_NONE = -1e4
"""log of a probability that is none: its exponential is 0, and 0 times it is 0, which it is not for −inf."""


def common(student: Output, teacher: Signal, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probabilities of both on the same outcomes, at a temperature.

    A dense teacher: all outcomes that both know. Where one vocabulary is longer (a head padded to a round size), both are
    cut to the shared prefix and normalised there: an entry that only one of them has is no outcome to compare.

    A dense teacher of another vocabulary (``shared``): the M outcomes that both know, and all others as one more, S = M + 1.

    A top-k teacher: the K outcomes it names, and the rest as one more, S = K + 1. At temperature 1 this is exact. At
    another the rest is tempered as if spread evenly over the outcomes not named, which is an approximation.

    A sampled teacher: the K outcomes drawn, S = K; the student's probabilities are those among all V, so its sum is below 1.
    At another temperature than 1 the draws do not say what they should: it is refused before a run starts.

    Args:
        student: with ``logits_NV``.
        teacher: its signal of the same positions.
        temperature: logits of both are divided by it.

    Returns:
        log q [N, S] of the student and log p [N, S] of the teacher, in nats, float32 (float64 if the logits are). Where an
        outcome has no probability, log p is the lowest finite number, so that products with p are 0 and never NaN.

    """
    logits_NV = student.logits_NV if student.logits_NV.dtype == torch.float64 else student.logits_NV.float()
    if teacher.dense:
        assert teacher.logits_NV is not None, "a signal of hidden states is turned into logits by rows()"
        theirs_NV = teacher.logits_NV.to(logits_NV.dtype)
        if teacher.shared is not None:
            ours_M, theirs_M = teacher.shared
            log_q_NM = torch.log_softmax(logits_NV / temperature, -1).index_select(-1, ours_M)
            log_p_NM = torch.log_softmax(theirs_NV / temperature, -1).index_select(-1, theirs_M)
            return with_rest(log_q_NM), with_rest(log_p_NM)
        shared = min(logits_NV.shape[-1], theirs_NV.shape[-1])
        log_q_NV = torch.log_softmax(logits_NV[:, :shared] / temperature, -1)
        log_p_NV = torch.log_softmax(theirs_NV[:, :shared] / temperature, -1)
        return log_q_NV, _finite(log_p_NV)
    assert teacher.ids_NK is not None and teacher.logp_NK is not None
    log_q_NK = torch.log_softmax(logits_NV / temperature, -1).gather(-1, teacher.ids_NK.clamp_min(0))
    log_q_NK = log_q_NK.masked_fill(teacher.ids_NK < 0, _NONE)
    log_p_NS = tempered(teacher, logits_NV.shape[-1], temperature).to(logits_NV.dtype)
    return (log_q_NK if teacher.sampled else with_rest(log_q_NK)), _finite(log_p_NS)


def tempered(teacher: Signal, outcomes: int, temperature: float) -> Tensor:
    """Log p of a truncated teacher at a temperature: [N, K + 1] with the rest as the last, or [N, K] if it was sampled."""
    assert teacher.ids_NK is not None and teacher.logp_NK is not None
    if teacher.sampled:
        return teacher.logp_NK
    assert teacher.rest_N is not None
    log_p_NS = torch.cat([teacher.logp_NK, teacher.rest_N[:, None]], -1)
    if temperature == 1.0:
        return log_p_NS
    named = teacher.ids_NK.shape[-1]
    spread_S = log_p_NS.new_tensor([0.0] * named + [math.log(max(outcomes - named, 1))])
    return torch.log_softmax((log_p_NS - spread_S) / temperature + spread_S, -1)


def with_rest(log_q_NK: Tensor) -> Tensor:
    """The named outcomes' log-probabilities and, as one more, log(1 − Σ q), kept finite where they take all."""
    tiny = torch.finfo(log_q_NK.dtype).eps
    rest_N1 = torch.log((1.0 - log_q_NK.exp().sum(-1, keepdim=True)).clamp_min(tiny))
    return torch.cat([log_q_NK, rest_N1], -1)


def _finite(log_p_NS: Tensor) -> Tensor:
    """Without −inf."""
    return log_p_NS.clamp_min(_NONE)
