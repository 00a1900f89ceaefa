"""A student that is its teacher, taught through low-rank adapters."""

from __future__ import annotations

import copy
from typing import Annotated

from pydantic import Field
from torch import nn
from transformers.pytorch_utils import Conv1D

from stillhouse.adapters import Adapter, check_installed
from stillhouse.errors import ModelError, did_you_mean, fail
from stillhouse.models import Model


def lora(
    teacher: Model,
    *,
    rank: Annotated[int, Field(gt=0)] = 16,
    alpha: Annotated[float, Field(gt=0.0)] = 32.0,
    modules: list[str] | None = None,
) -> Model:
    """The teacher, of which only low-rank adapters are trained (LoRA, Hu et al. 2021, arXiv:2106.09685).

    Each matrix W of the layers becomes W + alpha / rank · B A, where only A and B learn; a classifier's head learns too. Gradients,
    the optimiser's averages and checkpoints are of these alone. They are merged when the student is written, which is then an
    ordinary model. For adapting a teacher to its task in a first stage, or, at the end of ``then``, for a student that was cut.

    Args:
        teacher: what to adapt.
        rank: of the product B A.
        alpha: how strongly the product counts: it is multiplied by alpha / rank.
        modules: names of the linear maps in a layer that get one, such as [q_proj, v_proj]; all if not given.

    """
    check_installed()
    linear = _linear_maps(teacher)
    kinds = sorted({name.rpartition(".")[2] for name in linear})
    for wanted in modules or ():
        if wanted not in kinds:
            what = f"the layers of a {type(teacher.network).__name__} have no linear map '{wanted}'"
            raise fail(ModelError, "student.modules", what, did_you_mean(wanted, kinds))
    if modules is not None and not modules:
        raise fail(ModelError, "student.modules", "no linear map is named", f"Possible: {', '.join(kinds)}.")
    chosen = tuple(name for name in linear if modules is None or name.rpartition(".")[2] in modules)
    most = min(min(linear[name].weight.shape) for name in chosen)
    if rank > most:
        what = f"{rank} is more than {most}, the rank that the smallest of its matrices has itself"
        raise fail(ModelError, "student.rank", what, f"Give at most {most}: 8 or 16, say.")
    adapter = Adapter(rank, alpha, chosen)
    return Model(copy.deepcopy(teacher.network), teacher.tokenizer, f"{teacher.name}-lora-{rank}", adapter)


def _linear_maps(model: Model) -> dict[str, nn.Linear | Conv1D]:
    """The linear maps of the layers, by their name in the network."""
    inside = {id(module) for layer in model.layers for module in layer.modules()}
    return {
        name: module
        for name, module in model.network.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and id(module) in inside
    }
