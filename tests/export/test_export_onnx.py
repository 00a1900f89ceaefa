"""ONNX: a classifier and a decoder, run by ONNX Runtime in its own process."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from classifiers import bert, word_pieces
from shared import make_llama, make_tokenizer
from torch import library

pytest.importorskip("onnxruntime", reason="pip install 'stillhouse[onnx]'")
pytest.importorskip("onnxscript", reason="pip install 'stillhouse[onnx]'")

from stillhouse.check import match_exports
from stillhouse.errors import ModelError, RecipeError, RunError
from stillhouse.export.compare import logits_of
from stillhouse.export.formats import onnx as module
from stillhouse.export.formats.onnx import onnx
from stillhouse.machine import has_vnni
from stillhouse.models import Model
from stillhouse.recipe import Export
from stillhouse.runtimes.onnxruntime import onnxruntime as load
from stillhouse.worker import Worker


@pytest.fixture(scope="module")
def classifier() -> Model:
    tokenizer = word_pieces()
    return Model(bert(tokenizer, "ForSequenceClassification", num_labels=3), tokenizer, "reader")


def pairs(classifier: Model) -> list[list[int]]:
    read = classifier.tokenizer
    return [
        read("a fine film", "so dull").input_ids,
        read("the plot").input_ids,
        read("awful and cold with a page").input_ids,
    ]


def test_a_classifier_says_what_transformers_says_of_texts_and_pairs(classifier: Model, tmp_path: Path):
    made = onnx(classifier, tmp_path)
    with Worker("onnxruntime", made.path, 1) as worker:
        for ids, first in zip(pairs(classifier), (6, None, None), strict=True):
            types = [0] * len(ids) if first is None else [0 if i < ids.index(3) + 1 else 1 for i in range(len(ids))]
            with torch.no_grad(), classifier.generating() as network:
                want = network(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([types])).logits
            torch.testing.assert_close(torch.from_numpy(worker.logits(ids)), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("vnni", [True, False])
def test_eight_bits_are_signed_only_where_that_is_exact(vnni: bool, classifier: Model, tmp_path: Path, monkeypatch):
    import onnx as library

    monkeypatch.setattr(module, "has_vnni", lambda: vnni)
    made = onnx(classifier, tmp_path, precision="int8")
    kinds = {t.data_type for t in library.load(made.path / "model.onnx").graph.initializer if "quantized" in t.name}
    assert (library.TensorProto.INT8 in kinds) == vnni
    assert dict(made.facts)["weights"].startswith("signed" if vnni else "unsigned")
    if vnni and not has_vnni():
        return  # would saturate, which is why it is not chosen here
    with Worker("onnxruntime", made.path, 1) as worker:
        for ids in pairs(classifier):
            want = logits_of(classifier, ids).numpy()
            assert np.abs(worker.logits(ids) - want).max() < 0.1 * np.abs(want).max() + 0.1


def test_keys_and_values_have_any_length_the_first_time_none(tmp_path: Path):
    student = make_llama(make_tokenizer(), tied=False)
    made = onnx(student, tmp_path)
    assert json.loads((tmp_path / "artefact.json").read_text())["precision"] == "float32"
    ids = list(range(3, 40))
    import onnxruntime

    session = onnxruntime.InferenceSession(str(made.path / "model.onnx"))
    inputs = session.get_inputs()
    want = logits_of(student, ids).numpy()
    past: dict[str, Any] = {i.name: np.zeros((1, 2, 0, 8), np.float32) for i in inputs if i.name.startswith("past.")}
    rows, begin = [], 0
    for end in (5, 6, 7, 20, 37):
        given = {"input_ids": np.array([ids[begin:end]]), "attention_mask": np.ones((1, end), np.int64),
                 "position_ids": np.arange(begin, end)[None]}  # fmt: skip
        logits, *present = session.run(None, given | past)
        past = dict(zip(past, present, strict=True))
        rows.append(logits[0])
        begin = end
    np.testing.assert_allclose(np.concatenate(rows), want, atol=1e-4, rtol=1e-4)
    runtime: Any = load(made.path, 1)
    run, fed = runtime.session.run, []
    runtime.session = SimpleNamespace(run=lambda names, given: (fed.append(given["input_ids"]), run(names, given))[1])
    assert len(runtime.timed_batch([3, 4, 5], 2, 3)) == 3  # each text of a batch is written as it is alone
    for step, came in enumerate(fed[1:]):
        text = [3, 4, 5, *(int(earlier[0, 0]) for earlier in fed[1 : step + 1])]
        assert came.tolist() == [[int(logits_of(student, text)[-1].argmax())]] * 2


def test_eight_bit_products_are_those_of_rounded_inputs_and_do_not_saturate(tmp_path: Path):
    """MatMulNBits at its accuracy level 4, by the definition: each block of inputs has a scale of its own, sums are exact."""
    import onnx as library
    import onnxruntime

    student = make_llama(make_tokenizer(), layers=1)
    made = onnx(student, tmp_path, precision="int8")
    nodes = [n for n in library.load(made.path / "model.onnx").graph.node if n.op_type == "MatMulNBits"]
    assert len(nodes) == 8  # seven matrices of the layer, and the head
    assert {a.i for n in nodes for a in n.attribute if a.name == "accuracy_level"} == {4}
    columns = 64
    integers = np.full((2, columns // 32, 32), 255, np.uint8)  # the largest of all, +127
    integers[1, :, ::2] = 0  # and the least, −128
    make = library.helper
    node = make.make_node("MatMulNBits", ["x", "q", "s"], ["y"], domain="com.microsoft", K=columns, N=2, bits=8,
                          block_size=32, accuracy_level=4)  # fmt: skip
    kind = library.TensorProto.FLOAT
    graph = make.make_graph(
        [node], "one", [make.make_tensor_value_info("x", kind, ["m", columns])],
        [make.make_tensor_value_info("y", kind, ["m", 2])],
        [library.numpy_helper.from_array(integers, "q"), library.numpy_helper.from_array(np.ones((2, 2), np.float32), "s")],
    )  # fmt: skip
    opsets = [make.make_opsetid("", 20), make.make_opsetid("com.microsoft", 1)]
    one = make.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    session = onnxruntime.InferenceSession(one, providers=["CPUExecutionProvider"])
    for sign in (1.0, -1.0):
        found = session.run(None, {"x": np.full((3, columns), sign, np.float32)})[0]
        np.testing.assert_allclose(found, [[sign * 64 * 127, -sign * 32]] * 3)


def test_onnxruntime_genai_writes_what_the_student_writes(tmp_path: Path):
    genai = pytest.importorskip("onnxruntime_genai", reason="pip install 'stillhouse[genai]'")
    student = make_llama(make_tokenizer(), tied=False)
    made = onnx(student, tmp_path)
    loaded = genai.Model(str(made.path))
    text = "The quick brown fox"
    ids = student.tokenizer(text).input_ids
    assert genai.Tokenizer(loaded).encode(text).tolist() == ids
    asked = genai.GeneratorParams(loaded)
    asked.set_search_options(max_length=len(ids) + 12, do_sample=False)
    generator = genai.Generator(loaded, asked)
    generator.append_tokens(ids)
    while not generator.is_done():
        generator.generate_next_token()
    written = list(map(int, generator.get_sequence(0)))
    for length in range(len(ids), len(written)):
        assert written[length] == int(logits_of(student, written[:length])[-1].argmax())
    assert len(written) == len(ids) + 12 or written[-1] == student.tokenizer.eos_token_id


def test_the_file_says_nothing_of_where_it_was_written(tmp_path: Path):
    made = onnx(make_llama(make_tokenizer(), layers=1), tmp_path)
    assert b".py" not in (made.path / "model.onnx").read_bytes()


@pytest.mark.parametrize("opset", [7, 99])
def test_a_wrong_opset_is_told_before_training(opset: int, classifier: Model):
    with pytest.raises(RecipeError, match=rf"(?s)opset {opset} cannot be written and run.*Leave it out"):
        match_exports(Export(formats=({"name": "onnx", "opset": opset},)), classifier)


def test_an_opset_that_the_runtime_does_not_know_is_one_message(tmp_path: Path):
    import onnx as library

    made = onnx(make_llama(make_tokenizer(), layers=1), tmp_path)
    model = library.load(made.path / "model.onnx")
    model.opset_import[0].version = 99
    library.save(model, made.path / "model.onnx")
    with pytest.raises(RunError, match=r"(?i)opset"):
        Worker("onnxruntime", made.path, 1)


def test_an_operator_that_cannot_be_written_is_one_message(tmp_path: Path):
    student = make_llama(make_tokenizer(), layers=1)

    @library.custom_op("stillhouse_test::strange", mutates_args=())
    def strange(x: torch.Tensor) -> torch.Tensor:
        return x + 1

    strange.register_fake(torch.empty_like)
    student.network.model.norm.register_forward_hook(lambda layer, given, came: strange(came))
    with pytest.raises(ModelError, match=r"(?s)cannot write a LlamaForCausalLM.*strange.*hf or gguf"):
        onnx(student, tmp_path)


def test_what_does_not_fit_into_a_file_is_told_before_training(classifier: Model, monkeypatch):
    monkeypatch.setattr(module, "_LARGEST", 1000.0)
    with pytest.raises(RecipeError, match="do not fit into one ONNX file"):
        match_exports(Export(formats=("onnx",)), classifier)


@pytest.mark.parametrize(("kind", "precision"), [("language", "int4"), ("classifier", "int8")])
def test_the_file_is_about_as_large_as_was_told(kind: str, precision: str, classifier: Model, tmp_path: Path):
    student = make_llama(make_tokenizer(4000)) if kind == "language" else classifier
    made = onnx(student, tmp_path, precision=precision)
    told = onnx.size(student, {"precision": precision, "opset": 20})
    assert told < (made.path / "model.onnx").stat().st_size < told + 250_000  # the graph itself
