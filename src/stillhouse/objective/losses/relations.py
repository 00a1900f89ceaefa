"""Self-attention relations: which tokens are alike, in queries, keys and values."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from stillhouse.errors import RecipeError, fail
from stillhouse.objective.attended import by_document, log_relation
from stillhouse.types import Attended, Batch, Output, Signal, needs


@needs("attention")
def relations(student: Output, teacher: Signal, batch: Batch, *, heads: Annotated[int, Field(ge=1)] = 8) -> Tensor:
    """KL of how alike tokens are by query, key and value: needs no equal head counts or widths.

    Queries (keys, values) of all heads are laid side by side and cut anew into relation heads; scaled products of each
    token's with all others', softmaxed, are compared by KL(teacher ‖ student), averaged over relation heads, over the three
    kinds and over pairs of layers; per position, [N], in nats. Wang et al. 2020 (MiniLMv2), arXiv:2012.15828, §3.1 and §3.2
    (48 relation heads from a base-size teacher, 64 from a large one); one pair of layers is usual there: ``layers: last``, or
    of a large teacher one a little below the top.

    Args:
        student: what its layers' attention worked on.
        teacher: the same of the teacher's.
        batch: for documents and positions.
        heads: relation heads; must divide the width of queries and of keys of both.

    Raises:
        RecipeError: it does not.

    """
    pairs = list(zip(student.layers["attention"], teacher.layers["attention"], strict=True))
    return torch.stack([_relations(ours, theirs, batch, heads) for ours, theirs in pairs]).mean(0)


def _relations(ours: Attended, theirs: Attended, batch: Batch, heads: int) -> Tensor:
    kinds = ((ours.query, theirs.query), (ours.key, theirs.key), (ours.value, theirs.value))
    widths = {x.shape[1] * x.shape[2] for pair in kinds for x in pair}
    if any(width % heads for width in widths):
        raise fail(
            RecipeError,
            "relations.heads",
            f"{heads} does not divide all of the widths {', '.join(map(str, sorted(widths)))} of queries, keys and values",
            f"Take a number that does, such as {max(h for h in range(1, heads + 1) if not any(w % h for w in widths))}.",
        )
    causal = ours.causal or theirs.causal

    def compare(start: int, stop: int, rows_R: Tensor) -> Tensor:
        total_R = torch.zeros((), device=rows_R.device)
        for our_PGE, their_PGE in kinds:
            log_q = log_relation(our_PGE, heads, start, stop, rows_R, causal)
            log_p = log_relation(their_PGE, heads, start, stop, rows_R, causal)
            total_R = total_R + (log_p.exp() * (log_p - log_q)).sum(-1).mean(0)
        return total_R / len(kinds)

    return by_document(batch, compare)
