"""Features first, then logits: a stage that does not teach, from which the next one goes on with the same teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from classifiers import bert, model, reviews, word_pieces, write

import stillhouse
from stillhouse import models
from stillhouse.check import costs, models_of
from stillhouse.errors import ModelError
from stillhouse.evaluate import records
from stillhouse.label import label

FORM = {"name": "labelled", "text": "sentence", "classes": ["negative", "positive"]}
TRAINER = {
    "steps": 4, "tokens_per_step": 128, "micro_tokens": 64, "dtype": "float32", "validate_every": 2,
    "validation_tokens": 128, "threads": 1,
}  # fmt: skip


def settings(folder: Path, **changes: Any) -> stillhouse.Recipe:
    if not (folder / "teacher").exists():
        tokenizer = word_pieces()
        model(bert(tokenizer, "ForSequenceClassification", id2label={0: "negative", 1: "positive"}), tokenizer).save(
            folder / "teacher"
        )
        rows = reviews(160)
        for name, part in (("train", rows[:80]), ("more", rows[80:100]), ("dev", rows[100:120]), ("test", rows[120:])):
            write(folder / f"{name}.jsonl", part)

    def source(name: str, **form: Any) -> dict[str, Any]:
        return {"name": "jsonl", "path": str(folder / f"{name}.jsonl"), "format": {**FORM, **form}}

    content: dict[str, Any] = {
        "name": "tiny",
        "run": str(folder / "run"),
        "data": {
            "sources": [source("train"), source("more", label=None)],
            "validation_sources": [source("dev")],
            "test_sources": [source("test")],
            "augment": [{"name": "replace_words", "model": str(folder / "teacher"), "copies": 2}],
            "block": 32,
        },
        "teacher": {"name": "local", "model": str(folder / "teacher"), "dtype": "float32"},
        "stages": [
            {
                "name": "features", "teaches": False, "student": {"name": "drop_layers", "keep": 2},
                "objective": {"terms": [{"name": "hidden_mse", "weight": 10.0}]},
            },
        ],
        "student": "same",
        "trainer": TRAINER,
        "evaluate": {"direct": True, "control": False, "measures": ["accuracy", "macro_f1", "mcc", "fidelity"]},
    }  # fmt: skip
    return stillhouse.parse({**content, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stillhouse.run(settings(tmp_path_factory.mktemp("phases")))


def test_the_second_phase_goes_on_where_the_first_ended(finished: Path):
    first, second = models.load(str(finished / "stages/features/student")), models.load(str(finished / "before"))
    assert len(second.layers) == 2
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), name
    stage = stillhouse.load(finished / "stages" / "features" / "recipe.yaml")
    assert stage.teacher.options["model"] == str(finished.parent / "teacher")
    named = json.loads((finished / "evaluation" / "models.json").read_text())
    assert len(models.load(str(finished.parent / "teacher")).layers) == 3
    assert named["teacher"]["parameters"] > named["student"]["parameters"]


def test_the_teacher_of_both_is_the_same_and_its_answers_are_those_it_is_compared_by(finished: Path):
    whole = records.read(finished / "evaluation" / "items.parquet")
    stage = records.read(finished / "stages" / "features" / "evaluation" / "items.parquet")
    assert whole.roles["teacher"].nll == pytest.approx(stage.roles["teacher"].nll, abs=1e-6)
    assert whole.roles["before"].nll == pytest.approx(stage.roles["student"].nll, abs=1e-6)


def test_the_direct_way_cuts_the_teacher_as_the_first_phase_did(finished: Path):
    direct = stillhouse.load(finished / "direct" / "recipe.yaml")
    assert direct.student.name == "drop_layers"
    assert [each.name for each in direct.student.then] == ["same"]
    assert direct.trainer.steps == 8
    teacher, before = models.load(str(finished.parent / "teacher")), models.load(str(finished / "direct" / "before"))
    for mine, theirs in zip(before.layers, (teacher.layers[0], teacher.layers[2]), strict=True):
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)


def test_it_is_evaluated_on_the_test_file_alone(finished: Path):
    items = records.read(finished / "evaluation" / "items.parquet")
    rows = {row["sentence"]: row["label"] for row in reviews(160)[120:]}
    assert items.size == len(rows)
    assert sorted(items.label.tolist()) == sorted(rows.values())
    found = json.loads((finished / "evaluation.json").read_text())["findings"]
    assert [each["name"] for each in found] == ["accuracy", "macro_f1", "mcc", "fidelity"]


def test_sizes_and_costs_know_who_teaches(tmp_path: Path):
    whole = settings(tmp_path)
    models_of(whole)
    alone = {"control": False}
    one = settings(tmp_path, stages=(), student={"name": "drop_layers", "keep": 2}, evaluate=alone)
    assert costs(whole, measure=False).operations == pytest.approx(2 * costs(one, measure=False).operations)


def test_a_student_can_be_made_from_another_than_its_teacher(tmp_path: Path):
    recipe = settings(tmp_path)
    tokenizer = word_pieces()
    other = model(bert(tokenizer, "ForSequenceClassification", seed=5), tokenizer)
    other.save(tmp_path / "other")
    content = recipe.to_dict() | {
        "stages": [],
        "student": {"name": "drop_layers", "keep": [1], "start": str(tmp_path / "other")},
    }
    content["evaluate"]["direct"] = False
    content["run"] = str(tmp_path / "second")
    run = stillhouse.run(stillhouse.parse(content))
    mine, theirs = models.load(str(run / "before")).layers[0], other.layers[1]
    assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))


def test_a_store_holds_what_a_classifier_says_for_students_of_fewer_tokens(tmp_path: Path):
    """Texts with and without labels, made ones too; the student that learns from the store is the one of the live teacher."""
    live = settings(tmp_path, stages=(), student={"name": "trim_vocabulary", "size": 150}, evaluate={"control": True})
    teacher = {"name": "store", "path": str(tmp_path / "said"), "model": str(tmp_path / "teacher"), "kind": "hidden", "precision": "float32", "dtype": "float32"}  # fmt: skip
    stored = stillhouse.parse(live.to_dict() | {"teacher": teacher, "run": str(tmp_path / "stored")})
    label(stillhouse.parse(stored.to_dict() | {"run": str(tmp_path / "text"), "student": {"name": "same"}}))
    one, other = stillhouse.run(live), stillhouse.run(stored)
    before = [costs(each, measure=False) for each in (live, stored)]  # the store's weights are not in memory
    assert before[0].memory - before[1].memory == 4 * before[0].teacher_parameters == before[0].teacher_memory
    assert before[1].teacher_memory == 0
    # Adam takes steps of its own size where a gradient is all rounding: so what is said, not each weight
    said = [records.read(run / "evaluation" / "items.parquet").roles["student"].nll for run in (one, other)]
    assert said[0] == pytest.approx(said[1], abs=2e-3)
    facts = json.loads((other / "data" / "manifest.json").read_text())["facts"]
    assert facts["augmented"] > 50 and facts["without_label"] > facts["augmented"]


def test_a_second_phase_that_grows_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match="more than the"):
        models_of(settings(tmp_path, student={"name": "copy_layers", "layers": [0, 0, 1, 1]}))
