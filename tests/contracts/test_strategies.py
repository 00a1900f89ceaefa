"""What holds for every strategy file: a new one gets these checks for free."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import stillhouse
from stillhouse.errors import RecipeError
from stillhouse.find import KINDS, check_options, describe, find, names, options_model

PACKAGE = Path(stillhouse.__file__).parent
ALL = [(kind, name) for kind in KINDS for name in names(kind)]


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_a_file_holds_a_function_of_its_name(kind: str, name: str):
    function = find(kind, name)
    assert inspect.isfunction(inspect.unwrap(function))
    assert function.__name__ == name


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_it_says_what_it_is_in_one_line(kind: str, name: str):
    first = describe(kind, name).split("\n")[0]
    assert 10 <= len(first) <= 130, first
    assert first[-1] in ".?"


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_its_options_have_types_and_are_explained(kind: str, name: str):
    function = find(kind, name)
    for parameter in inspect.signature(function).parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter.name
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.name != "empty" and kind != "loss":
            assert f"{parameter.name}:" in (function.__doc__ or ""), f"{parameter.name} is not explained"
    options_model(function)


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_an_unknown_option_is_refused(kind: str, name: str):
    with pytest.raises(RecipeError, match="no_such_option"):
        check_options(find(kind, name), {"no_such_option": 1}, kind)


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_it_imports_no_other_strategy(kind: str, name: str):
    tree = ast.parse((PACKAGE / KINDS[kind] / f"{name}.py").read_text(encoding="utf-8"))
    others = {f"stillhouse.{folder.replace('/', '.')}" for folder in KINDS.values()}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not any((node.module or "").startswith(other) for other in others), node.module


def test_stages_import_no_other_stage():
    """But the trainer may know the objective, and everybody the shared modules at the top."""
    stages = {"data", "teacher", "student", "objective", "trainer", "evaluate", "export", "report"}
    for stage in stages:
        for file in (PACKAGE / stage).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                modules += [a.name for a in node.names] if isinstance(node, ast.Import) else []
                for module in modules:
                    other = module.split(".")[1] if module.startswith("stillhouse.") else stage
                    allowed = other in {stage} or other not in stages or (stage, other) == ("trainer", "objective")
                    assert allowed, f"{file} imports {module}"


def test_a_user_brings_a_function_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "of_mine.py").write_text("def loss(student, teacher, batch, *, strength: float = 1.0):\n    return 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    function = find("loss", "of_mine:loss")
    assert check_options(function, {"strength": "2"}, "objective.soft") == {"strength": 2.0}
    with pytest.raises(RecipeError, match="cannot be imported"):
        find("loss", "of_mine:nothing")


def test_a_near_name_is_suggested():
    with pytest.raises(RecipeError, match="Did you mean 'forward_kl'"):
        find("loss", "foward_kl", "objective.soft")
