"""How large a model is, exactly, from its shapes alone: it may lie on the meta device."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from stillhouse.models import Model
from stillhouse.plan.goal import PRECISIONS


@dataclass(frozen=True)
class Tally:
    """What a model's parameters add up to, each storage counted once.

    Args:
        parameters: all of them; what its safetensors file holds.
        used: those that an answer multiplies with: the layers', and the head's where every token needs it.
        of_tokens: those of matrices with a row a token of the vocabulary: embedding and head.
        file: precision → bytes of the weights' file. In int8 and int4 each row of a matrix is cut into blocks of 32 weights
            that share a float16 scale, and vectors stay float32; without the tokenizer and a header of some kilobytes.
        layers: blocks.
        cached: numbers that a token leaves in the key-value cache; 0 where whole texts are read.

    """

    parameters: int
    used: int
    of_tokens: int
    file: dict[str, int]
    layers: int
    cached: int

    @property
    def lookup(self) -> float:
        """Share of the parameters that are rows of tokens."""
        return self.of_tokens / self.parameters


def tally(model: Model) -> Tally:
    """Count a model; it may be on the meta device."""
    unique = {id(p): p for p in model.network.parameters()}.values()
    head = model.network.get_output_embeddings()
    rows = [model.network.get_input_embeddings().weight, *([head.weight] if head is not None else [])]
    whole = reads_whole(model)
    return Tally(
        parameters=model.parameters_count,
        used=sum(p.numel() for p in model.layers.parameters()) + (0 if whole or head is None else head.weight.numel()),
        of_tokens=sum(w.numel() for w in {id(w): w for w in rows}.values()),
        file={precision: sum(_bytes(p, precision) for p in unique) for precision in PRECISIONS},
        layers=len(model.layers),
        cached=0 if whole else _cached(model.config),
    )


def _bytes(parameter: Tensor, precision: str) -> int:
    block, size = PRECISIONS[precision]
    if block == 1:
        return parameter.numel() * size
    if parameter.ndim < 2:
        return parameter.numel() * PRECISIONS["f32"][1]
    width = parameter.shape[-1]
    return parameter.numel() // width * math.ceil(width / block) * size


def _cached(config: PreTrainedConfig) -> int:
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return 2 * int(config.num_hidden_layers * groups * width)


def reads_whole(model: Model) -> bool:
    """Whether an answer is one reading of a whole text, not of a token after others: classifiers and encoders."""
    masked = model.config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return model.classifies or (masked and not getattr(model.config, "is_decoder", False))


def with_vocabulary(teacher: Model, tokens: int) -> Model:
    """The teacher with so many tokens, its shapes only (on the meta device)."""
    config = type(teacher.config).from_dict(teacher.config.to_dict())
    config.vocab_size = tokens
    config.pad_token_id = None  # the smaller vocabulary may not have its number
    with torch.device("meta"):
        return Model(type(teacher.network)._from_config(config), teacher.tokenizer, teacher.name)
