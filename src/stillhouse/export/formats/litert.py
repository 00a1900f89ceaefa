"""LiteRT (TensorFlow Lite), for Android, iOS and microcontrollers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from stillhouse.errors import ModelError, Problem, fail
from stillhouse.export.artefact import Artefact, format_of, write_beside
from stillhouse.models import Model

Precision = Literal["float32", "int8"]

_CHUNK = 32
"""Tokens of a prompt that a decoder reads at a time: shapes are fixed."""
_LARGEST = 1.9e9
"""Bytes of a file: FlatBuffers end at 2³¹."""


def _refuses(model: Model, options: dict[str, Any]) -> Problem | None:
    if model.bare or not (model.packs or model.classifies):
        what = f"a {type(model.network).__name__} cannot be written: its state is more than keys and values"
        return Problem("litert", what, "Export it with hf.")
    if _size(model, {"precision": "float32"}) > _LARGEST:
        what = f"{model.parameters_count:,} parameters do not fit into one file of LiteRT's, which holds 2 GB"
        return Problem("litert", what, "Export it with hf or gguf.")
    if model.grids and options["precision"] != "float32":
        what = "its weights were trained for a grid, and LiteRT's quantiser would round them once more, to another"
        return Problem(
            "litert", what, "Take {name: litert, precision: float32}, or export it with executorch, onnx or gguf."
        )
    return None


def _size(model: Model, options: dict[str, Any]) -> int:
    """Bytes of the file, about; a head that shares the embedding's matrix is written once more."""
    total = 0
    for module in model.network.modules():
        for parameter in module.parameters(recurse=False):
            matrix = isinstance(module, nn.Linear | nn.Embedding) and parameter.ndim == 2
            total += parameter.numel() * (1 if matrix and options["precision"] == "int8" else 4)
    return total


@format_of(
    runtime_package="ai_edge_litert",
    extra="litert",
    packages=("litert_torch", "ai_edge_quantizer", "ai_edge_litert"),
    refuses=_refuses,
    size=_size,
)
def litert(student: Model, folder: Path, *, precision: Precision = "float32", context: int = 128) -> Artefact:
    """A folder with model.tflite for LiteRT, and its tokenizer: a decoder with its keys and values, or a classifier.

    Shapes are fixed. A classifier has one signature: input_ids, attention_mask and, where the model tells a pair's texts apart,
    token_type_ids, each [1, context] in int32, filled up behind the text. A decoder has two, ``prefill`` for 32 tokens and ``decode``
    for one: input_ids [1, P], position_ids [1, P], mask [1, 1, P, context + P] (0, or −10⁹ where nothing is looked at), keys and
    values [L, H, context, D]; they give logits [1, P, V] and the keys and values [L, H, P, D] of what was read, which the
    caller puts among the others.

    Args:
        student: what to write.
        folder: where; it is there already.
        precision: of the matrices: float32, or int8 with a scale a row; what comes into a layer is rounded to 8 bits then.
        context: tokens that fit; at most those that the model was made for.

    Raises:
        ModelError: a network that cannot be written.

    """
    problem = _refuses(student, {"precision": precision, "context": context})
    if problem is not None:
        raise ModelError(problem)
    path = folder / "model.tflite"
    length = min(context, int(student.config.max_position_embeddings))
    pupil, plain = student.in_floats(), student.in_floats()
    with pupil.generating() as network, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network.set_attn_implementation("eager")
        try:
            _write(network, path, length, classifies=student.classifies)
        except Exception as error:
            what = f"{type(student.network).__name__}: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
            way_out = "An operator of it cannot be traced or lowered: export it with onnx or hf."
            raise fail(ModelError, "litert", what, way_out) from error
    if precision == "int8":
        _quantise(path)
    write_beside(student, folder, precision, {"context": length, "chunk": _CHUNK})
    same_as = plain if precision == "float32" else None
    return Artefact(folder, "litert", same_as, 1e-4, (("context", str(length)),))


class _Decoder(nn.Module):
    """A causal language model that takes what it has read, and gives what is new."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, mask: Tensor, keys: Tensor, values: Tensor
    ) -> dict[str, Tensor]:
        """Logits [1, P, V], and keys and values of the new tokens, [L, H, P, D]."""
        cache, new = DynamicCache(), input_ids.shape[1]
        for layer in range(keys.shape[0]):
            cache.update(keys[layer : layer + 1], values[layer : layer + 1], layer)
        out = self.network(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        layers = out.past_key_values.layers
        return {
            "logits": out.logits,
            "new_keys": torch.cat([layer.keys[:, :, -new:] for layer in layers]),
            "new_values": torch.cat([layer.values[:, :, -new:] for layer in layers]),
        }


class _Classifier(nn.Module):
    """An encoder or decoder that says classes of one text that was filled up."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Logits [1, C]."""
        given = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        return {"logits": self.network(input_ids=input_ids, attention_mask=attention_mask, **given).logits}


def _write(network: Any, path: Path, length: int, *, classifies: bool) -> None:
    """Trace the network with its fixed shapes, and write it."""
    import litert_torch

    config = network.config
    if classifies:
        names = ["input_ids", "attention_mask"]
        names += ["token_type_ids"] if getattr(config, "type_vocab_size", 0) > 1 else []
        given = {name: torch.ones(1, length, dtype=torch.int32) for name in names}
        litert_torch.convert(_Classifier(network).eval(), sample_kwargs=given).export(str(path))
        return
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    converter = litert_torch.Converter()
    for name, new in (("prefill", _CHUNK), ("decode", 1)):
        given = {
            "input_ids": torch.ones(1, new, dtype=torch.int32),
            "position_ids": torch.arange(new, dtype=torch.int32)[None],
            "mask": torch.zeros(1, 1, new, length + new),
            "keys": torch.zeros(config.num_hidden_layers, heads, length, width),
            "values": torch.zeros(config.num_hidden_layers, heads, length, width),
        }
        converter.add_signature(name, _Decoder(network).eval(), sample_kwargs=given)
    converter.convert().export(str(path))


def _quantise(path: Path) -> None:
    """Round the matrices of a written file."""
    from ai_edge_quantizer import quantizer, recipe

    made = quantizer.Quantizer(str(path), recipe.dynamic_wi8_afp32()).quantize()
    small = path.with_suffix(".small")
    made.export_model(str(small), overwrite=True)
    small.replace(path)
