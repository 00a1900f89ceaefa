"""Language models whose embedding and head are products of two thin matrices.

A family's own classes with ``embedding_rank`` in the configuration: tokens are looked up in a table of that width and mapped
up to the hidden width; after the last norm comes a map down, then the head, which shares the table where the family ties the
two. With a vocabulary of V and a hidden width of H these are r(V + 2H) parameters in place of V·H, or of 2·V·H untied.

Transformers knows these classes where this module is imported. Elsewhere the copy of this file that is saved beside the
weights serves: ``from_pretrained(folder, trust_remote_code=True)``. So it imports nothing but torch and transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)


class FactorisedEmbedding(nn.Module):
    """Tokens → a table of width r → the hidden width."""

    def __init__(self, vocabulary: int, rank: int, hidden: int, padding: int | None) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, rank, padding)
        self.up = nn.Linear(rank, hidden, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Hidden states [..., H] of token ids."""
        states: Tensor = self.up(self.table(ids))
        return states


class _Factorised(PreTrainedModel if TYPE_CHECKING else object):  # type: ignore[misc]
    """What a family's language model becomes, just before transformers initialises and ties its weights."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.table.weight"}  # noqa: RUF012 – as transformers has it
    model: Any
    lm_head: nn.Linear

    def post_init(self) -> None:
        """Replace embedding and head."""
        config, rank = self.config, self.config.embedding_rank
        padding = getattr(config, "pad_token_id", None)
        self.model.embed_tokens = FactorisedEmbedding(config.vocab_size, rank, config.hidden_size, padding)
        self.model.norm = nn.Sequential(self.model.norm, nn.Linear(config.hidden_size, rank, bias=False))
        self.lm_head = nn.Linear(rank, config.vocab_size, bias=False)
        super().post_init()


@strict
class FactorisedLlamaConfig(LlamaConfig):  # type: ignore[misc]
    """A Llama's, with the width of the table."""

    model_type = "factorised_llama"
    embedding_rank: int = 128


@strict
class FactorisedMistralConfig(MistralConfig):  # type: ignore[misc]
    """A Mistral's, with the width of the table."""

    model_type = "factorised_mistral"
    embedding_rank: int = 128


@strict
class FactorisedQwen2Config(Qwen2Config):  # type: ignore[misc]
    """A Qwen2's, with the width of the table."""

    model_type = "factorised_qwen2"
    embedding_rank: int = 128


@strict
class FactorisedQwen3Config(Qwen3Config):  # type: ignore[misc]
    """A Qwen3's, with the width of the table."""

    model_type = "factorised_qwen3"
    embedding_rank: int = 128


class FactorisedLlamaForCausalLM(_Factorised, LlamaForCausalLM):  # type: ignore[misc]
    """A Llama with a factorised embedding and head."""

    config_class = FactorisedLlamaConfig


class FactorisedMistralForCausalLM(_Factorised, MistralForCausalLM):  # type: ignore[misc]
    """A Mistral with a factorised embedding and head."""

    config_class = FactorisedMistralConfig


class FactorisedQwen2ForCausalLM(_Factorised, Qwen2ForCausalLM):  # type: ignore[misc]
    """A Qwen2 with a factorised embedding and head."""

    config_class = FactorisedQwen2Config


class FactorisedQwen3ForCausalLM(_Factorised, Qwen3ForCausalLM):  # type: ignore[misc]
    """A Qwen3 with a factorised embedding and head."""

    config_class = FactorisedQwen3Config


CLASSES: dict[str, Any] = {
    "llama": FactorisedLlamaForCausalLM,
    "mistral": FactorisedMistralForCausalLM,
    "qwen2": FactorisedQwen2ForCausalLM,
    "qwen3": FactorisedQwen3ForCausalLM,
}
"""Model type that can be factorised → what it becomes."""

for _class in CLASSES.values():
    AutoConfig.register(_class.config_class.model_type, _class.config_class, exist_ok=True)
    AutoModelForCausalLM.register(_class.config_class, _class, exist_ok=True)
    _class.config_class.register_for_auto_class()
    _class.register_for_auto_class("AutoModelForCausalLM")


@torch.no_grad()
def split(weight_VH: Tensor, counts_V: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best product of two thin matrices, tokens weighted by how often they come.

    Of all A [V, r] and B [r, H] the ones with the least Σ_v counts_v ‖W_v − A_v B‖². B's rows are the leading right singular
    vectors of W with its rows multiplied by √counts, and A = W Bᵀ (Chen et al. 2018, GroupReduce, arXiv:1806.06950, eq. 2,
    with one group).

    Args:
        weight_VH: W.
        counts_V: weights of the rows, all above 0.
        rank: r.

    Returns:
        A and B; the rows of B are orthonormal.

    """
    wide_VH = weight_VH.double()
    moments_HH = (wide_VH * counts_V.double()[:, None]).t() @ wide_VH
    basis_RH = torch.linalg.eigh(moments_HH).eigenvectors.flip(1)[:, :rank].t()
    return (wide_VH @ basis_RH.t()).to(weight_VH), basis_RH.to(weight_VH)
