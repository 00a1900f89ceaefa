"""A student with fewer layers than its teacher."""

from __future__ import annotations

import copy

from torch import nn

from stillhouse.errors import ModelError, fail
from stillhouse.models import Model


def drop_layers(teacher: Model, *, keep: int | list[int]) -> Model:
    """The teacher with only some of its layers, all weights its own (DistilBERT, Sanh et al. 2019, arXiv:1910.01108, §3).

    Args:
        teacher: what to cut.
        keep: how many layers, spread evenly with the first and the last among them; or which, counted from 0.

    """
    depth = len(teacher.layers)
    chosen = even(depth, keep) if isinstance(keep, int) else list(keep)
    if not chosen or chosen != sorted(set(chosen)) or chosen[0] < 0 or chosen[-1] >= depth:
        raise fail(
            ModelError,
            "student.keep",
            f"{keep} cannot be kept of {depth} layers",
            f"Give a number from 1 to {depth}, or layers in rising order from 0 to {depth - 1}.",
        )
    network = copy.deepcopy(teacher.network)
    student = Model(network, teacher.tokenizer, f"{teacher.name}-{len(chosen)}-layers")
    kept = [student.layers[index] for index in chosen]
    del student.layers[:]
    student.layers.extend(kept)
    _renumber(student.layers)
    config = network.config
    config.num_hidden_layers = len(chosen)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[index] for index in chosen]
    return student.requires_grad_(True)


def even(depth: int, keep: int) -> list[int]:
    """Which layers to keep so that they spread evenly and the first and last are among them; empty if it cannot be."""
    if not 1 <= keep <= depth:
        return []
    if keep == 1:
        return [depth - 1]
    return [round(index * (depth - 1) / (keep - 1)) for index in range(keep)]


def _renumber(layers: nn.ModuleList) -> None:
    """Caches are kept by a layer's number, which must be its place."""
    for index, layer in enumerate(layers):
        for module in layer.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                setattr(module, "layer_idx", index)  # noqa: B010 – an attribute that nn.Module does not declare
