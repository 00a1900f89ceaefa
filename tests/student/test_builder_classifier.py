"""A trunk with a fresh head for classes, and the other builders on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from classifiers import BAD, GOOD, bert, model, random, word_pieces
from shared import LINES, make_llama, make_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from stillhouse import models, recipe, student
from stillhouse.errors import ModelError
from stillhouse.export.formats.hf import hf as export
from stillhouse.models import Model
from stillhouse.vocabulary import encode

CLASSES = ("bad", "so so", "good")


def encoders() -> dict[str, Model]:
    tokenizer = word_pieces()
    masked = bert(tokenizer, "ForMaskedLM")
    config = hf.RobertaConfig(vocab_size=len(tokenizer), pad_token_id=1, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, max_position_embeddings=64)  # fmt: skip
    return {
        "bert": model(bert(tokenizer), tokenizer),
        "masked": model(masked.base_model, tokenizer),
        "roberta": model(random(hf.RobertaModel, config), word_pieces()),
        "llama": make_llama(make_tokenizer()),
    }


def build(teacher: Model, *then: dict[str, Any], **settings: Any) -> Model:
    section = recipe.Student.model_validate({"name": "classifier", "then": list(then)})
    return student.build(section, teacher, classes=CLASSES, **{"sample": lambda: [*LINES, *GOOD, *BAD], **settings})


@pytest.mark.parametrize("kind", ["bert", "masked", "roberta", "llama"])
def test_the_trunk_is_the_teachers_and_the_head_is_fresh(kind: str):
    teacher = encoders()[kind]
    pupil, again, other = build(teacher), build(teacher), build(teacher, seed=1)
    assert pupil.classes == CLASSES
    assert pupil.outcomes == 3
    theirs = teacher.trunk.state_dict()
    for name, value in pupil.trunk.state_dict().items():
        if not (name.startswith("pooler.") and name not in theirs):
            assert torch.equal(value, theirs[name]), name
    for a, b in zip(pupil.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(pupil.head_layer.weight, other.head_layer.weight)
    assert 0.005 < pupil.head_layer.weight.std() < 0.5
    pupil.trunk.get_input_embeddings().weight.data += 1  # a copy: the teacher does not notice
    assert torch.equal(teacher.trunk.get_input_embeddings().weight, theirs[next(iter(theirs))])


def test_sizes_are_known_without_weights(tmp_path: Path):
    for kind, teacher in encoders().items():
        teacher.save(tmp_path / kind)
        full, empty = (
            build(models.load(str(tmp_path / kind), empty=empty), empty=empty).parameters_count
            for empty in (False, True)
        )
        assert full == empty, kind


def test_data_without_classes_has_no_classifier():
    with pytest.raises(ModelError, match="needs classes"):
        student.build(recipe.Student(name="classifier"), encoders()["bert"])


def test_a_family_without_classifiers_is_refused():
    tokenizer = make_tokenizer()
    config = hf.MambaConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1)
    with pytest.raises(ModelError, match="no sequence classifier of the type 'mamba'"):
        build(Model(hf.MambaForCausalLM(config), tokenizer, "mamba"))


@pytest.mark.parametrize("kind", ["bert", "masked", "roberta"])
@pytest.mark.parametrize(
    "then",
    [
        {"name": "drop_layers", "keep": 2},
        {"name": "shrink_width", "heads": 2, "intermediate": 24},
        {"name": "trim_vocabulary", "size": 150},
        {"name": "balanced", "ratio": 2},
    ],
    ids=lambda each: str(each["name"]),
)
def test_the_other_builders_cut_a_classifier(kind: str, then: dict[str, Any], tmp_path: Path):
    pupil = build(encoders()[kind], then)
    export(pupil, tmp_path / "student")  # compares what is loaded again with what was saved
    network = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    assert network.config.id2label == dict(enumerate(CLASSES))
    assert network.config.label2id == {name: index for index, name in enumerate(CLASSES)}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "student")
    assert network(**tokenizer("a fine film", return_tensors="pt")).logits.shape == (1, 3)
    assert sum(p.numel() for p in network.parameters()) == pupil.parameters_count
    assert "input_ids" in encode(tokenizer, "x", special=False)


def test_a_low_rank_embedding_is_for_language_models():
    with pytest.raises(ModelError, match="cannot be factorised here"):
        build(encoders()["llama"], {"name": "low_rank", "embedding": 4})
