"""A student with fresh weights."""

from __future__ import annotations

import copy

from stillhouse import models
from stillhouse.errors import ModelError, fail
from stillhouse.models import Model


def random(
    teacher: Model,
    *,
    layers: int | None = None,
    hidden: int | None = None,
    heads: int | None = None,
    groups: int | None = None,
    intermediate: int | None = None,
    tokenizer: str | None = None,
) -> Model:
    """The teacher's architecture in another size, with fresh random weights.

    Args:
        teacher: whose architecture and vocabulary it has.
        layers: how many; the teacher's number if not given.
        hidden: width of the hidden states.
        heads: attention heads.
        groups: key-value heads.
        intermediate: width of the feed-forward layers.
        tokenizer: another than the teacher's: a folder or org/name. The objective must then compare across tokenizers (gold).

    """
    config = copy.deepcopy(teacher.config)
    old_heads = config.num_attention_heads
    config.num_hidden_layers = layers or config.num_hidden_layers
    config.hidden_size = hidden or config.hidden_size
    config.num_attention_heads = heads or old_heads
    if groups or (heads and hasattr(config, "num_key_value_heads")):
        config.num_key_value_heads = groups or min(config.num_attention_heads, config.num_key_value_heads)
    config.intermediate_size = intermediate or config.intermediate_size
    if getattr(config, "layer_types", None):
        config.layer_types = (config.layer_types * config.num_hidden_layers)[: config.num_hidden_layers]
    if (hidden or heads) and hasattr(config, "head_dim"):
        config.head_dim = config.hidden_size // config.num_attention_heads
    for of, by, names in (
        (config.hidden_size, config.num_attention_heads, "hidden is no multiple of heads"),
        (config.num_attention_heads, getattr(config, "num_key_value_heads", 1) or 1, "heads is no multiple of groups"),
    ):
        if of % by:
            raise fail(ModelError, "student", f"{names}: {of} and {by}", f"Take a multiple of {by}.")
    reads = teacher.tokenizer
    if tokenizer is not None:
        reads = models.load_tokenizer(tokenizer, where="student.tokenizer")
        config.vocab_size = len(reads)
        config.bos_token_id, config.pad_token_id = reads.bos_token_id, reads.pad_token_id
        config.eos_token_id = reads.eos_token_id if reads.eos_token_id is not None else reads.sep_token_id
    network = type(teacher.network)._from_config(config)
    return Model(network, reads, f"{teacher.name}-random")
