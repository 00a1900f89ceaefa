"""LiteRT: a classifier and a decoder, converted and run by its own interpreter in its own process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from classifiers import bert, word_pieces
from shared import make_llama, make_tokenizer

pytest.importorskip("litert_torch", reason="pip install 'stillhouse[litert]'")

from stillhouse.check import match_exports
from stillhouse.errors import RecipeError, RunError
from stillhouse.export.compare import logits_of
from stillhouse.export.formats import litert as module
from stillhouse.export.formats.litert import litert
from stillhouse.grid import Grid
from stillhouse.models import Model
from stillhouse.recipe import Export
from stillhouse.worker import Worker

IDS = [3 + i % 200 for i in range(50)]


def test_a_decoder_reads_a_prompt_in_pieces_and_goes_on_token_by_token(tmp_path: Path):
    """Fifty tokens are a whole piece of 32 and one that is filled up; then single tokens, until no more fit."""
    student = make_llama(make_tokenizer(), layers=1)
    made = litert(student, tmp_path, context=64)
    with Worker(made.runtime, made.path, 1) as worker:
        for _ in range(2):  # the second time what was kept of the first must not be seen
            np.testing.assert_allclose(worker.logits(IDS), logits_of(student, IDS).numpy(), atol=1e-4, rtol=1e-4)
        text = list(IDS)
        for token in worker.greedy(IDS, 8):
            assert int(logits_of(student, text)[-1].argmax()) == token
            text.append(token)
        with pytest.raises(RunError, match="65 tokens do not fit: it was written for 64"):
            worker.logits([*IDS, *range(3, 18)])


def test_a_classifier_of_eight_bits_reads_texts_and_pairs(tmp_path: Path):
    tokenizer = word_pieces()
    student = Model(bert(tokenizer, "ForSequenceClassification", num_labels=3), tokenizer, "reader")
    made = litert(student, tmp_path, precision="int8", context=24)
    with Worker(made.runtime, made.path, 1) as worker:
        for ids in (tokenizer("a fine film", "so dull").input_ids, tokenizer("awful and cold with a page").input_ids):
            want = logits_of(student, ids).numpy()
            assert np.abs(worker.logits(ids) - want).max() < 0.1 * np.abs(want).max() + 0.1


def test_what_cannot_be_written_is_told_before_training(monkeypatch):
    student = make_llama(make_tokenizer())
    meta = torch.empty(32, 32, dtype=torch.int8, device="meta")
    student.grids = {"model.layers.0.self_attn.q_proj.weight": Grid(meta, torch.empty(32, 1, device="meta"), 8, 32)}
    with pytest.raises(RecipeError, match=r"(?s)round them once more.*precision: float32"):
        match_exports(Export(formats=({"name": "litert", "precision": "int8"},)), student)
    match_exports(Export(formats=("litert",)), student)
    monkeypatch.setattr(module, "_LARGEST", 1000.0)
    with pytest.raises(RecipeError, match="do not fit into one file of LiteRT's"):
        match_exports(Export(formats=("litert",)), student)
