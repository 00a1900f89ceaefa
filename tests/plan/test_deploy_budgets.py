"""Budgets in a recipe: strict, told before anything is trained, and no part of what decides a student."""

from __future__ import annotations

import pytest
from shared import make_llama, make_tokenizer

from stillhouse.check import deploy_problems, match_exports
from stillhouse.errors import RecipeError
from stillhouse.recipe import Deploy, Export, Recipe, parse


def recipe(**sections: object) -> Recipe:
    return parse(
        {"data": {"sources": {"name": "python_docs"}}, "teacher": "a", "student": {"name": "drop_layers", "keep": 1}}
        | sections
    )


def test_a_wrong_key_or_value_is_refused():
    with pytest.raises(RecipeError, match=r"(?s)deploy\.max_file_md.*Did you mean 'max_file_mb'"):
        recipe(deploy={"max_file_md": 3})
    with pytest.raises(RecipeError, match=r"deploy\.max_p95_ms"):
        recipe(deploy={"max_p95_ms": 0})


def test_a_target_decides_no_student():
    assert recipe(deploy={"max_file_mb": 3}).fingerprint() == recipe().fingerprint()


def test_runs_of_older_versions_are_read():
    old = recipe(export={"max_mb": 12.5, "margin": 0.2})
    assert old.deploy == Deploy(max_file_mb=12.5) and old.export == Export(margin=0.2)
    assert recipe(export={"max_mb": None}) == recipe()
    assert "max_mb:" not in old.to_yaml()


def test_a_stage_is_not_held_to_the_target():
    staged = recipe(deploy={"max_file_mb": 1}, stages=[{"name": "one", "student": {"name": "drop_layers", "keep": 2}}])
    assert staged.stage(0).deploy == Deploy() and staged.deploy.max_file_mb == 1


def test_a_runtime_that_nothing_is_written_for_is_told():
    problems = deploy_problems(recipe(deploy={"runtime": "onnx"}, export={"formats": ["gguf"]}))
    assert [p.where for p in problems] == ["deploy.runtime"] and "Add {name: onnx}" in problems[0].way_out
    assert not deploy_problems(recipe(deploy={"runtime": "hf"}, export={"formats": ["gguf"]}))


def test_only_the_targets_files_are_limited():
    student = make_llama(make_tokenizer())
    megabytes = 4 * student.parameters_count / 1e6
    for runtime, formats, limit, fits in (
        (None, (), megabytes * 0.99, False),
        (None, (), megabytes * 1.01, True),
        ("hf", ("gguf",), megabytes * 0.99, False),
        (
            None,
            ("gguf",),
            megabytes * 0.99,
            True,
        ),  # 8.5 bits a weight; the student's own folder is none of the target's
        ("gguf", ("gguf",), 0.01, False),
    ):
        section, deploy = Export(formats=formats), Deploy(runtime=runtime, max_file_mb=limit)
        if fits:
            match_exports(section, student, deploy)
        else:
            with pytest.raises(RecipeError, match="max_file_mb allows"):
                match_exports(section, student, deploy)
