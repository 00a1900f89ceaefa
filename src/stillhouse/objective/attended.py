"""Attention maps, and what else is compared token with token, one document at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from stillhouse.types import Attended, Batch

_UNSEEN = -1e9
"""Score of a token that may not be seen: its probability is 0, and 0 times it is 0, which it is not for −inf."""


def by_document(batch: Batch, compare: Callable[[int, int, Tensor], Tensor]) -> Tensor:
    """Compare token with token within each document, at the positions that carry loss.

    Args:
        batch: documents back to back.
        compare: from first token, token after the last, and the R places within the document that are asked for, to [R].

    Returns:
        [N], in the order of ``batch.select_N``.

    """
    places, values = [], []
    for start, stop in pairwise(batch.borders_D1):
        at_R = ((batch.select_N >= start) & (batch.select_N < stop)).nonzero().squeeze(-1)
        if len(at_R):
            places.append(at_R)
            values.append(compare(start, stop, batch.select_N[at_R] - start))
    if not values:
        return batch.weight_N.new_zeros(len(batch.select_N))
    return torch.cat(values)[torch.cat(places).argsort()]


def log_attention(layer: Attended, start: int, stop: int, rows_R: Tensor, causal: bool) -> Tensor:
    """Log of the attention maps of one document: [heads, R, L], a distribution over its L tokens in each row.

    Args:
        layer: queries and keys of all documents; fewer key heads are shared by neighbouring query heads.
        start: first token of the document.
        stop: token after its last.
        rows_R: places within the document whose rows are asked for.
        causal: whether each sees only what came before, and itself.

    """
    query_RAE, key_LGE = _wide(layer.query[start:stop][rows_R]), _wide(layer.key[start:stop])
    groups = key_LGE.shape[1]
    query_RGAE = query_RAE.reshape(len(rows_R), groups, -1, query_RAE.shape[-1])
    scores = torch.einsum("rgae,lge->garl", query_RGAE, key_LGE).flatten(0, 1) * layer.scale
    return _log_softmax(scores, rows_R, causal)


def log_relation(vectors_PGE: Tensor, heads: int, start: int, stop: int, rows_R: Tensor, causal: bool) -> Tensor:
    """Log of how alike one document's tokens are, as distributions: [heads, R, L]. Arguments as for ``log_attention``.

    The heads of the vectors are laid side by side and cut anew into as many as asked for.
    """
    vectors_LE = _wide(vectors_PGE[start:stop].flatten(1))
    vectors_LAE = vectors_LE.reshape(stop - start, heads, -1)
    scores = torch.einsum("rae,lae->arl", vectors_LAE[rows_R], vectors_LAE) / math.sqrt(vectors_LAE.shape[-1])
    return _log_softmax(scores, rows_R, causal)


def same_heads(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities [heads, R, L] of student and teacher brought to the same number of heads.

    Equal numbers stay, one to one. Where one divides the other, neighbours of the larger are averaged, as probabilities.
    Otherwise all heads of each are averaged into one.
    """
    few, many = sorted((ours.shape[0], theirs.shape[0]))
    heads = few if many % few == 0 else 1
    return _average(ours, heads), _average(theirs, heads)


def _average(log_ARL: Tensor, heads: int) -> Tensor:
    if log_ARL.shape[0] == heads:
        return log_ARL
    size = log_ARL.shape[0] // heads
    return log_ARL.reshape(heads, size, *log_ARL.shape[1:]).logsumexp(1) - math.log(size)


def _log_softmax(scores_ARL: Tensor, rows_R: Tensor, causal: bool) -> Tensor:
    if causal:
        later_RL = torch.arange(scores_ARL.shape[-1], device=rows_R.device) > rows_R[:, None]
        scores_ARL = scores_ARL.masked_fill(later_RL, _UNSEEN)
    return torch.log_softmax(scores_ARL, -1)


def _wide(x: Tensor) -> Tensor:
    """In float32, or float64 if it is."""
    return x if x.dtype == torch.float64 else x.float()
