"""A student whose attention is linear in all but the last tokens."""

from __future__ import annotations

import copy

import torch

from stillhouse.architectures.linear_attention import (
    LINEAR,
    LinearAttentionConfig,
    LinearAttentionForCausalLM,
)
from stillhouse.errors import ModelError, fail
from stillhouse.models import Model
from stillhouse.student.hybrid import inherited, kept_layers, refuse_unlike_llama


def linear_attention(
    teacher: Model, *, window: int = 64, features: int | None = None, attention: list[int] | None = None
) -> Model:
    """The teacher with linear attention behind a window of exact attention (LoLCATs, Zhang et al. 2024, arXiv:2410.10254).

    All weights are the teacher's; only the feature maps are fresh. Take drop_layers before this one for a shallower student.
    It is of a class of Stillhouse's: elsewhere it loads with ``trust_remote_code=True``, from the files beside it.

    Args:
        teacher: a language model of the type Llama, or a Mistral without a sliding window.
        window: tokens that are attended to exactly, itself among them.
        features: rows of each feature map, which gives twice as many features; a head's width if not given.
        attention: layers that keep their attention whole, counted from 0; none if not given.

    """
    refuse_unlike_llama(teacher, "linear attention")
    config = teacher.config
    keep = kept_layers(teacher, attention or [])
    if window < 2:
        raise fail(ModelError, "student.window", f"{window} is no window of tokens", "Give at least 2; 64, say.")
    if features is not None and features < 1:
        raise fail(ModelError, "student.features", f"{features} is no number of features", "Give at least 1.")
    width = config.head_dim or config.hidden_size // config.num_attention_heads
    settings = inherited(teacher) | {
        "sliding_window": window,
        "feature_size": features or width,
        "layer_types": ["full_attention" if i in keep else LINEAR for i in range(config.num_hidden_layers)],
    }
    student = LinearAttentionForCausalLM._from_config(LinearAttentionConfig(**settings))
    student.generation_config = copy.deepcopy(teacher.network.generation_config)
    if not next(teacher.parameters()).is_meta:
        with torch.no_grad():
            missing, unexpected = student.load_state_dict(teacher.network.state_dict(), strict=False)
        fresh = [name for name in missing if not name.endswith(("query_map", "key_map", "share"))]
        assert not fresh and not unexpected, f"not taken from the teacher: {fresh[:3]} {unexpected[:3]}"
    return Model(student, teacher.tokenizer, f"{teacher.name}-linear").requires_grad_(True)
