"""A model with chosen layers of another: which to choose by a measure, and the cut itself."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from stillhouse.errors import ModelError, fail
from stillhouse.models import Model
from stillhouse.student.importance import Sample, block_influence, perplexity_change

By = Literal["even", "block_influence", "perplexity"]
"""How to choose layers: spread evenly, or those that turn their input most, or whose absence costs most perplexity."""


def choose_layers(teacher: Model, sample: Sample, keep: int, by: By) -> list[int]:
    """Which layers to keep.

    Args:
        teacher: whose; on the meta device nothing is measured and the layers are spread evenly.
        sample: gives texts to measure on; only called if something is measured.
        keep: how many.
        by: how; all layers are measured once, in the whole teacher.

    Returns:
        in rising order; empty if so many cannot be kept.

    Raises:
        ModelError: perplexity of a model that predicts no next tokens.
        DataError: there is no text.

    """
    depth = len(teacher.layers)
    if by == "even" or not 1 <= keep < depth or next(teacher.parameters()).is_meta:
        return even(depth, keep)
    scores_L = {"block_influence": block_influence, "perplexity": perplexity_change}[by](teacher, sample())
    return torch.topk(scores_L, keep).indices.sort().values.tolist()


def even(depth: int, keep: int) -> list[int]:
    """Which layers to keep so that they spread evenly and the first and last are among them; empty if it cannot be."""
    if not 1 <= keep <= depth:
        return []
    if keep == 1:
        return [depth - 1]
    return [round(index * (depth - 1) / (keep - 1)) for index in range(keep)]


def with_layers(teacher: Model, chosen: Sequence[int]) -> Model:
    """The teacher with these of its layers, in this order; all weights are copies.

    Args:
        teacher: any model whose layers are known.
        chosen: numbers of its layers; one may come several times.

    Raises:
        ModelError: a layer's mathematics depends on its number.

    """
    if getattr(teacher.config, "scale_attn_by_inverse_layer_idx", False):
        what = "its layers scale their attention by their number, so they cannot change places"
        raise fail(ModelError, "student", what, "Use a model without scale_attn_by_inverse_layer_idx.")
    # All but the layers is copied first, then the layers chosen, which must refer to that copy's configuration.
    memo: dict[int, Any] = {id(teacher.layers): nn.ModuleList()}
    network = copy.deepcopy(teacher.network, memo)
    layers = [copy.deepcopy(teacher.layers[index], dict(memo)) for index in chosen]
    student = Model(network, teacher.tokenizer, f"{teacher.name}-{len(chosen)}-layers")
    student.layers.extend(layers)
    for index, layer in enumerate(student.layers):
        for module in layer.modules():
            if isinstance(getattr(module, "layer_idx", None), int):  # caches are kept by it
                setattr(module, "layer_idx", index)  # noqa: B010 – an attribute that nn.Module does not declare
    config = network.config
    config.num_hidden_layers = len(chosen)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[index] for index in chosen]
    return student.requires_grad_(True)
