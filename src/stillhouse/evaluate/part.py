"""Scores against a teacher that names only some outcomes: the others count as one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stillhouse.rows import Compared
from stillhouse.types import Signal


def compare_part(logits_NV: Tensor, teacher: Signal, labels_N: Tensor) -> Compared:
    """As ``rows.compare``, with all outcomes that the teacher does not name taken as one.

    What is lost by that has a sign: the divergence is at most the true one, the acceptance at least.

    Args:
        logits_NV: the model's.
        teacher: a signal of the form topk, of the same positions.
        labels_N: true outcomes.

    """
    ids_NK, p_NS = _named(teacher)
    log_q_NV = torch.log_softmax(logits_NV.double(), -1)
    q_NK = log_q_NV.gather(-1, ids_NK.clamp_min(0)).exp().masked_fill(ids_NK < 0, 0.0)
    q_NS = torch.cat([q_NK, (1.0 - q_NK.sum(-1, keepdim=True)).clamp_min(2.0**-23)], -1)
    conf_N, top_N = log_q_NV.max(-1)
    return Compared(
        nll_N=-log_q_NV.gather(-1, labels_N[:, None])[:, 0],
        kl_N=(torch.special.xlogy(p_NS, p_NS) - torch.special.xlogy(p_NS, q_NS)).sum(-1),
        accept_N=torch.minimum(p_NS, q_NS).sum(-1),
        conf_N=conf_N.exp(),
        top_N=top_N,
        teacher_top_N=_likeliest(teacher),
    )


def compare_itself(teacher: Signal, labels_N: Tensor, outcomes: int) -> Compared:
    """The teacher's own scores. Where it does not name the label, an even share of what it leaves over is the label's."""
    ids_NK, p_NS = _named(teacher)
    hit_NK = ids_NK == labels_N[:, None]
    unnamed_N = (outcomes - (ids_NK >= 0).sum(-1)).clamp_min(1)
    p_N = torch.where(hit_NK.any(-1), (p_NS[:, :-1] * hit_NK).sum(-1), p_NS[:, -1] / unnamed_N)
    top_N = _likeliest(teacher)
    return Compared(
        nll_N=-p_N.clamp_min(math.exp(-100.0)).log(),
        kl_N=torch.zeros_like(p_N),
        accept_N=torch.ones_like(p_N),
        conf_N=p_NS[:, :-1].max(-1).values,
        top_N=top_N,
        teacher_top_N=top_N,
    )


def _named(teacher: Signal) -> tuple[Tensor, Tensor]:
    """Ids [N, K], and the probabilities of these and of the rest [N, K + 1]."""
    assert teacher.ids_NK is not None and teacher.logp_NK is not None and teacher.rest_N is not None
    return teacher.ids_NK, torch.cat([teacher.logp_NK, teacher.rest_N[:, None]], -1).double().exp()


def _likeliest(teacher: Signal) -> Tensor:
    assert teacher.ids_NK is not None and teacher.logp_NK is not None
    return teacher.ids_NK.gather(-1, teacher.logp_NK.argmax(-1, keepdim=True))[:, 0]
