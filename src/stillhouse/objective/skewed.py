"""KL to a mixture of both distributions, which the two skew losses are."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def kl_to_mixture(log_a_NS: Tensor, log_b_NS: Tensor, skew: float) -> Tensor:
    """KL(a ‖ λa + (1 − λ)b), [N], in nats. Ko et al. 2024 (DistiLLM), arXiv:2402.03898, §3.1, where λ is α.

    Args:
        log_a_NS: log-probabilities of what the divergence is of.
        log_b_NS: of the other.
        skew: λ, from 0 (the plain KL) to below 1.

    """
    log_m_NS = log_b_NS
    if skew > 0.0:
        log_m_NS = torch.logaddexp(log_a_NS + math.log(skew), log_b_NS + math.log1p(-skew))
    return (log_a_NS.exp() * (log_a_NS - log_m_NS)).sum(-1)
