"""A trained grid in GGUF and ONNX: the very integers and scales, and what rounding once more would have done to them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from classifiers import bert, word_pieces
from gguf import GGMLQuantizationType, GGUFReader, quants
from shared import make_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

pytest.importorskip("torchao", reason="pip install 'stillhouse[quant]'")

from stillhouse import models
from stillhouse.check import match_exports
from stillhouse.errors import RecipeError
from stillhouse.export.compare import difference
from stillhouse.export.formats.gguf import gguf
from stillhouse.grid import Grid
from stillhouse.models import Model
from stillhouse.recipe import Export, Quantize
from stillhouse.student import quantize
from stillhouse.worker import Worker

IDS = list(range(3, 50))
needs_llama = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None,
    reason="llama.cpp is not installed: pip install 'stillhouse[llama-cpp]'",
)
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="pip install 'stillhouse[onnx]'",
)


def make(family: str = "llama", *, tied: bool = True, layers: int = 2, **options: object) -> Model:
    """A quantised student whose matrices have rows of 64 and 96, with grouped queries."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    shape = {
        "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.2,
        "tie_word_embeddings": tied, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None,
    }  # fmt: skip
    network = LlamaForCausalLM(LlamaConfig(**shape)) if family == "llama" else Qwen2ForCausalLM(Qwen2Config(**shape))
    made = Model(network, tokenizer, "student")
    made.learn()
    quantize.attach(made, Quantize.model_validate(options))
    made.settle()
    return made


def bytes_of(grid: Grid, order: list[int]) -> bytes:
    """Q4_0 and Q8_0 by their definition, a block at a time: the scale as float16, then the integers."""
    content = bytearray()
    for row in order:
        for start in range(0, grid.values.shape[1], 32):
            content += np.float16(float(grid.scales[row, start // grid.group])).tobytes()
            block = grid.values[row, start : start + 32].tolist()
            if grid.bits == 8:
                content += bytes(value % 256 for value in block)
            else:
                content += bytes((low + 8) + 16 * (high + 8) for low, high in zip(block[:16], block[16:], strict=True))
    return bytes(content)


def order_of(name: str, rows: int, family: str) -> list[int]:
    """llama.cpp's rows of queries and keys: channel j of a head's half beside the one of the other half."""
    if family != "llama" or name not in ("attn_q", "attn_k"):
        return list(range(rows))
    width = 16
    found = []
    for head in range(0, rows, width):
        for j in range(width // 2):
            found += [head + j, head + width // 2 + j]
    return found


NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "mlp.down_proj": "ffn_down",
}


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {}),
        ("llama", {"weights": "int8", "group": "row"}),
        ("llama", {"group": 32, "embedding": "int4", "exceptions": {"*.down_proj": "int8"}}),
        ("qwen2", {}),
    ],
)
@pytest.mark.parametrize("precision", ["q4_0", "q8_0", "mixed"])
def test_gguf_holds_the_grid_byte_for_byte(family: str, options: dict, precision: str, tmp_path: Path):
    student = make(family, **options)
    made = gguf(student, tmp_path, precision=precision)
    tensors = {tensor.name: tensor for tensor in GGUFReader(made.path).tensors}
    for layer in range(2):
        for ours, theirs in NAMES.items():
            grid = student.grids[f"model.layers.{layer}.{ours}.weight"]
            tensor = tensors[f"blk.{layer}.{theirs}.weight"]
            assert tensor.tensor_type.name == ("Q4_0" if grid.bits == 4 else "Q8_0")
            order = order_of(theirs, grid.values.shape[0], family)
            assert tensor.data.tobytes() == bytes_of(grid, order), (layer, ours)
    grid = student.grids["model.embed_tokens.weight"]
    assert tensors["token_embd.weight"].data.tobytes() == bytes_of(grid, list(range(grid.values.shape[0])))
    assert "output.weight" not in tensors
    for (name, want), got in zip(student.network.named_parameters(), made.same_as.network.parameters(), strict=True):
        assert torch.equal(want, got), f"{name} was moved"
    assert "that were trained" in dict(made.facts)["weights"]


def test_rounding_once_more_would_move_the_weights():
    """What gguf's own rounding makes of weights on torchao's grid of 4 bits is another grid."""
    grid = make().grids["model.layers.0.mlp.down_proj.weight"]
    weights = grid.dequantise().numpy()
    again = quants.dequantize(quants.quantize(weights, GGMLQuantizationType.Q4_0), GGMLQuantizationType.Q4_0)
    moved = np.abs(again - weights) / grid.scales.repeat_interleave(32, 1).numpy()
    assert (moved > 0.01).mean() > 0.5 and moved.max() > 0.3


@pytest.mark.parametrize("precision", ["f16", "q4_0"])
def test_what_has_no_grid_stays_float16(precision: str, tmp_path: Path):
    student = make(exceptions={"model.layers.1.*": "float32"})
    kinds = {t.name: t.tensor_type.name for t in GGUFReader(gguf(student, tmp_path, precision=precision).path).tensors}
    assert kinds["blk.1.ffn_up.weight"] == "F16"
    assert kinds["blk.0.ffn_up.weight"] == ("F16" if precision == "f16" else "Q4_0")
    told = gguf.size(student, {"precision": precision, "pre": None})
    assert next(tmp_path.glob("*.gguf")).stat().st_size == pytest.approx(told, rel=0.25)


def test_groups_that_blocks_cannot_hold_are_told_before_training():
    tokenizer = make_tokenizer()
    shape = LlamaConfig(vocab_size=len(tokenizer), hidden_size=48, intermediate_size=48, num_hidden_layers=1,
                        num_attention_heads=2, num_key_value_heads=1)  # fmt: skip
    student = Model(LlamaForCausalLM(shape), tokenizer, "student")
    quantize.foresee(Quantize(group=24), student)
    with pytest.raises(RecipeError, match=r"a scale for every 24 weights cannot be copied.*(?s:.*)group=32"):
        match_exports(Export(formats=("gguf",)), student)
    match_exports(Export(formats=({"name": "gguf", "precision": "f16"},)), student)


@needs_llama
@pytest.mark.parametrize("options", [{}, {"weights": "int8"}, {"activations": "int8", "embedding": "int4"}])
def test_llama_cpp_says_what_the_quantised_student_says(options: dict, tmp_path: Path):
    student = make(**options)
    student.save(tmp_path / "student")
    made = gguf(models.load(str(tmp_path / "student")), tmp_path, precision="q4_0")
    with Worker("llama_cpp", made.path, 1) as worker:
        found = difference(worker, student, [IDS, IDS[::-1]])
    assert found.kl < 0.05 and found.agreement > 0.8


# -- ONNX ---------------------------------------------------------------------------------------------------------------


@needs_onnx
@pytest.mark.parametrize(
    ("tied", "options"),
    [
        (True, {}),
        (False, {"weights": "int8", "activations": "int8", "group": "row", "exceptions": {"*.k_proj": "float32"}}),
    ],
)
def test_onnx_holds_the_grid_and_says_what_the_student_says(tied: bool, options: dict, tmp_path: Path):
    import onnx as library

    from stillhouse.export.formats.onnx import onnx

    student = make(tied=tied, layers=1, **options)
    made = onnx(student, tmp_path, precision="int4")
    model = library.load(made.path / "model.onnx")
    constants = {t.name: library.numpy_helper.to_array(t) for t in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    linear = [name for name in student.grids if "embed" not in name]
    assert len(nodes) == len(linear) + tied  # a tied head is its embedding's matrix
    left = {name: grid for name, grid in student.grids.items() if tied or "embed" not in name}
    for node in nodes:
        about = {each.name: library.helper.get_attribute_value(each) for each in node.attribute}
        packed, scales = constants[node.input[1]], constants[node.input[2]]
        rows, block = about["N"], about["block_size"]
        for name, grid in list(left.items()):
            if grid.bits != about["bits"] or grid.values.shape != (rows, about["K"]):
                continue
            integers = np.zeros(grid.values.shape, np.int64)
            for column in range(about["K"]):
                inside = column % block
                byte = packed[:, column // block, inside // 2 if grid.bits == 4 else inside].astype(np.int64)
                nibble = (byte >> 4 * (inside % 2)) % 16 if grid.bits == 4 else byte
                integers[:, column] = nibble - 2 ** (grid.bits - 1)
            if (integers == grid.values.numpy()).all():
                assert (np.repeat(scales.reshape(rows, -1), block, 1) ==
                        grid.scales.repeat_interleave(grid.group, 1).numpy()).all()  # fmt: skip
                del left[name]
                break
    assert not left
    assert f"{len(nodes)} matrices" in dict(made.facts)["weights"]
    with Worker("onnxruntime", made.path, 1) as worker:
        assert made.same_as is not None and made.same_as.rounding is None
        found = difference(worker, made.same_as, [IDS])
    assert found.kl < 0.05  # its inputs are rounded
    assert (tmp_path / "model.onnx").stat().st_size < onnx.size(student, {"precision": "int4", "opset": 20}) + 350_000


@needs_onnx
def test_a_classifier_on_its_grid(tmp_path: Path):
    from stillhouse.export.formats.onnx import onnx

    tokenizer = word_pieces()
    reader = Model(bert(tokenizer, "ForSequenceClassification", num_labels=3), tokenizer, "reader")
    reader.learn()
    quantize.attach(reader, Quantize(group=16))
    reader.settle()
    made = onnx(reader, tmp_path, precision="int8")
    assert "that were trained" in dict(made.facts)["weights"]
    with Worker("onnxruntime", made.path, 1) as worker:
        found = difference(worker, reader, [tokenizer("a fine film", "so dull").input_ids])
    assert found.kl < 1e-3  # its inputs are rounded
