"""Angle between logits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from stillhouse.objective.support import common
from stillhouse.types import Batch, Output, Signal, needs


@needs("dense")
def logits_cosine(student: Output, teacher: Signal, batch: Batch) -> Tensor:
    """One minus the cosine between the logits of the two, each centred: their order and proportions, not their size.

    Per position, [N], 0 to 2. Centred, because a constant added to all logits says nothing; so this is one minus Pearson's
    correlation. It is blind to how sure the student is: pair it with a loss that is not. Huang et al. 2022 (DIST),
    arXiv:2205.10536, §3 (on probabilities there, on logits here).
    """
    ours_NS, theirs_NS = common(student, teacher)  # log-probabilities are logits less a constant
    if teacher.shared is not None:
        ours_NS, theirs_NS = ours_NS[:, :-1], theirs_NS[:, :-1]
    ours_NS = F.normalize(ours_NS - ours_NS.mean(-1, keepdim=True), dim=-1)
    theirs_NS = F.normalize(theirs_NS - theirs_NS.mean(-1, keepdim=True), dim=-1)
    return 0.5 * (ours_NS - theirs_NS).square().sum(-1)  # 1 − cos, without its cancellation
