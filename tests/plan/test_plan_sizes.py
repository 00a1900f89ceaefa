"""What a plan counts against what is really saved."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from shared import LINES, make_llama
from tokenizers_zoo import byte_level
from transformers import AutoModelForSequenceClassification
from zoo import DECODERS, make

from stillhouse import models, recipe, student
from stillhouse.models import Model
from stillhouse.plan import plan, search
from stillhouse.plan.latency import Law
from stillhouse.plan.memory import CONTEXT, serving
from stillhouse.plan.sizes import reads_whole, tally, with_vocabulary

LAW = Law(1e-4, 1e-4, 1e-9, 0.1, ())


def stored(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes in a saved model's file."""
    found = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            found |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    return found


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(LINES))
    return str(path)


def saved_size(section: dict[str, Any], teacher: Model, folder: Path) -> int:
    """Parameters in the file of a student that is really made."""
    student.build(recipe.Student(**section), teacher, sample=lambda: LINES).save(folder)
    return sum(math.prod(shape) for shape in stored(folder).values())


@pytest.mark.parametrize("name", DECODERS)
def test_every_candidate_is_as_large_as_its_file(name: str, tmp_path: Path, text: str, monkeypatch):
    monkeypatch.setattr(search, "VOCABULARIES", (384, 300))
    teacher = make(name, byte_level())
    teacher.save(tmp_path / "teacher")
    found = plan(str(tmp_path / "teacher"), ["1.7x"], data=[text], measure=False, law=LAW)
    loaded = models.load(str(tmp_path / "teacher"))
    assert {c.way for c in found.candidates} >= {"width", "balanced"}
    assert any(c.vocabulary for c in found.candidates)
    for number, candidate in enumerate(found.candidates):
        size = saved_size(candidate.section, loaded, tmp_path / f"student{number}")
        assert candidate.tally.parameters == size <= teacher.parameters_count / 1.7
        assert recipe.parse(yaml.safe_load(candidate.recipe or "")).student.model_dump(exclude_defaults=True)


@pytest.mark.parametrize("name", ["bert-classifier", "roberta-classifier", "bert-masked"])
def test_encoders_are_counted_as_classifiers(name: str, tmp_path: Path):
    make(name, byte_level()).save(tmp_path / "teacher")
    found = plan(str(tmp_path / "teacher"), ["1.5x"], measure=False, law=LAW)
    classes = 3 if "classifier" in name else 2
    network = AutoModelForSequenceClassification.from_pretrained(tmp_path / "teacher", num_labels=classes)
    loaded = Model(network, byte_level(), name)
    assert len(found.classes) == classes
    assert found.tally.parameters == loaded.parameters_count
    assert found.tally.cached == 0
    for number, candidate in enumerate(found.candidates):
        size = saved_size(candidate.section, loaded, tmp_path / f"student{number}")
        assert candidate.tally.parameters == size
        assert candidate.recipe is None


@pytest.mark.parametrize("name", ["llama", "llama-untied", "gpt2", "neox", "gemma3", "bert-classifier"])
def test_bytes_of_each_precision_by_hand(name: str, tokenizer, tmp_path: Path):
    model = make(name, tokenizer)
    model.save(tmp_path)
    expected = {"f32": 0, "f16": 0, "int8": 0, "int4": 0}
    for shape in stored(tmp_path).values():
        count = math.prod(shape)
        expected["f32"] += 4 * count
        expected["f16"] += 2 * count
        if len(shape) == 1:
            expected["int8"] += 4 * count
            expected["int4"] += 4 * count
        else:
            blocks = count // shape[-1] * -(-shape[-1] // 32)
            expected["int8"] += blocks * (32 + 2)
            expected["int4"] += blocks * (16 + 2)
    assert tally(model).file == expected


def test_tied_rows_are_counted_once(tokenizer):
    rows = 320 * 32
    tied, untied = (tally(make_llama(tokenizer, tied=tied)) for tied in (True, False))
    assert (tied.of_tokens, untied.of_tokens) == (rows, 2 * rows)
    assert untied.parameters - tied.parameters == rows
    assert tied.used == untied.used  # the head is multiplied with, the embedding only looked up
    assert tied.used == tied.parameters - 32  # all but the final norm


@pytest.mark.parametrize("name", ["llama", "gpt2", "neox", "qwen3", "gemma2"])
def test_the_cache_is_what_a_model_keeps(name: str, tokenizer):
    model = make(name, tokenizer)
    with model.generating() as network, torch.no_grad():
        kept = network(input_ids=torch.tensor([[3, 4, 5]]), use_cache=True).past_key_values
    numbers = sum(layer.keys[0, :, :3].numel() + layer.values[0, :, :3].numel() for layer in kept.layers)
    assert 3 * tally(model).cached == numbers
    memory = serving(tally(model), "f16")
    assert memory.per_token * 3 == 2 * numbers
    assert memory.total == memory.weights + CONTEXT * memory.per_token


@pytest.mark.parametrize("name", ["llama", "llama-untied", "gpt2", "gemma3", "bert-masked"])
def test_another_vocabulary_changes_only_its_rows(name: str, tokenizer):
    model = make(name, tokenizer)
    fewer = tally(with_vocabulary(model, 120))
    whole = tally(model)
    assert fewer.of_tokens * 320 == whole.of_tokens * 120
    bias = 200 if name == "bert-masked" else 0
    assert whole.parameters - fewer.parameters == whole.of_tokens - fewer.of_tokens + bias


def test_encoders_and_classifiers_read_whole_texts(tokenizer):
    names = ("llama", "gpt2", "gemma3", "llama-classifier", "bert-masked", "roberta-classifier")
    assert [reads_whole(make(name, tokenizer)) for name in names] == [False, False, False, True, True, True]
