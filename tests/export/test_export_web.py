"""The page in a real browser: its tokens and its classes are the student's."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from classifiers import bert, word_pieces
from shared import make_llama, make_tokenizer

pytest.importorskip("onnxruntime", reason="pip install 'stillhouse[onnx]'")
pytest.importorskip("onnxscript", reason="pip install 'stillhouse[onnx]'")

from stillhouse.check import match_exports
from stillhouse.errors import ModelError, RecipeError
from stillhouse.export.compare import logits_of
from stillhouse.export.formats import web as module
from stillhouse.export.formats.web import web
from stillhouse.models import Model
from stillhouse.recipe import Export
from stillhouse.running import browser_program
from stillhouse.worker import Worker

SENTENCES = [
    "a fine film",
    "So DULL, and cold!",
    "",
    "naïve Straße 東京 🙂 with a page",
    "the plot [SEP] awful",
    "word " * 12,
]


@pytest.fixture(scope="module")
def student() -> Model:
    tokenizer = word_pieces()
    return Model(bert(tokenizer, "ForSequenceClassification", num_labels=3), tokenizer, "reader")


@pytest.fixture(scope="module")
def page(student: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("npm") is None and not module._kept().is_dir():
        pytest.skip("no npm is installed")
    folder = tmp_path_factory.mktemp("web")
    try:
        web(student, folder, precision="float32")
    except ModelError as error:
        if "cannot fetch" not in str(error):
            raise
        pytest.skip(f"no network: {error}")
    return folder


@pytest.mark.skipif(browser_program() is None, reason="no chromium or google-chrome is installed")
def test_its_tokens_and_classes_are_the_students(student: Model, page: Path):
    with Worker("browser", page, 1) as worker:
        for text in SENTENCES:
            ids = student.tokenizer(text).input_ids
            bare = student.tokenizer(text, add_special_tokens=False).input_ids
            assert worker.ask("encode", text=text)["ids"] == bare, text
            np.testing.assert_allclose(worker.logits(ids), logits_of(student, ids).numpy(), atol=1e-4, rtol=1e-4)
        pair = student.tokenizer("a fine film", "so dull").input_ids
        np.testing.assert_allclose(worker.logits(pair), logits_of(student, pair).numpy(), atol=1e-4, rtol=1e-4)
        assert 10e6 < worker.ask("peak")["bytes"] < 2e9


def test_a_language_model_is_refused_before_training():
    with pytest.raises(RecipeError, match=r"(?s)no classifier.*gguf or onnx"):
        match_exports(Export(formats=("web",)), make_llama(make_tokenizer()))


def test_without_npm_it_says_what_to_install(student: Model, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RecipeError, match=r"(?s)there is no npm.*Node\.js"):
        match_exports(Export(formats=("web",)), student)
