"""ONNX, which ONNX Runtime runs."""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import DynamicCache

from stillhouse.errors import ModelError, Problem
from stillhouse.export.artefact import Artefact, format_of, write_beside
from stillhouse.files import write_json
from stillhouse.grid import Grid
from stillhouse.machine import has_vnni
from stillhouse.models import Model

Precision = Literal["float32", "int8", "int4"]

_BLOCK = 32
"""Weights that share a scale, of int4 and of a decoder's int8."""
_LARGEST = 1.9e9
"""Bytes of a file: Protocol Buffers end at 2³¹."""
_OPSET = 20
_OLDEST, _NEWEST = 18, 23
"""Opsets: the exporter writes none that is older, and ONNX Runtime 1.23 runs none that is newer."""
_ROUNDED_INPUTS = 0.2
"""Mean KL in nats that rounding inputs to 8 bits in blocks may cost; as llama.cpp does."""
_LEVEL = 4
"""MatMulNBits' ``accuracy_level``: inputs are rounded to 8 bits, block by block. With floats (1) ONNX Runtime has no product for
weights of 8 bits: it turns the whole matrix into floats for every token, which takes fifty times as long."""
_BITS = {"float32": 32.0, "int8": 8.0 + 32 / _BLOCK, "int4": 4.0 + 32 / _BLOCK}


def _refuses(model: Model, options: dict[str, Any]) -> Problem | None:
    if model.bare or not (model.packs or model.classifies):
        what = f"a {type(model.network).__name__} cannot be written: its state is more than keys and values"
        return Problem("onnx", what, "Export it with hf.")
    opset = options.get("opset", _OPSET)  # a page has no such option
    if not _OLDEST <= opset <= _NEWEST:
        what = f"opset {opset} cannot be written and run: it is from {_OLDEST} to {_NEWEST}"
        return Problem("onnx.opset", what, f"Leave it out ({_OPSET}), or take what your runtime documents.")
    if 4 * model.parameters_count > _LARGEST:
        what = f"{model.parameters_count:,} parameters do not fit into one ONNX file, which holds 2 GB"
        return Problem("onnx", what, "Export it with hf or gguf.")
    odd = {grid.group for grid in model.grids.values() if grid.group % 16}
    if odd and options["precision"] != "float32":
        what = f"a scale for every {min(odd)} weights cannot be copied: blocks are multiples of 16"
        return Problem("onnx", what, "Train with student.quantize.group=32 or 64, or export float32.")
    return None


def _size(model: Model, options: dict[str, Any]) -> int:
    """Bytes of the file, about: matrices of the layers and the head in the precision, vectors and mostly embeddings in float32."""
    if model.grids and options["precision"] != "float32":
        return _size_on_grids(model)
    if model.classifies and options["precision"] == "int8":
        return sum(p.numel() * (1 if p.ndim == 2 else 4) for p in model.network.parameters())  # embeddings too
    small = {id(m.weight): m.weight for m in model.network.modules() if isinstance(m, nn.Linear)}
    rest = {id(p): p for m in model.network.modules() if not isinstance(m, nn.Linear) for p in m.parameters(False)}
    shared = options["precision"] == "float32"  # a head that shares the embedding's matrix is written once
    kept = sum(p.numel() for key, p in small.items() if not (shared and key in rest))
    return int(kept * _BITS[options["precision"]] / 8 + 4 * sum(p.numel() for p in rest.values()))


def _size_on_grids(model: Model) -> int:
    """Bytes of the file, about: matrices on their grids, all else and embeddings in float32."""
    names = {id(p): n for n, p in model.network.named_parameters()}
    total = 0.0
    for layer in model.network.modules():
        for parameter in layer.parameters(recurse=False):
            grid = model.grids.get(names[id(parameter)]) if isinstance(layer, nn.Linear) else None
            total += parameter.numel() * (4.0 if grid is None else grid.bits / 8 + 4 / grid.group)
    return int(total)


@format_of(
    runtime_package="onnxruntime",
    extra="onnx",
    packages=("onnx", "onnxscript", "onnxruntime"),
    refuses=_refuses,
    size=_size,
)
def onnx(student: Model, folder: Path, *, precision: Precision = "float32", opset: int = _OPSET) -> Artefact:
    """A folder with model.onnx for ONNX Runtime and its tokenizer: a decoder with its keys and values, or a classifier.

    A decoder's inputs are input_ids, attention_mask, position_ids and past.{layer}.key and .value, which may be of length 0; its
    outputs logits and present.{layer}.key and .value. Batch and lengths are free.

    Args:
        student: what to write.
        folder: where; it is there already.
        precision: of the matrices: float32; int8 or int4 in blocks of 32 (MatMulNBits), whose inputs are rounded to 8 bits as they
            come, in blocks too. A classifier's int8 has one scale a row, its weights signed only where the processor adds such
            products exactly.
            A student that was trained for a grid is written on that grid whether int8 or int4 is asked for.
        opset: version of ONNX's operators.

    Raises:
        ModelError: a network that cannot be written, or an operator of it.

    """
    problem = _refuses(student, {"precision": precision, "opset": opset})
    if problem is not None:
        raise ModelError(problem)
    path = folder / "model.onnx"
    plain = student.in_floats()  # inputs are rounded by ONNX Runtime, if at all
    untied = copy.deepcopy(plain)
    on_grids = bool(student.grids) and precision != "float32"
    if precision != "float32" and not student.classifies:
        # the product with an embedding turned around is no matrix product that the quantisers know
        untied.head_layer.weight = nn.Parameter(untied.head_layer.weight.detach().clone())
    with untied.generating() as network, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network.set_attn_implementation("eager")
        try:
            _write(network, path, opset, classifies=student.classifies)
        except Exception as error:  # the exporter's errors have no common class
            raise ModelError(_unsupported(network, error)) from error
    facts = [("opset", str(opset))]
    if on_grids:
        facts.append(("weights", _copy_grids(path, plain)))
    elif precision != "float32":
        log = logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer")
        level = log.level
        log.setLevel(logging.ERROR)  # it tells of every node
        facts.append(("weights", _quantise(path, precision, classifies=student.classifies)))
        log.setLevel(level)
    write_beside(student, folder, precision, {})
    if not student.classifies:
        write_json(folder / "genai_config.json", _for_genai(student))
    same_as = plain if precision == "float32" or on_grids else None
    return Artefact(folder, "onnxruntime", same_as, _ROUNDED_INPUTS if on_grids else 1e-4, tuple(facts))


def _unsupported(network: nn.Module, error: Exception) -> Problem:
    """What the exporter refused, in its own words: the innermost of its errors names the operator."""
    inner: BaseException = error
    while inner.__cause__ is not None:
        inner = inner.__cause__
    lines = str(inner).strip().splitlines() or [type(inner).__name__]
    what = f"the exporter cannot write a {type(network).__name__}: {lines[0]}"
    return Problem("onnx", what, "Export it with hf or gguf, or with another opset.")


def _for_genai(student: Model) -> dict[str, Any]:
    """What onnxruntime-genai reads of a folder: how the decoder's inputs and outputs are called, and its shape."""
    config, tokenizer = student.config, student.tokenizer
    end = tokenizer.eos_token_id
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end
    context = int(getattr(config, "max_position_embeddings", 2048))
    inputs = {name: name for name in ("input_ids", "attention_mask", "position_ids")}
    heads, width = _heads(config)
    decoder = {
        "session_options": {},
        "filename": "model.onnx",
        "head_size": width,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": heads,
        "inputs": inputs | {"past_key_names": "past.%d.key", "past_value_names": "past.%d.value"},
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    tokens = {"eos_token_id": end, "pad_token_id": pad, "bos_token_id": end if tokenizer.bos_token_id is None else tokenizer.bos_token_id}  # fmt: skip
    return {
        "model": {
            "type": "decoder",
            "context_length": context,
            "vocab_size": config.vocab_size,
            "decoder": decoder,
            **tokens,
        },
        "search": {"max_length": context, "past_present_share_buffer": False},
    }


def _heads(config: Any) -> tuple[int, int]:
    """Heads of keys and values, and the width of one."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return heads, getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


class _Decoder(nn.Module):
    """A causal language model with its cache as plain tensors."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, *past: Tensor
    ) -> tuple[Tensor, ...]:
        """Logits, then keys and values of each layer, past and present."""
        cache = DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        out = self.network(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        kept = (tensor for layer in out.past_key_values.layers for tensor in (layer.keys, layer.values))
        return (out.logits, *kept)


class _Classifier(nn.Module):
    """An encoder or decoder that says classes."""

    def __init__(self, network: Any, names: list[str]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits [B, C]."""
        logits: Tensor = self.network(**dict(zip(self.names, inputs, strict=True))).logits
        return logits


def _write(network: Any, path: Path, opset: int, *, classifies: bool) -> None:
    """Trace the network with lengths that all differ, so that none is taken for another, and write it."""
    any_length = torch.export.Dim.DYNAMIC
    config = network.config
    batch, new, before = 2, 3, 5
    if classifies:
        names = ["input_ids", "attention_mask"]
        names += ["token_type_ids"] if getattr(config, "type_vocab_size", 0) > 1 else []
        module: nn.Module = _Classifier(network, names)
        example = tuple(torch.ones(batch, new, dtype=torch.int64) for _ in names)
        shapes: Any = (tuple({0: any_length, 1: any_length} for _ in names),)
        outputs = ["logits"]
    else:
        heads, width = _heads(config)
        kept = [f"{layer}.{part}" for layer in range(config.num_hidden_layers) for part in ("key", "value")]
        names = ["input_ids", "attention_mask", "position_ids", *(f"past.{name}" for name in kept)]
        outputs = ["logits", *(f"present.{name}" for name in kept)]
        module = _Decoder(network)
        example = (
            torch.ones(batch, new, dtype=torch.int64),
            torch.ones(batch, before + new, dtype=torch.int64),
            torch.arange(before, before + new)[None].repeat(batch, 1),
            *(torch.randn(batch, heads, before, width) for _ in kept),
        )
        two = {0: any_length, 1: any_length}
        shapes = (two, two, two, tuple({0: any_length, 2: any_length} for _ in kept))
    torch.onnx.export(
        module.eval(),
        example,
        str(path),
        dynamo=True,
        opset_version=opset,
        input_names=names,
        output_names=outputs,
        dynamic_shapes=shapes,
        external_data=False,
        verbose=False,
    )
    _strip(path)


def _strip(path: Path) -> None:
    """Take out of a written graph where in Python each of its nodes came from: a quarter of a megabyte, and paths of this machine."""
    import onnx as library

    model = library.load(path)
    del model.metadata_props[:]
    for each in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        each.doc_string = ""
        del each.metadata_props[:]
    library.save(model, path)


def _quantise(path: Path, precision: Precision, *, classifies: bool) -> str:
    """Round the matrices of a written graph; says how."""
    import onnx as library
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    if classifies and precision == "int8":
        signed = has_vnni()
        quantize_dynamic(
            str(path),
            str(path),
            per_channel=True,
            weight_type=QuantType.QInt8 if signed else QuantType.QUInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        return "signed int8 (VNNI)" if signed else "unsigned int8 (no VNNI here: sums of signed ones would saturate)"
    bits = 8 if precision == "int8" else 4
    how = DefaultWeightOnlyQuantConfig(block_size=_BLOCK, is_symmetric=True, accuracy_level=_LEVEL, bits=bits)
    quantiser = MatMulNBitsQuantizer(library.load(path), algo_config=how)
    quantiser.process()
    quantiser.model.save_model_to_file(str(path), use_external_data_format=False)
    return f"int{bits} in blocks of {_BLOCK} (MatMulNBits), inputs in 8 bits"


def _copy_grids(path: Path, student: Model) -> str:
    """Put the student's grids in the place of the matrices of a written graph; says how many.

    A matrix is known by its numbers: the exporter names what it turns around anew.
    """
    import onnx as library

    model = library.load(path)
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    weights = dict(student.network.named_parameters())
    grids = {weights[name].detach().numpy().tobytes(): grid for name, grid in student.grids.items()}
    copied: set[str] = set()
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in constants:
            continue
        name = node.input[1]
        matrix = library.numpy_helper.to_array(constants[name])
        grid = grids.get(matrix.T.tobytes()) if matrix.ndim == 2 else None
        if grid is None:
            continue
        outputs, inputs = grid.values.shape
        block = _BLOCK if grid.group % _BLOCK == 0 else 16
        if name not in copied:
            integers, scales = _packed(grid, block)
            graph.initializer.append(library.numpy_helper.from_array(integers, f"{name}_Q{grid.bits}"))
            graph.initializer.append(library.numpy_helper.from_array(scales, f"{name}_scales"))
            copied.add(name)
        put = library.helper.make_node(
            "MatMulNBits",
            [node.input[0], f"{name}_Q{grid.bits}", f"{name}_scales"],
            list(node.output),
            name=node.name,
            domain="com.microsoft",
            K=inputs,
            N=outputs,
            bits=grid.bits,
            block_size=block,
            accuracy_level=_LEVEL,
        )
        node.CopyFrom(put)
    used = {name for node in graph.node for name in node.input}
    for name in copied - used:
        graph.initializer.remove(constants[name])
    if not any(each.domain == "com.microsoft" for each in model.opset_import):
        model.opset_import.append(library.helper.make_opsetid("com.microsoft", 1))
    library.save(model, path)
    return f"the integers and scales that were trained, of {len(copied)} matrices (MatMulNBits)"


def _packed(grid: Grid, block: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A grid as MatMulNBits takes it: integers plus half their range, [out, in / block, bytes], and scales, [out, in / block]."""
    rows, columns = grid.values.shape
    unsigned = (grid.values.numpy().astype(np.int16) + 2 ** (grid.bits - 1)).astype(np.uint8)
    unsigned = unsigned.reshape(rows, columns // block, block)
    if grid.bits == 4:
        unsigned = unsigned[..., 0::2] | unsigned[..., 1::2] << 4
    return unsigned, np.repeat(grid.scales.numpy(), grid.group // block, axis=1)
