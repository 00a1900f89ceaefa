"""Mamba-2 layers that read documents back to back, in matrix products, on any device.

transformers' own layer in plain PyTorch knows no borders, so state would leak from a document into the next one, and it
keeps [chunk, chunk, heads, state] numbers for each chunk. Here the convolution and the scan see a document a row, and everything
around them, where most of the work is, sees no padding. The weights, the class that is saved and the way text is written
stay transformers'.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.granitemoehybrid.modeling_granitemoehybrid import GraniteMoeHybridMambaLayer

from .rows import to_packed, to_rows

CHUNK = 64
"""Tokens of a document that are mixed by one matrix product."""


class PackedMamba(GraniteMoeHybridMambaLayer):  # type: ignore[misc]
    """transformers' layer, which also takes borders."""

    def forward(
        self,
        hidden_states: Tensor,
        cache_params: Any = None,
        attention_mask: Tensor | None = None,
        *,
        borders: tuple[int, ...] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """What the layer adds to the stream, [B, L, H].

        Args:
            hidden_states: [B, L, H].
            cache_params: transformers' cache.
            attention_mask: of padding.
            borders: of documents back to back in the one row, none of which sees another; without them transformers' own.
            kwargs: what else transformers hands down.

        """
        if borders is None:
            out: Tensor = super().forward(hidden_states, cache_params, attention_mask, **kwargs)
            return out
        inner, states = self.intermediate_size, self.n_groups * self.ssm_state_size
        gate, mixed, step = self.in_proj(hidden_states[0]).split([inner, self.conv_dim, self.num_heads], -1)
        mixed = to_rows(mixed, borders).transpose(1, 2)  # [D, channels, L]
        mixed = self.act(self.conv1d(mixed)[..., : mixed.shape[-1]]).transpose(1, 2).float()
        x, b, c = mixed.split([inner, states, states], -1)
        step = F.softplus(to_rows(step, borders).float() + self.dt_bias.float()).clamp(*self.time_step_limit)
        x = x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [D, heads, L, head width]
        together = self.num_heads // self.n_groups
        b, c = (
            each.unflatten(-1, (self.n_groups, -1)).transpose(1, 2).repeat_interleave(together, 1) for each in (b, c)
        )
        step = step.transpose(1, 2)  # [D, heads, L]
        y = scan(x * step[..., None], -self.A_log.float().exp()[:, None] * step, b, c)
        y = y + self.D.float()[:, None, None] * x
        packed = to_packed(y.transpose(1, 2).flatten(2), borders)
        return self.out_proj(self.norm(packed, gate).to(hidden_states.dtype))[None]  # type: ignore[no-any-return]


def pack(network: PreTrainedModel) -> None:
    """Let a network's Mamba-2 layers take borders."""
    for module in network.modules():
        if type(module) is GraniteMoeHybridMambaLayer:
            module.__class__ = PackedMamba


def scan(x: Tensor, decay: Tensor, b: Tensor, c: Tensor, chunk: int = CHUNK) -> Tensor:
    """A linear recurrence over time, by chunks (Dao and Gu 2024, Mamba-2, arXiv:2405.21060).

    For every text and head: state_t = exp(decay_t) state_{t−1} + b_t x_tᵀ, y_t = state_tᵀ c_t. Within a chunk that is one
    masked product as in attention; the states at the chunks' borders come of a small product over chunks.

    Args:
        x: what is written, [D, heads, L, P].
        decay: logarithm of what stays of the state, at most 0, [D, heads, L].
        b: where it is written to, [D, heads, L, S].
        c: where is read from, [D, heads, L, S].
        chunk: tokens of a chunk.

    Returns:
        [D, heads, L, P].

    """
    length = x.shape[2]
    x, b, c = (F.pad(each, (0, 0, 0, -length % chunk)).unflatten(2, (-1, chunk)) for each in (x, b, c))  # type: ignore[no-untyped-call]
    total = F.pad(decay, (0, -length % chunk)).unflatten(2, (-1, chunk)).cumsum(-1)  # type: ignore[no-untyped-call]  # [D, heads, chunks, C]
    y = ((c @ b.transpose(-1, -2)) * _kept(total)) @ x
    ends = total[..., -1]
    written = (b * (ends[..., None] - total).exp()[..., None]).transpose(-1, -2) @ x  # [D, heads, chunks, S, P]
    until = torch.einsum("dhmn,dhnsp->dhmsp", _kept(ends.cumsum(-1)), written)
    begun = F.pad(until[:, :, :-1], (0, 0, 0, 0, 1, 0))  # the state each chunk begins with
    y = y + (c * total.exp()[..., None]) @ begun
    return y.flatten(2, 3)[:, :, :length]  # type: ignore[no-any-return]


def _kept(total: Tensor) -> Tensor:
    """exp(total_i − total_j) for j ≤ i, else 0: what is left at i of what was written at j. [..., n] → [..., n, n]."""
    later = torch.ones(total.shape[-1], total.shape[-1], dtype=torch.bool, device=total.device).triu(1)
    return (total[..., :, None] - total[..., None, :]).masked_fill(later, float("-inf")).exp()
