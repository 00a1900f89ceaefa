"""Attention over documents laid one after another, nothing padded, no document seeing another.

Registered with transformers as the attention implementation ``stillhouse_packed``. The borders between documents travel as
a keyword argument through the model to every layer, so that they are there again when gradient checkpointing recomputes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from stillhouse.types import Attended

NAME = "stillhouse_packed"


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    borders: tuple[int, ...] | None = None,
    visible: tuple[Tensor | None, ...] | None = None,
    seen: dict[int, Attended] | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within each document.

    Args:
        module: the attention layer, for its ``is_causal``.
        query: [1, heads, P, head width]; ``key`` and ``value`` with as many or fewer heads (grouped queries).
        key: as above.
        value: as above.
        attention_mask: unused; borders say all.
        borders: where documents start and the last ends, ``(0, …, P)``; without them this is transformers' own attention.
        visible: what each token of each document sees, [T, T] booleans, where that is not all before it; see ``Batch.seen_D``.
        seen: where to put what the layer attended with, by the layer's identity and so in the order of the layers.
        dropout: of the attention weights.
        scaling: of the scores; 1/√(head width) if None.
        is_causal: whether tokens see only what came before; the layer's own setting if None.
        sliding_window: how many tokens back are seen, if limited (Mistral, Gemma).
        softcap: scores become ``softcap · tanh(scores / softcap)`` (Gemma 2).
        kwargs: what else transformers hands down; attention sinks are refused.

    Returns:
        [1, P, heads, head width], and None for the attention weights.

    """
    if borders is None:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
        )
    assert kwargs.get("s_aux") is None, "attention sinks have no packed form"
    causal = bool(getattr(module, "is_causal", True)) if is_causal is None else is_causal
    if seen is not None:
        heads = [x[0].transpose(0, 1) for x in (query, key, value)]
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        seen[id(module)] = Attended(heads[0], heads[1], heads[2], scale, causal)
    lengths = {stop - start for start, stop in pairwise(borders)}
    if len(lengths) == 1 and visible is None:  # equal documents are one batch: one call for all
        (length,) = lengths
        rows = [
            x.reshape(x.shape[1], -1, length, x.shape[3]).transpose(0, 1) for x in (query, key, value)
        ]  # [D, heads, length, width]
        out = _attend(rows[0], rows[1], rows[2], causal, dropout, scaling, sliding_window, softcap)
        return out.transpose(1, 2).reshape(1, query.shape[2], query.shape[1], -1), None
    parts = []
    for document, (start, stop) in enumerate(pairwise(borders)):
        q, k, v = (x[:, :, start:stop] for x in (query, key, value))
        mask = None if visible is None else visible[document]
        parts.append(_attend(q, k, v, causal, dropout, scaling, sliding_window, softcap, mask))
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    causal: bool,
    dropout: float,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    mask: Tensor | None = None,
) -> Tensor:
    length = query.shape[2]
    if window is not None and length > window:
        # a token's place in its branch is how many it sees
        place = torch.arange(length, device=query.device) if mask is None else mask.sum(-1)
        distance = place[:, None] - place[None, :]
        near = distance < window
        mask = near & mask if mask is not None else near & (distance >= 0 if causal else distance > -window)
    if softcap is None:
        return F.scaled_dot_product_attention(
            query, key, value, mask, dropout, is_causal=causal and mask is None, scale=scaling, enable_gqa=True
        )
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = (query @ key.transpose(-1, -2)) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = torch.tanh(scores / softcap) * softcap
    if mask is None and causal:
        mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return F.dropout(scores.softmax(-1, dtype=torch.float32).to(query.dtype), dropout) @ value


AttentionInterface.register(NAME, packed_attention)
