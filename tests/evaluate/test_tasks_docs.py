"""The task that the documentation shows works."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from stillhouse import recipe
from stillhouse.evaluate.questions import tasks_of

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"


def test_the_example_task_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    (tmp_path / "of_riddles.py").write_text(block, encoding="utf-8")
    row = {"riddle": "What has keys and opens nothing?", "answers": ["a piano", "a door"], "right": 0}
    (tmp_path / "riddles.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    section = recipe.Evaluate.model_validate({"tasks": ["of_riddles:riddles"]})
    (task,) = tasks_of(section.tasks).values()
    assert task.questions[0].contexts == ("What has keys and opens nothing?\nAnswer:",)
    assert task.questions[0].options == (" a piano", " a door")


def test_every_task_is_in_the_table() -> None:
    from stillhouse.find import names

    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in names("task") if f"`{name}`" not in page] == []
