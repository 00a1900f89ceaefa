"""Distillation across tokenizers: exact where both speak of the same piece of text, by rank elsewhere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stillhouse.objective.support import common
from stillhouse.types import Batch, Output, Signal, across, needs


@across
@needs("dense")
def gold(student: Output, teacher: Signal, batch: Batch, *, temperature: float = 1.0, by_rank: float = 1.0) -> Tensor:
    """KL(teacher ‖ student) on the tokens that both know where their texts are cut alike; elsewhere probabilities by rank.

    Per position, [N]. Where ``exact_N``: in nats, over the shared tokens and all others as one outcome, times temperature².
    Elsewhere ``by_rank`` times the universal loss, Σ |p − q| of the sorted probabilities at temperature 1, 0 to 2 (ULD, Boizard
    et al. 2024, arXiv:2402.12030, §3). Zero where the teacher has no word. With a teacher of the same vocabulary it is the
    forward KL. After General On-policy Logit Distillation (Hugging Face 2025, huggingfaceh4-on-policy-distillation.hf.space),
    which takes one part on the shared tokens and the other on the rest, at every position.
    """
    assert teacher.logits_NV is not None, "a signal of hidden states is turned into logits by rows()"
    said_N = student.logits_NV.new_ones(len(student.logits_NV), dtype=torch.bool)
    if teacher.weight_N is not None:
        said_N = teacher.weight_N > 0
    exact_N = said_N if teacher.exact_N is None else said_N & teacher.exact_N
    exact_n, other_n = exact_N.nonzero()[:, 0], (said_N & ~exact_N).nonzero()[:, 0]
    exact = Signal(logits_NV=teacher.logits_NV[exact_n], shared=teacher.shared)
    log_q_nS, log_p_nS = common(Output(student.logits_NV[exact_n]), exact, temperature)
    kl_n = (log_p_nS.exp() * (log_p_nS - log_q_nS)).sum(-1) * temperature**2
    q_nV, p_nV = (
        torch.softmax(logits_NV[other_n].to(kl_n.dtype), -1).sort(-1, descending=True).values
        for logits_NV in (student.logits_NV, teacher.logits_NV)
    )
    longer = max(q_nV.shape[-1], p_nV.shape[-1])
    q_nV, p_nV = (F.pad(x_nV, (0, longer - x_nV.shape[-1])) for x_nV in (q_nV, p_nV))
    rank_n = by_rank * (p_nV - q_nV).abs().sum(-1)
    return kl_n.new_zeros(len(said_N)).index_put((exact_n,), kl_n).index_put((other_n,), rank_n)
