"""A Llama whose attention is exact over a window of the last tokens and linear over all before it.

LoLCATs (Zhang et al. 2024, arXiv:2410.10254): softmax attention over the last w tokens and linear attention with learned
feature maps over those before, under one sum. With queries q, keys k and values v of a head of width d, rotary positions
applied, s_nj = q_n · k_j / √d, c_n their largest in the window, and γ in (0, 1) learned for each head::

    y_n = (Σ_{n−w<j≤n} γ exp(s_nj − c_n) v_j + Σ_{j≤n−w} φ(q_n)·ψ(k_j) v_j) / (the same without v)

    φ(x) = [softmax(Ax), softmax(−Ax)], and ψ likewise with a matrix of its own

Projections are named and shaped as a Llama's, so a Llama's weights fit. Time grows with the length and not with its square, and
while text is written a layer keeps w keys and values and one matrix for each head, however long the text is.

The copy of this file that is saved beside the weights serves where there is no Stillhouse: it imports nothing but torch,
transformers and its neighbour.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers import initialization as init
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from .rows import to_packed, to_rows

LINEAR = "hybrid_sliding"
"""What transformers calls a layer whose cache is a window of keys and values and a state; the others are full_attention."""


@strict
class LinearAttentionConfig(LlamaConfig):  # type: ignore[misc]
    """A Llama's, with the kind of each layer.

    Args:
        sliding_window: w.
        feature_size: rows of A; there are twice as many features.
        layer_types: ``hybrid_sliding`` for linear attention, ``full_attention`` for a layer that keeps its own.

    """

    model_type = "stillhouse_linear_attention"
    sliding_window: int = 64
    feature_size: int = 64
    layer_types: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.layer_types is None:
            self.layer_types = [LINEAR] * self.num_hidden_layers
        super().__post_init__(**kwargs)


class LinearAttention(nn.Module):
    """What stands in a Llama's layer in place of its attention.

    Args:
        theirs: the attention whose projections it takes over.
        config: of the model.

    """

    def __init__(self, theirs: nn.Module, config: LinearAttentionConfig) -> None:
        super().__init__()
        self.layer_idx: int = theirs.layer_idx  # type: ignore[assignment]
        self.width = config.head_dim or config.hidden_size // config.num_attention_heads
        self.window = config.sliding_window
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = theirs.q_proj, theirs.k_proj, theirs.v_proj, theirs.o_proj
        heads, groups, features = config.num_attention_heads, config.num_key_value_heads, config.feature_size
        self.query_map = nn.Parameter(torch.empty(heads, self.width, features))
        self.key_map = nn.Parameter(torch.empty(groups, self.width, features))
        self.share = nn.Parameter(torch.empty(heads))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Begin with features that are the channels themselves, and γ = ½."""
        for each in (self.query_map, self.key_map):
            init.copy_(each, torch.eye(each.shape[1], each.shape[2], device=each.device).expand_as(each))
        init.zeros_(self.share)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        *,
        borders: tuple[int, ...] | None = None,
        **kwargs: Any,  # noqa: ARG002 – transformers hands down more than is read here
    ) -> tuple[Tensor, None]:
        """What the layer adds to the stream, [B, L, H], and None for the attention weights, which there are not.

        Args:
            hidden_states: [B, L, H].
            position_embeddings: cosine and sine of the rotary positions.
            attention_mask: transformers' [B, 1, L, keys], of which is read which keys are padding.
            past_key_values: transformers' cache.
            borders: of documents back to back in the one row, none of which sees another.
            kwargs: what else transformers hands down.

        """
        heads = (*hidden_states.shape[:-1], -1, self.width)
        q, k, v = (
            project(hidden_states).view(heads).transpose(1, 2)  # type: ignore[operator]
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
        if borders is not None:
            q, k, v = (to_rows(x[0].transpose(0, 1), borders).transpose(1, 2) for x in (q, k, v))
            out = to_packed(self.attend(q, k, v).transpose(1, 2), borders)[None]
        elif past_key_values is not None:
            out = self._go_on(q, k, v, attention_mask, past_key_values.layers[self.layer_idx]).transpose(1, 2)
        else:
            out = self.attend(q, k, v, _real(attention_mask, k.shape[2])).transpose(1, 2)
        return self.o_proj(out.flatten(-2).to(hidden_states.dtype)), None  # type: ignore[operator]

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, real_BL: Tensor | None = None, state: Tensor | None = None
    ) -> Tensor:
        """The formula above, a block of w queries at a time.

        Args:
            q: [B, heads, L, d]; ``k`` and ``v`` [B, groups, L, d].
            k: as above.
            v: as above.
            real_BL: which tokens are no padding; None if all are.
            state: Σ ψ(k) [v, 1] of all tokens before these, [B, groups, features, d + 1]; None if there are none.

        Returns:
            [B, heads, L, d].

        Letters: b texts, g groups, r query heads of a group, n blocks, i queries of a block, j keys of it and the block
        before, f features, d channels and the 1.

        """
        (texts, groups, length, width), window = k.shape, self.window
        fq, fk = self._features(q, self.query_map), self._features(k, self.key_map)
        real = k.new_ones(texts, length, dtype=torch.bool) if real_BL is None else real_BL
        fk = fk * real[:, None, :, None]

        def blocks(x: Tensor) -> Tensor:
            return F.pad(x, (0, 0, 0, -length % window)).unflatten(-2, (-1, window))  # type: ignore[no-any-return,no-untyped-call]

        q, fq = (blocks(x).unflatten(1, (groups, -1)) for x in (q, fq))  # type: ignore[no-untyped-call]
        k, fk, v1 = blocks(k), blocks(fk), _with_one(blocks(v))  # with a 1 where blocks are filled up: no sum is 0
        sums = torch.einsum("bgnjf,bgnjd->bgnfd", fk, v1).cumsum(2)
        before = F.pad(sums[:, :, :-2], (0, 0, 0, 0, min(2, sums.shape[2]), 0))  # of all blocks but this and the last
        before = before if state is None else before + state[:, :, None]
        k, fk, v1 = (torch.cat([F.pad(x[:, :, :-1], (0, 0, 0, 0, 1, 0)), x], -2) for x in (k, fk, v1))
        back = torch.arange(window, 2 * window, device=k.device)[:, None] - torch.arange(2 * window, device=k.device)
        there = blocks(real[:, None, :, None].to(k.dtype))[:, 0, ..., 0].bool()  # [b, n, j of the block itself]
        there = torch.cat([F.pad(there[:, :-1], (0, 0, 1, 0)), there], -1)
        near = (there[:, None, None, :, None] & (back >= 0) & (back < window)) | (back == 0)
        scores = torch.einsum("bgrnid,bgnjd->bgrnij", q, k).float() * width**-0.5
        exact = self._exact(scores.masked_fill(~near, float("-inf")))
        linear = torch.einsum("bgrnif,bgnjf->bgrnij", fq, fk).float().masked_fill(back < window, 0.0)
        y1 = torch.einsum("bgrnij,bgnjd->bgrnid", exact + linear, v1)
        y1 = y1 + torch.einsum("bgrnif,bgnfd->bgrnid", fq.float(), before.float())
        return _divided(y1).flatten(1, 2).flatten(2, 3)[:, :, :length]

    def _go_on(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, kept: Any) -> Tensor:
        """Attend to what the cache keeps and to these tokens, and leave them there."""
        state = kept.recurrent_states[0]
        begun, new = kept.get_seq_length() > 0, k.shape[2]
        k, v = kept.update(k, v)  # with those of the window before them
        real = _real(mask, k.shape[2])
        if begun and new == 1:
            out = self._last(q, k, v, real, state)
        else:
            missing = k.shape[2] - new
            out = self.attend(F.pad(q, (0, 0, missing, 0)), k, v, real, state)[:, :, missing:]
        leaving = max(k.shape[2] - self.window + 1, 0)
        fk = self._features(k[:, :, :leaving], self.key_map)
        fk = fk if real is None else fk * real[:, None, :leaving, None]
        added = torch.einsum("bgjf,bgjd->bgfd", fk, _with_one(v[:, :, :leaving]))
        kept.update_recurrent_state(added if state is None else state + added)
        return out

    def _last(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor | None, state: Tensor) -> Tensor:
        """The formula for one query behind all keys of its window."""
        groups = k.shape[1]
        fq = self._features(q, self.query_map).unflatten(1, (groups, -1))  # type: ignore[no-untyped-call]
        scores = torch.einsum("bgrid,bgjd->bgrij", q.unflatten(1, (groups, -1)), k).float() * self.width**-0.5  # type: ignore[no-untyped-call]
        if real is not None:
            scores = scores.masked_fill(~real[:, None, None, None, :], float("-inf"))
        y1 = torch.einsum("bgrij,bgjd->bgrid", self._exact(scores[..., None, :, :])[..., 0, :, :], _with_one(v).float())
        return _divided(y1 + torch.einsum("bgrif,bgfd->bgrid", fq.float(), state.float())).flatten(1, 2)

    def _exact(self, scores: Tensor) -> Tensor:
        """γ exp(s − c), [b, g, r, n, i, j]."""
        share = torch.sigmoid(self.share.float()).view(scores.shape[1], scores.shape[2], 1, 1, 1)
        return share * torch.exp(scores - scores.amax(-1, keepdim=True).detach())

    @staticmethod
    def _features(x: Tensor, matrix: Tensor) -> Tensor:
        """φ of every head: [B, heads, L, d] → [B, heads, L, features]."""
        mapped = torch.einsum("bhld,hdf->bhlf", x.float(), matrix.float())
        return torch.cat([mapped.softmax(-1), (-mapped).softmax(-1)], -1)


def _with_one(v: Tensor) -> Tensor:
    """Values and a 1 behind them, so that one product gives the sum with them and the sum without."""
    return F.pad(v.float(), (0, 1), value=1.0)


def _divided(y1: Tensor) -> Tensor:
    """The sum with values over the sum without."""
    return y1[..., :-1] / y1[..., -1:]


def _real(mask: Tensor | None, keys: int) -> Tensor | None:
    """Which of the last keys are no padding, [B, keys], of transformers' mask [B, 1, L, all keys]; the last query sees all."""
    if mask is None:
        return None
    seen = mask[:, 0, -1, -keys:]
    return seen if seen.dtype == torch.bool else seen >= 0


class LinearAttentionForCausalLM(LlamaForCausalLM):  # type: ignore[misc]
    """A Llama with linear attention in the layers that its configuration names so."""

    config_class = LinearAttentionConfig
    takes_borders = True

    def post_init(self) -> None:
        """Replace attention, just before transformers initialises and ties the weights."""
        for layer, kind in zip(self.model.layers, self.config.layer_types, strict=True):
            if kind == LINEAR:
                layer.self_attn = LinearAttention(layer.self_attn, self.config)
        super().post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LinearAttention):
            module.reset()


AutoConfig.register(LinearAttentionConfig.model_type, LinearAttentionConfig, exist_ok=True)
AutoModelForCausalLM.register(LinearAttentionConfig, LinearAttentionForCausalLM, exist_ok=True)
LinearAttentionConfig.register_for_auto_class()
LinearAttentionForCausalLM.register_for_auto_class("AutoModelForCausalLM")
