"""A student's matrices as integers and scales, for runtimes that read them from torchao's tensors."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from stillhouse.models import Model

_GROUP = 32
"""Weights that share a scale, of four bits that were not trained for another grid."""


def in_integers(student: Model, bits: int, *, xnnpack: bool) -> tuple[Model, Model]:
    """Round the matrices of a student after training; of one that was trained for a grid, take that as it is, and no more.

    Eight bits have one scale a row. Four bits have one for 32 weights, in the matrices of the layers; embedding and head, which
    suffer most, and rows that 32 does not divide, keep eight.

    What came into a matrix rounded while it was trained does so afterwards.

    Args:
        student: stays as it is.
        bits: 8 or 4.
        xnnpack: whether they are multiplied as XNNPACK does it: what comes into a linear layer is rounded too, to 8 bits, token
            by token with a zero point, and scales of groups are kept in bfloat16.

    Returns:
        a copy whose linear layers and embeddings hold torchao's ``IntxUnpackedToInt8Tensor``, and a copy that has the same
        weights in float32.

    """
    from torchao.quantization import IntxUnpackedToInt8Tensor
    from torchao.quantization.quantize_.workflows.intx.intx_unpacked_to_int8_tensor import (
        IntxUnpackedToInt8TensorActivationQuantization as Rounds,
    )

    kinds: dict[int, Any] = {8: torch.int8, 4: getattr(torch, "int4")}  # noqa: B009 – its types are not declared
    small, plain = student.in_floats(), copy.deepcopy(student).eval()
    names = {id(parameter): name for name, parameter in small.network.named_parameters()}
    inside = {id(module) for module in small.layers.modules()}
    places = [m for m in small.network.modules() if isinstance(m, nn.Linear | nn.Embedding)]
    weights = dict(plain.network.named_parameters())
    # a matrix that is embedding and head at once is looked at twice, and both times it is the one that was there
    held = [(module, module.weight, names[id(module.weight)]) for module in places]
    for module, weight, name in held:
        grid = student.grids.get(name)
        if grid is None and student.grids:
            continue
        if grid is not None:
            zeros = torch.zeros_like(grid.scales, dtype=torch.int8)
            block = (1, grid.group)
            tensor = IntxUnpackedToInt8Tensor(
                grid.values, grid.scales, zeros, kinds[grid.bits], block, torch.float32, None
            )
        else:
            four = bits == 4 and id(module) in inside and weight.shape[1] % _GROUP == 0
            block = (1, _GROUP if four else weight.shape[1])
            tensor = IntxUnpackedToInt8Tensor.from_hp(weight.detach(), block, kinds[4 if four else 8])
        if isinstance(module, nn.Linear) and (xnnpack or (grid is not None and grid.activations)):
            tensor.activation_quantization = Rounds.INT8_ASYM_PER_TOKEN.value  # a plain string can be written
        if xnnpack and isinstance(module, nn.Linear) and tensor.scale.shape[1] > 1:
            tensor.scale = tensor.scale.bfloat16().float()
        module.weight = nn.Parameter(tensor, requires_grad=False)
        weights[name].data = tensor.dequantize()
    return small, plain
