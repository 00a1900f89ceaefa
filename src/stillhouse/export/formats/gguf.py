"""GGUF, which llama.cpp runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gguf import (
    MODEL_ARCH,
    GGMLQuantizationType,
    GGUFReader,
    GGUFWriter,
    LlamaFileType,
    TokenType,
    get_tensor_name_map,
    quants,
)
from numpy.typing import NDArray

from stillhouse.errors import ModelError, Problem, RunError, fail
from stillhouse.export.artefact import Artefact, format_of
from stillhouse.grid import Grid
from stillhouse.models import Model

Precision = Literal["f32", "f16", "q8_0", "q4_0", "mixed"]

ARCHITECTURES: dict[str, MODEL_ARCH] = {
    "llama": MODEL_ARCH.LLAMA,
    "mistral": MODEL_ARCH.LLAMA,
    "qwen2": MODEL_ARCH.QWEN2,
    "qwen3": MODEL_ARCH.QWEN3,
}
"""Model type, as a configuration names it → what llama.cpp calls it."""

_DIGITS = {"type": "Digits", "individual_digits": True}
_WORDS = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PRE_TOKENIZERS: dict[str, tuple[dict[str, Any], ...] | str] = {
    "gpt-2": (_WORDS,),
    "smollm": (_DIGITS, _WORDS),
    "llama-bpe": _LLAMA3,
    "qwen2": _LLAMA3.replace("{1,3}", ""),
}
"""llama.cpp's name of a rule that cuts text into words → how tokenizer.json says it: its steps, or its regular expression."""

_TOLERANCE = {"f32": 1e-4, "f16": 0.01, "q8_0": 0.2, "q4_0": 0.2, "mixed": 0.2}
"""Mean KL in nats that llama.cpp's arithmetic may add: it rounds what it multiplies float16 weights with to float16, and what it
multiplies weights of 8 bits or fewer with to 8 bits in blocks of 32. Measured: 3e-5 and 0.05 with a student before training."""


def _arch(model: Model) -> MODEL_ARCH | None:
    return ARCHITECTURES.get(model.config.model_type)


def _refuses(model: Model, options: dict[str, Any]) -> Problem | None:
    config = model.config
    if model.classifies or model.bare or _arch(model) is None:
        what = f"a {type(model.network).__name__} cannot be written: llama.cpp is given {', '.join(ARCHITECTURES)} here"
        return Problem("gguf", what, "Export it with hf or onnx.")
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope != "default":
        return Problem("gguf", f"positions of the kind '{rope}' cannot be written yet", "Export it with hf or onnx.")
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True) and window < config.max_position_embeddings:
        return Problem("gguf", "a window of attention cannot be written yet", "Export it with hf or onnx.")
    odd = {grid.group for grid in model.grids.values() if grid.group % 32}
    if odd and options["precision"] not in ("f32", "f16"):
        what = f"a scale for every {min(odd)} weights cannot be copied: there is one for every 32 in the file"
        return Problem("gguf", what, "Train with student.quantize.group=32 or 64, or export f16.")
    try:
        pre_tokenizer(model.tokenizer, options["pre"])
    except ModelError as error:
        return error.problems[0]
    return None


def _kind(name: str, shape: tuple[int, ...], precision: Precision, grids: Mapping[str, Grid]) -> GGMLQuantizationType:
    """How a tensor is kept: vectors in float32; rows that are no multiple of 32 long in float16, as llama.cpp does it too.

    A student that was trained for grids is kept on them whatever the few bits asked for are, and what has none in float16.
    """
    if len(shape) < 2 or precision == "f32":
        return GGMLQuantizationType.F32
    if precision == "f16" or shape[-1] % 32 or (grids and name not in grids):
        return GGMLQuantizationType.F16
    if grids:
        return GGMLQuantizationType.Q4_0 if grids[name].bits == 4 else GGMLQuantizationType.Q8_0
    small = precision == "q4_0" or (precision == "mixed" and ".mlp." in name)
    return GGMLQuantizationType.Q4_0 if small else GGMLQuantizationType.Q8_0


def _size(model: Model, options: dict[str, Any]) -> int:
    parameters = {id(p): (n, p) for n, p in model.network.named_parameters()}.values()
    kinds = ((p, _kind(n, tuple(p.shape), options["precision"], model.grids)) for n, p in parameters)
    shapes = ((quants.quant_shape_to_byte_shape(p.shape, kind) if p.ndim else (4,)) for p, kind in kinds)
    return sum(int(np.prod(shape)) for shape in shapes) + 24 * int(model.config.vocab_size)


@format_of(runtime_package="llama_cpp", extra="llama-cpp", refuses=_refuses, size=_size)
def gguf(student: Model, folder: Path, *, precision: Precision = "q8_0", pre: str | None = None) -> Artefact:
    """One GGUF file for llama.cpp, with tokenizer and chat template; read back, and compared with the student.

    Args:
        student: what to write.
        folder: where; it is there already.
        precision: of matrices: f32, f16, q8_0 (8 bits in blocks of 32), q4_0 (4 bits), mixed (q4_0 in the feed-forward
            layers, q8_0 elsewhere). A student that was trained for a grid is written on that grid whichever of the last three
            is asked for, and what has none in float16.
        pre: llama.cpp's name of the rule that cuts text into words, if it is not recognised.

    Raises:
        ModelError: a family, or a tokenizer, that llama.cpp is not given here.
        RunError: what was written is not what is read back.

    """
    problem = _refuses(student, {"precision": precision, "pre": pre})
    if problem is not None:
        raise ModelError(problem)
    path = folder / f"{student.name.replace('/', '-')}-{precision}.gguf"
    arch = _arch(student)
    assert arch is not None
    writer = GGUFWriter(path, _name(arch))
    _describe(writer, student, precision)
    add_tokenizer(writer, student, pre_tokenizer(student.tokenizer, pre))
    rounded = student.in_floats()  # llama.cpp rounds inputs in its own way
    written = _add_weights(writer, rounded, arch, precision)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    _read_back(path, written)
    facts = [("tokenizer", "inside")]
    if student.grids and precision not in ("f32", "f16"):
        bits = sorted({grid.bits for grid in student.grids.values()})
        facts.append(("weights", f"the integers and scales that were trained ({' and '.join(map(str, bits))} bits)"))
    return Artefact(path, "llama_cpp", rounded, _TOLERANCE[precision], tuple(facts))


def _name(arch: MODEL_ARCH) -> str:
    from gguf import MODEL_ARCH_NAMES

    return str(MODEL_ARCH_NAMES[arch])


def _describe(writer: GGUFWriter, student: Model, precision: Precision) -> None:
    """What llama.cpp must know of the shape."""
    config = student.config
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_name(student.name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", None) or heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    kinds = {
        "f32": LlamaFileType.ALL_F32,
        "f16": LlamaFileType.MOSTLY_F16,
        "q8_0": LlamaFileType.MOSTLY_Q8_0,
        "q4_0": LlamaFileType.MOSTLY_Q4_0,
        "mixed": LlamaFileType.GUESSED,
    }
    writer.add_file_type(LlamaFileType.GUESSED if student.grids else kinds[precision])


def pre_tokenizer(tokenizer: Any, given: str | None) -> str:
    """llama.cpp's name of the rule by which a byte-level BPE tokenizer cuts text into words.

    Args:
        tokenizer: a fast one.
        given: the name, where the user knows it.

    Raises:
        ModelError: no byte-level BPE, or a rule that is not known here.

    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    rule = content["pre_tokenizer"] or {}
    steps = rule.get("pretokenizers", [rule])
    if content["model"]["type"] != "BPE" or not any(step.get("type") == "ByteLevel" for step in steps):
        what = f"a tokenizer of the kind {content['model']['type']} without bytes cannot be written yet"
        raise fail(ModelError, "gguf", what, "Export it with hf or onnx.")
    if given is not None:
        return given
    expression = next((s["pattern"].get("Regex") for s in steps if s.get("type") == "Split"), None)
    cut = [
        {k: s[k] for k in known if k in s} for s in steps for known in [_DIGITS if s["type"] == "Digits" else _WORDS]
    ]
    for name, wanted in PRE_TOKENIZERS.items():
        if expression == wanted or (expression is None and cut == list(wanted)):
            return name
    what = "the rule by which its tokenizer cuts text into words is none that is known here by llama.cpp's name"
    way_out = "Give the name, if llama.cpp has one: {name: gguf, pre: …}. A wrong one is found when the file is tested."
    raise fail(ModelError, "gguf", what, way_out)


def add_tokenizer(writer: GGUFWriter, student: Model, pre: str) -> None:
    """Tokens, merges, special ids and chat template, as llama.cpp reads them."""
    tokenizer, config = student.tokenizer, student.config
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {token["id"]: token for token in content["added_tokens"]}
    named = {number: text for text, number in content["model"]["vocab"].items()}
    named |= {number: token["content"] for number, token in added.items()}
    tokens, kinds = [], []
    for number in range(config.vocab_size):
        kind = TokenType.NORMAL if number in named else TokenType.UNUSED  # rows of the embedding beyond the tokenizer
        if number in added:
            kind = TokenType.CONTROL if added[number]["special"] else TokenType.USER_DEFINED
        tokens.append(named.get(number, f"[PAD{number}]").encode())
        kinds.append(kind)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = content["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    first = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    writer.add_add_bos_token(first)
    for add, number in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if number is not None:
            add(number)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


@torch.no_grad()
def _add_weights(writer: GGUFWriter, rounded: Model, arch: MODEL_ARCH, precision: Precision) -> dict[str, NDArray[Any]]:
    """Hand all weights to the writer and leave in ``rounded`` what the file will hold of them; tensor name → its bytes."""
    config = rounded.config
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    names = get_tensor_name_map(arch, config.num_hidden_layers)
    written = {}
    for name, parameter in rounded.network.named_parameters():  # tied ones once
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert known is not None, name
        values = parameter.detach().float().numpy()
        kind = _kind(name, values.shape, precision, rounded.grids)
        halves = {"q_proj": heads, "k_proj": groups}.get(name.split(".")[-2]) if arch == MODEL_ARCH.LLAMA else None
        if name in rounded.grids and kind in (GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q8_0):
            packed = _copied(rounded.grids[name], halves)
        else:
            packed = quants.quantize(_turned(values, halves) if halves else values, kind)
        back = quants.dequantize(packed, kind).reshape(values.shape)
        parameter.copy_(torch.from_numpy(np.ascontiguousarray(_turned_back(back, halves) if halves else back)))
        writer.add_tensor(known, packed, raw_dtype=kind)
        written[known] = packed
    return written


def _copied(grid: Grid, heads: int | None) -> NDArray[np.uint8]:
    """A grid as blocks of 32: a float16 scale, then the integers; of 4 bits plus 8, the first 16 in the lower halves of bytes.

    Args:
        grid: its scales are for multiples of 32 weights; they are repeated.
        heads: of queries or keys whose rows are to be turned, with their scales.

    """
    integers, scales = grid.values.numpy(), np.repeat(grid.scales.numpy(), grid.group // 32, axis=1)
    if heads:
        integers, scales = _turned(integers, heads), _turned(scales, heads)
    rows = integers.shape[0]
    blocks = integers.reshape(rows, -1, 32)
    if grid.bits == 4:
        unsigned = (blocks + 8).astype(np.uint8)
        blocks = unsigned[..., :16] | unsigned[..., 16:] << 4
    scale = scales.astype(np.float16)[..., None]
    return np.concatenate([scale.view(np.uint8), blocks.view(np.uint8)], axis=-1).reshape(rows, -1)


def _turned(values: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows of queries or keys in llama.cpp's order: it turns neighbouring channels together, transformers those half a head apart."""
    rows = values.shape[0]
    return values.reshape(heads, 2, rows // heads // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def _turned_back(values: NDArray[Any], heads: int) -> NDArray[Any]:
    rows = values.shape[0]
    return values.reshape(heads, rows // heads // 2, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def _read_back(path: Path, written: dict[str, NDArray[Any]]) -> None:
    """Refuse a file whose tensors are not those that were handed to the writer."""
    found = {tensor.name: np.asarray(tensor.data) for tensor in GGUFReader(path).tensors}
    for name, values in written.items():
        if name not in found or found[name].tobytes() != values.tobytes():
            way_out = "This is a fault of Stillhouse or of the disk: try once more, then report it."
            raise fail(RunError, str(path), f"tensor {name} is not what was written; the file was deleted", way_out)
