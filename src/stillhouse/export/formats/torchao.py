"""torchao: PyTorch with matrices of integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import nn

from stillhouse.errors import ModelError, Problem
from stillhouse.export.artefact import Artefact, format_of, write_beside
from stillhouse.export.rounding import in_integers
from stillhouse.models import Model

Precision = Literal["int8", "int4"]


def _refuses(model: Model, options: dict[str, Any]) -> Problem | None:
    if model.bare:
        what = f"a {type(model.network).__name__} cannot be written: from_pretrained does not know it"
        return Problem("torchao", what, "Export it with hf.")
    return None


def _size(model: Model, options: dict[str, Any]) -> int:
    """Bytes of the file, about: an integer takes a byte, of four bits too."""
    matrices = {
        id(m.weight): m.weight.numel() for m in model.network.modules() if isinstance(m, nn.Linear | nn.Embedding)
    }
    scales = 5 / 32 if options["precision"] == "int4" else 0
    rest = model.parameters_count - sum(matrices.values())
    return int(sum(matrices.values()) * (1 + scales) + 4 * rest)


@format_of(runtime_package="torchao", extra="quant", packages=("torchao",), refuses=_refuses, size=_size)
def torchao(student: Model, folder: Path, *, precision: Precision = "int8") -> Artefact:
    """A folder for from_pretrained whose matrices are integers, each in a byte, with torchao's scales.

    Args:
        student: what to write.
        folder: where; it is there already.
        precision: of the matrices: int8 with a scale a row; int4 with one for 32 weights, embedding and head in int8.

    Raises:
        ModelError: a network that from_pretrained does not know.

    """
    problem = _refuses(student, {"precision": precision})
    if problem is not None:
        raise ModelError(problem)
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization import IntxWeightOnlyConfig, PerGroup
    from transformers import TorchAoConfig

    small, plain = in_integers(student, 8 if precision == "int8" else 4, xnnpack=False)
    every = {name for name, _ in student.network.named_parameters(remove_duplicate=False)}
    again = every - {name for name, _ in student.network.named_parameters()}  # a tied head
    tensors = {name: tensor for name, tensor in small.network.state_dict().items() if name not in again}
    flat, described = flatten_tensor_state_dict(tensors)
    save_file(flat, folder / "model.safetensors", {**described, "format": "pt"})
    # what the configuration says is only that there are integers: which they are, each tensor of the file says itself
    how = TorchAoConfig(IntxWeightOnlyConfig(torch.int8, PerGroup(32)), include_input_output_embeddings=True)
    small.config.quantization_config, small.config.architectures = how, [type(student.network).__name__]
    write_beside(small, folder, precision, {})
    rounds_inputs = any(grid.activations for grid in student.grids.values())
    return Artefact(folder, "torchao", plain, 0.01 if rounds_inputs else 1e-4)
