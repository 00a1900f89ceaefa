"""ExecuTorch, for phones and small devices."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stillhouse.errors import ModelError, Problem, fail
from stillhouse.export.artefact import Artefact, format_of, write_beside
from stillhouse.export.rounding import in_integers
from stillhouse.models import Model

Precision = Literal["float32", "int8", "int4"]

_TOLERANCE = {"float32": 1e-4, "int8": 0.2, "int4": 0.2}
"""Nats. In fewer bits also what is multiplied with the weights is rounded, to eight."""


def _refuses(model: Model, options: dict[str, Any]) -> Problem | None:
    other = "Export it with hf."
    if model.bare or not (model.packs or model.classifies):
        what = f"a {type(model.network).__name__} cannot be written: its state is more than keys and values"
        return Problem("executorch", what, other)
    if not model.classifies and not getattr(model.network, "_can_compile_fullgraph", True):
        return Problem("executorch", f"a {type(model.network).__name__} cannot be traced as one graph", other)
    window = getattr(model.config, "sliding_window", None)
    if window is not None and getattr(model.config, "use_sliding_window", True) and window < options["context"]:
        return Problem(
            "executorch", f"a window of attention of {window} cannot be written", f"Lower context to {window}."
        )
    if options["precision"] != "float32":
        for name, grid in model.grids.items():
            columns = grid.values.shape[1]
            if grid.group != columns and (grid.bits == 8 or grid.group % 32):
                what = f"'{name}' was trained for {grid.bits} bits with a scale for {grid.group} weights, and XNNPACK multiplies "
                what += "8 bits only with one a row, 4 bits also with one for 32, 64, …"
                return Problem(
                    "executorch", what, "Train it with {group: row}, or export it with gguf, onnx or torchao."
                )
    return None


def _size(model: Model, options: dict[str, Any]) -> int:
    """Bytes of the file, about; a head that shares the embedding's matrix is written once more."""
    inside = {id(m) for m in model.layers.modules()}
    bits = {"float32": (32.0, 32.0), "int8": (8.0, 8.0), "int4": (4.5, 8.0)}[options["precision"]]
    total = 0.0
    for module in model.network.modules():
        for parameter in module.parameters(recurse=False):
            matrix = isinstance(module, nn.Linear | nn.Embedding) and parameter.ndim == 2
            total += parameter.numel() * (bits[id(module) not in inside] if matrix else 32) / 8
    return int(total)


@format_of(
    runtime_package="executorch",
    extra="executorch",
    packages=("executorch", "torchao"),
    refuses=_refuses,
    size=_size,
)
def executorch(student: Model, folder: Path, *, precision: Precision = "float32", context: int = 1024) -> Artefact:
    """A folder with model.pte for ExecuTorch with XNNPACK, and its tokenizer: a decoder with its keys and values, or a classifier.

    A decoder's method forward takes input_ids [1, P] and cache_position [P] and gives logits [1, P, V], as the runners of
    ExecuTorch call it; keys and values stay in the program, and a text begins at position 0. A classifier's takes input_ids [1, P]
    and, where the model tells a pair's texts apart, token_type_ids.

    Args:
        student: what to write.
        folder: where; it is there already.
        precision: of the matrices: float32; int8 with a scale a row; int4 with one for 32 weights, embedding and head in
            int8. What comes into a layer of integers is rounded to 8 bits too.
        context: tokens that a decoder can keep; at most those that the model was made for.

    Raises:
        ModelError: a network that cannot be written.

    """
    problem = _refuses(student, {"precision": precision, "context": context})
    if problem is not None:
        raise ModelError(problem)
    length = min(context, int(student.config.max_position_embeddings))
    if precision == "float32":
        pupil, same_as = student.in_floats(), student.in_floats()
    else:
        pupil, same_as = in_integers(student, 8 if precision == "int8" else 4, xnnpack=True)
    for module in pupil.network.modules():
        if isinstance(module, nn.Embedding):
            module.padding_idx = None  # else the kernel of an embedding in integers is not found
    with pupil.generating() as network, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network.set_attn_implementation("eager" if student.classifies else "sdpa")
        try:
            traced = _classifier(network, length) if student.classifies else _decoder(network, length)
            _lower(traced, folder / "model.pte")
        except Exception as error:
            what = f"{type(student.network).__name__}: {str(error).strip().splitlines()[0]}"
            way_out = "An operator of it cannot be traced or lowered: export it with onnx or hf."
            raise fail(ModelError, "executorch", what, way_out) from error
    write_beside(student, folder, precision, {"types": _types(student.config), "context": length})
    return Artefact(folder, "executorch", same_as, _TOLERANCE[precision], (("context", str(length)),))


def _types(config: Any) -> bool:
    return int(getattr(config, "type_vocab_size", 0)) > 1


class _Classifier(nn.Module):
    """One text at a time: no padding, so no mask."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Logits [1, C]."""
        given = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        logits: Tensor = self.network(input_ids=input_ids, **given).logits
        return logits


def _classifier(network: Any, length: int) -> torch.export.ExportedProgram:
    tokens = torch.export.Dim("tokens", max=length)
    example = tuple(torch.ones(1, 7, dtype=torch.int64) for _ in range(2 if _types(network.config) else 1))
    return torch.export.export(
        _Classifier(network).eval(), example, dynamic_shapes=tuple({1: tokens} for _ in example), strict=True
    )


def _decoder(network: Any, length: int) -> torch.export.ExportedProgram:
    from transformers.integrations.executorch import TorchExportableModuleForDecoderOnlyLM

    network.generation_config.cache_implementation = "static"
    network.generation_config.use_cache = True
    module = TorchExportableModuleForDecoderOnlyLM(network, batch_size=1, max_cache_len=length)
    tokens = torch.export.Dim("tokens", max=length - 1)
    program: torch.export.ExportedProgram = module.export(
        input_ids=torch.ones(1, 4, dtype=torch.int64),
        cache_position=torch.arange(4),
        dynamic_shapes={"input_ids": {1: tokens}, "cache_position": {0: tokens}},
        strict=True,
    )
    return program


def _lower(traced: torch.export.ExportedProgram, path: Path) -> None:
    """Give XNNPACK what it can run, and write the program."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower

    edge = to_edge_transform_and_lower(
        traced, partitioner=[XnnpackPartitioner()], compile_config=EdgeCompileConfig(_check_ir_validity=False)
    )
    program = edge.to_executorch(
        ExecutorchBackendConfig(extract_delegate_segments=True, do_quant_fusion_and_const_prop=True)
    )
    with path.open("wb") as file:
        program.write_to_file(file)
