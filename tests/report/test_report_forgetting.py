"""The matrix of forgetting: stages × tasks from the stages' own evaluations."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

from stillhouse.report import report
from stillhouse.report.forgetting import forgetting
from stillhouse.report.read import read


def told(**right: dict[str, float]) -> dict[str, Any]:
    """An evaluation with the share right of each role and task."""
    estimates = [
        {"label": f"{task}: right", "role": role, "value": x, "low": x - 1, "high": x + 1, "unit": "%", "n": 500}
        for role, tasks in right.items()
        for task, x in tasks.items()
    ]
    return {"findings": [{"name": "tasks", "verdict": "PASS", "estimates": estimates}]}


def staged(run: Path, example: ModuleType, *stages: dict[str, Any]) -> Path:
    """A run whose recipe has two stages, with evaluations of these and of the whole."""
    recipe = (run / "recipe.yaml").read_text(encoding="utf-8")
    (run / "recipe.yaml").write_text(f"{recipe}\nstages:\n- name: first\n- name: second\n", encoding="utf-8")
    for folder, evaluation in zip(("stages/first/", "stages/second/", ""), stages, strict=False):
        example.put_json(run / f"{folder}evaluation.json", evaluation)
    return run


def test_the_matrix_by_hand(run: Path, example: ModuleType) -> None:
    first = told(before={"recall": 20.0, "chains": 30.0}, student={"recall": 70.0, "chains": 35.0})
    second = told(before={"recall": 70.0}, student={"recall": 50.0, "chains": 60.0})
    last = told(student={"recall": 45.0, "chains": 61.0})
    found = forgetting(read(staged(run, example, first, second, last)))
    assert found is not None
    assert found.columns == ("after", "recall", "chains")
    assert found.shares == {
        "before training": {"recall": 20, "chains": 30},
        "first": {"recall": 70, "chains": 35},
        "second": {"recall": 50, "chains": 60},
        "the student": {"recall": 45, "chains": 61},
    }
    assert found.rows[1] == ("first", "70.0 % [69.0, 71.0]", "35.0 % [34.0, 36.0]")
    assert found.rows[-1] == ("lost since its best, pp", "25.0", "0.00")
    assert found.sentence == "The most was lost of recall: 25.0 pp since first."


def test_it_stands_on_the_page_and_in_the_file(run: Path, example: ModuleType) -> None:
    stages = (told(student={"recall": x}) for x in (70.0, 50.0))
    staged(run, example, *stages, example.evaluation() | told(student={"recall": 45.0}))
    page = report(run).read_text(encoding="utf-8")
    assert "Right after each stage, by task" in page and "The most was lost of recall: 25.0 pp since first." in page
    told_ = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert told_["forgetting"]["second"] == {"recall": 50.0}


def test_without_stages_or_tasks_there_is_none(run: Path, example: ModuleType) -> None:
    assert forgetting(read(run)) is None
    broken = {"findings": [{"name": "tasks", "estimates": [3, {"label": None, "role": "student"}]}, 7]}
    assert forgetting(read(staged(run, example, broken, {}, broken))) is None
