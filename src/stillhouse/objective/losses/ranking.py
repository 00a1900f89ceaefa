"""The order of the teacher's first choices."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from stillhouse.objective.support import common
from stillhouse.types import Batch, Output, Signal, needs

_IMPOSSIBLE = -1e3


@needs("topk")
def ranking(student: Output, teacher: Signal, batch: Batch, *, k: Annotated[int, Field(ge=2)] = 8) -> Tensor:
    """Which of two the teacher would rather say, over all pairs of its k most probable outcomes.

    For a pair (i, j) the teacher prefers i with probability σ(tᵢ − tⱼ), the student with σ(sᵢ − sⱼ); the loss is the KL of
    these two coins, averaged over the pairs; per position, [N], in nats. Outcomes outside the k do not enter: pair it with a
    loss over the whole distribution. Burges et al. 2005 (RankNet), doi:10.1145/1102351.1102363, §3, less the entropy of the
    target, so that it is 0 at agreement.

    Args:
        student: its logits.
        teacher: its distribution.
        batch: not looked at.
        k: how many outcomes are compared, each with each; fewer where the teacher names fewer.

    """
    log_q_NS, log_p_NS = common(student, teacher)
    if not teacher.dense or teacher.shared is not None:  # the last is the sum of all others: not an outcome to rank
        log_q_NS, log_p_NS = log_q_NS[:, :-1], log_p_NS[:, :-1]
    theirs_NK, order_NK = log_p_NS.topk(min(k, log_p_NS.shape[-1]), -1)
    ours_NK = log_q_NS.gather(-1, order_NK)
    first, second = torch.triu_indices(theirs_NK.shape[-1], theirs_NK.shape[-1], 1, device=theirs_NK.device)
    theirs_NE = theirs_NK[:, first] - theirs_NK[:, second]
    ours_NE = ours_NK[:, first] - ours_NK[:, second]
    real_NE = (theirs_NK[:, second] > _IMPOSSIBLE).to(theirs_NE.dtype)
    yes_NE = torch.sigmoid(theirs_NE)
    coin_NE = yes_NE * (F.logsigmoid(theirs_NE) - F.logsigmoid(ours_NE))
    coin_NE = coin_NE + torch.sigmoid(-theirs_NE) * (F.logsigmoid(-theirs_NE) - F.logsigmoid(-ours_NE))
    return (coin_NE * real_NE).sum(-1) / real_NE.sum(-1).clamp_min(1.0)
