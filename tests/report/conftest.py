"""The example run folder, loaded by its path so that no other folder's module of that name is meant."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from stillhouse.report import report


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"report_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def example() -> ModuleType:
    """The module that makes example runs."""
    return _load("fixture")


@pytest.fixture(scope="session")
def html() -> ModuleType:
    """The module that parses pages strictly."""
    return _load("tree")


@pytest.fixture
def run(example: ModuleType, tmp_path: Path) -> Path:
    """A fresh, whole run folder of few steps."""
    return example.build(tmp_path / "smol-24m", steps=100)


@pytest.fixture
def hostile(example: ModuleType, run: Path) -> Path:
    """A run whose models, recipe and evaluation say everything that could break a page."""
    return example.poison(run)


@pytest.fixture(scope="session")
def page(example: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a whole run."""
    return report(example.build(tmp_path_factory.mktemp("runs") / "smol-24m")).read_text(encoding="utf-8")
