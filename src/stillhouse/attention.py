"""Attention over documents laid one after another, nothing padded, no document seeing another.

Registered with transformers as the attention implementation ``stillhouse_packed``. The borders between documents travel as
a keyword argument through the model to every layer, so that they are there again when gradient checkpointing recomputes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
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
    options: dict[str, Any] = {"dropout": dropout, "scaling": scaling, "softcap": softcap}
    if visible is None:
        return _by_length(query, key, value, borders, causal, sliding_window, **options), None
    parts = []
    for document, (start, stop) in enumerate(pairwise(borders)):
        q, k, v = (x[:, :, start:stop] for x in (query, key, value))
        mask = visible[document]
        if sliding_window is not None and stop - start > sliding_window:
            # a token's place in its branch is how many it sees
            place_L = torch.arange(stop - start, device=q.device) if mask is None else mask.sum(-1)
            near = (place_L[:, None] - place_L[None, :]) < sliding_window
            mask = _near(place_L, sliding_window, causal) if mask is None else near & mask
        parts.append(_attend(q, k, v, causal, mask, **options))
    return torch.cat(parts, dim=2).transpose(1, 2), None


@dataclass(frozen=True)
class Group:
    """Documents of nearly one length, which are one call.

    Args:
        rows_DL: where their tokens are among all, filled up behind the last of each with its first.
        real_DL: which of them are theirs; None if all are.
        first: where they begin, if they lie one after another with nothing to fill up, so that no token need be copied.

    """

    rows_DL: Tensor
    real_DL: Tensor | None
    first: int | None

    def take(self, x: Tensor) -> Tensor:
        """Their rows of [1, heads, P, width], as [D, heads, L, width]."""
        documents, length = self.rows_DL.shape
        if self.first is None:
            rows = x[0].index_select(1, self.rows_DL.flatten())
        else:
            rows = x[0, :, self.first : self.first + documents * length]
        return rows.view(rows.shape[0], documents, length, rows.shape[2]).transpose(0, 1)


SHORT = 128
"""Up to here, documents whose lengths differ are laid into one rectangle: a call costs as much as what is filled up."""
STEP = 16
"""Lengths in one rectangle differ by less."""


@lru_cache(maxsize=32)
def _groups(borders: tuple[int, ...], device: torch.device) -> tuple[tuple[Group, ...], Tensor | None]:
    """Documents grouped by length, and where each token's result lies among those of all groups, one after another.

    None in place of that where the results come in the order of the tokens.
    """
    lengths_D = np.diff(borders)
    class_D = np.where(lengths_D <= SHORT, -(-lengths_D // STEP) * STEP, lengths_D)
    sizes, firsts = np.unique(class_D, return_index=True)
    groups, origins = [], []
    for size in sizes[np.argsort(firsts)]:
        members = np.flatnonzero(class_D == size)
        place_L = np.arange(lengths_D[members].max())
        real_DL = place_L < lengths_D[members][:, None]
        rows_DL = np.asarray(borders)[members][:, None] + np.where(real_DL, place_L, 0)
        together = real_DL.all() and members[-1] - members[0] == len(members) - 1
        real = None if real_DL.all() else torch.from_numpy(real_DL).to(device)
        groups.append(Group(torch.from_numpy(rows_DL).to(device), real, borders[members[0]] if together else None))
        origins.append(np.where(real_DL, rows_DL, -1).ravel())
    origin = np.concatenate(origins)
    if np.array_equal(origin, np.arange(borders[-1])):
        return tuple(groups), None
    back_P = np.empty(borders[-1], dtype=np.int64)
    back_P[origin[origin >= 0]] = np.flatnonzero(origin >= 0)
    return tuple(groups), torch.from_numpy(back_P).to(device)


def _by_length(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    borders: tuple[int, ...],
    causal: bool,
    window: int | None,
    **options: Any,
) -> Tensor:
    """Attention of each document, those of nearly one length together; [1, P, heads, head width]."""
    groups, back_P = _groups(borders, query.device)
    parts = []
    for group in groups:
        documents, length = group.rows_DL.shape
        q, k, v = (
            x[0]
            .index_select(1, group.rows_DL.flatten())
            .view(x.shape[1], documents, length, x.shape[3])
            .transpose(0, 1)
            for x in (query, key, value)
        )  # [D, heads, length, width]
        mask = None
        if window is not None and length > window:
            mask = _near(torch.arange(length, device=q.device), window, causal)
        elif causal and group.real_DL is not None:
            mask = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
        if group.real_DL is not None:
            seen = group.real_DL[:, None, None, :]
            # what fills up sees all, so that no row is empty: its result is dropped, and a mean over nothing is no number
            mask = seen if mask is None else (seen & mask) | ~group.real_DL[:, None, :, None]
        out = _attend(q, k, v, causal, mask, **options)
        parts.append(out.transpose(1, 2).flatten(0, 1))  # [D · length, heads, width]
    out = parts[0] if len(parts) == 1 else torch.cat(parts)
    return (out if back_P is None else out.index_select(0, back_P))[None]


def _near(place_L: Tensor, window: int, causal: bool) -> Tensor:
    """What each place sees through a window, [L, L]."""
    distance = place_L[:, None] - place_L[None, :]
    return (distance < window) & (distance >= 0 if causal else distance > -window)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    causal: bool,
    mask: Tensor | None,
    *,
    dropout: float,
    scaling: float | None,
    softcap: float | None,
) -> Tensor:
    """Attention of [D, heads, length, width]; a mask says all of what is seen, and without one ``causal`` does."""
    if softcap is None:
        return F.scaled_dot_product_attention(
            query, key, value, mask, dropout, is_causal=causal and mask is None, scale=scaling, enable_gqa=True
        )
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = (query @ key.transpose(-1, -2)) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = torch.tanh(scores / softcap) * softcap
    if mask is None and causal:
        mask = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool, device=query.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return F.dropout(scores.softmax(-1, dtype=torch.float32).to(query.dtype), dropout) @ value


AttentionInterface.register(NAME, packed_attention)
