"""Models whose matrices are products of two thin ones: embedding and head, the linear maps of the layers, or all of these.

A family's own class with two more settings. ``embedding_rank``: tokens are looked up in a table of that width and mapped up to
the hidden width; after the last norm comes a map down, then the head, which shares the table where the two are tied. With a
vocabulary of V and a hidden width of H these are r(V + 2H) parameters in place of V·H, or of 2·V·H untied. ``linear_ranks``:
a linear map of every layer, by its path in the layer, is a map down to that rank and one up.

Transformers knows these classes where this module is imported. Elsewhere the copy of this file that is saved beside the
weights serves: ``from_pretrained(folder, trust_remote_code=True)``. So it imports nothing but torch and transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
    RobertaForSequenceClassification,
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
    """What a family's model becomes, just before transformers initialises and ties its weights."""

    model: Any
    lm_head: nn.Linear

    def post_init(self) -> None:
        """Put the products where the matrices are."""
        if self.config.embedding_rank is not None:
            self._thin_embedding(self.config.embedding_rank)
        layers = next(module for module in self.modules() if isinstance(module, nn.ModuleList))
        for layer in layers:
            for path, rank in (self.config.linear_ranks or {}).items():
                layer.set_submodule(path, _thin(layer.get_submodule(path), rank))
        super().post_init()

    def _thin_embedding(self, rank: int) -> None:
        config = self.config
        padding = getattr(config, "pad_token_id", None)
        self.model.embed_tokens = FactorisedEmbedding(config.vocab_size, rank, config.hidden_size, padding)
        self.model.norm = nn.Sequential(self.model.norm, nn.Linear(config.hidden_size, rank, bias=False))
        self.lm_head = nn.Linear(rank, config.vocab_size, bias=False)
        self._tied_weights_keys = {"lm_head.weight": "model.embed_tokens.table.weight"}


def _thin(linear: Any, rank: int) -> nn.Sequential:
    """A linear map by way of ``rank`` numbers."""
    down = nn.Linear(linear.in_features, rank, bias=False)
    return nn.Sequential(down, nn.Linear(rank, linear.out_features, bias=linear.bias is not None))


def _factorised(network: Any) -> Any:
    """The class that a network's class becomes, with a configuration of its own; both as names of this module."""
    plain = network.config_class
    config: Any = strict(
        type(
            f"Factorised{plain.__name__}",
            (plain,),
            {
                "__doc__": f"A {plain.__name__} with the ranks of products.",
                "__annotations__": {"embedding_rank": int | None, "linear_ranks": dict[str, int] | None},
                "model_type": f"factorised_{plain.model_type}",
                "embedding_rank": None,
                "linear_ranks": None,
            },
        )
    )
    made = type(
        f"Factorised{network.__name__}",
        (_Factorised, network),
        {"__doc__": f"A {network.__name__} with products for matrices.", "config_class": config},
    )
    auto = AutoModelForCausalLM if network.__name__.endswith("ForCausalLM") else AutoModelForSequenceClassification
    AutoConfig.register(config.model_type, config, exist_ok=True)
    auto.register(config, made, exist_ok=True)
    config.register_for_auto_class()
    made.register_for_auto_class(auto.__name__)  # type: ignore[attr-defined]
    globals().update(
        {config.__name__: config, made.__name__: made}
    )  # where the file beside the weights is asked for them
    return made


CLASSES: dict[Any, Any] = {
    network: _factorised(network)
    for network in (
        LlamaForCausalLM,
        MistralForCausalLM,
        Qwen2ForCausalLM,
        Qwen3ForCausalLM,
        BertForSequenceClassification,
        RobertaForSequenceClassification,
    )
}
"""Class that can be factorised → what it becomes."""
