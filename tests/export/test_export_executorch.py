"""ExecuTorch: a classifier and a decoder, lowered to XNNPACK and run by its own runtime in its own process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from classifiers import bert, word_pieces
from shared import make_llama, make_tokenizer

pytest.importorskip("executorch", reason="pip install 'stillhouse[executorch]'")

from stillhouse.check import match_exports
from stillhouse.errors import ModelError, RecipeError
from stillhouse.export.compare import difference, logits_of
from stillhouse.export.formats import executorch as module
from stillhouse.export.formats.executorch import executorch
from stillhouse.grid import Grid
from stillhouse.models import Model
from stillhouse.recipe import Export
from stillhouse.worker import Worker

IDS = list(range(3, 40))


def test_a_decoder_goes_on_with_a_text_and_begins_a_new_one(tmp_path: Path):
    student = make_llama(make_tokenizer(), layers=1)
    made = executorch(student, tmp_path)
    want = logits_of(student, IDS).numpy()
    with Worker(made.runtime, made.path, 1) as worker:
        for _ in range(2):  # the second time what was kept of the first must not be seen
            np.testing.assert_allclose(worker.logits(IDS), want, atol=1e-4, rtol=1e-4)
        written = worker.greedy(IDS[:5], 8)
    text = IDS[:5]
    for token in written:
        assert int(logits_of(student, text)[-1].argmax()) == token
        text = [*text, token]


def test_a_trained_grid_of_four_bits_runs_as_it_is(tmp_path: Path):
    """Queries whose scales no rule would choose; a re-rounding would move them by a quarter of the largest."""
    student = make_llama(make_tokenizer(), layers=1)
    torch.manual_seed(1)
    name = "model.layers.0.self_attn.q_proj.weight"
    scales = (torch.rand(32, 1) * 0.1 + 0.02).bfloat16().float()
    grid = Grid(torch.randint(-3, 4, (32, 32), dtype=torch.int8), scales, 4, 32, 8)
    dict(student.network.named_parameters())[name].data = grid.dequantise()
    student.grids = {name: grid}
    made = executorch(student, tmp_path, precision="int4")
    assert torch.equal(dict(made.same_as.network.named_parameters())[name], grid.dequantise())
    with Worker(made.runtime, made.path, 1) as worker:
        assert difference(worker, made.same_as, [IDS]).kl < 0.02


def test_a_classifier_of_texts_and_pairs(tmp_path: Path):
    precision = "int8"
    tokenizer = word_pieces()
    student = Model(bert(tokenizer, "ForSequenceClassification", num_labels=3), tokenizer, "reader")
    made = executorch(student, tmp_path, precision=precision)
    texts = [tokenizer("a fine film", "so dull").input_ids, tokenizer("awful and cold with a page").input_ids]
    with Worker(made.runtime, made.path, 1) as worker:
        found = difference(worker, made.same_as, texts)
    assert found.largest_logit < 0.2 and found.kl < made.tolerance
    told = executorch.size(student, {"precision": precision, "context": 1024})
    assert 0 < (tmp_path / "model.pte").stat().st_size - told < 300_000  # the graph itself


def test_what_xnnpack_cannot_multiply_is_told_before_training():
    student = make_llama(make_tokenizer())
    values = torch.empty(32, 32, dtype=torch.int8, device="meta")
    student.grids = {"model.layers.0.self_attn.q_proj.weight": Grid(values, torch.empty(32, 1, device="meta"), 8, 16)}
    with pytest.raises(RecipeError, match=r"(?s)'model.layers.0.*8 bits with a scale for 16 weights.*group: row"):
        match_exports(Export(formats=({"name": "executorch", "precision": "int8"},)), student)
    student.grids, student.network.config.sliding_window = {}, 64
    with pytest.raises(RecipeError, match="Lower context to 64"):
        match_exports(Export(formats=("executorch",)), student)


def test_an_operator_that_cannot_be_lowered_is_one_message(tmp_path: Path, monkeypatch):
    def broken(*_: object) -> None:
        raise RuntimeError("Missing operator: [0] aten::fft.out\nand a long list")

    monkeypatch.setattr(module, "_lower", broken)
    student = make_llama(make_tokenizer(), layers=1)
    with pytest.raises(
        ModelError, match=r"LlamaForCausalLM: Missing operator: \[0\] aten::fft\.out\. ?An operator of it|aten::fft"
    ):
        executorch(student, tmp_path)
