"""Distance between logits."""

from __future__ import annotations

from torch import Tensor

from stillhouse.objective.support import common
from stillhouse.types import Batch, Output, Signal, needs


@needs("dense")
def logits_mse(student: Output, teacher: Signal, batch: Batch) -> Tensor:
    """Mean squared difference of the logits of the two, each centred.

    Per position, [N]. Centred, because a constant added to all logits says nothing. Half of it is what T² · KL tends to as
    the temperature grows (Hinton et al. 2015, arXiv:1503.02531, §2.1): outcomes of no probability count as much as those of
    all. Kim et al. 2021, arXiv:2105.08919, §3.
    """
    ours_NS, theirs_NS = common(student, teacher)  # log-probabilities are logits less a constant
    if teacher.shared is not None:
        ours_NS, theirs_NS = ours_NS[:, :-1], theirs_NS[:, :-1]
    gap_NS = ours_NS - theirs_NS
    return (gap_NS - gap_NS.mean(-1, keepdim=True)).square().mean(-1)
