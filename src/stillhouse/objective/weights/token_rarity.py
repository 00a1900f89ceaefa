"""How rare the true outcome is."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from stillhouse.types import Batch


def token_rarity(batch: Batch, counts_V: Tensor, *, power: Annotated[float, Field(ge=0)] = 0.5) -> Tensor:
    """Rare outcomes count more, common ones less: (count + 1)^−power, on average 1 over the training labels.

    Per position, [N]. A small student learns the common tokens first and by themselves; names and terms it hears a few times
    only. The exponent tempers it: at 1 each outcome would weigh the same in all, however often it comes. After Gu et al. 2020,
    arXiv:2010.04380, §3. Where the student wrote the text itself there is no true outcome whose rarity could be told: 1 there.

    Args:
        batch: for the labels, and which of them are true.
        counts_V: how often each outcome is a label in the training text.
        power: 0 makes all positions count the same.

    """
    counts_V = counts_V.double()
    weight_V = (counts_V + 1.0) ** -power
    mean = (counts_V * weight_V).sum() / counts_V.sum()
    weight_N = (weight_V[batch.labels_N] / mean).float()
    return weight_N if batch.truth_N is None else weight_N.where(batch.truth_N > 0, 1.0)
