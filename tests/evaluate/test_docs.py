"""The measure that the documentation shows works, and every measure is what the page says of them."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import pytest
from synthetic_tables import World

from stillhouse.evaluate.answers import Answers
from stillhouse.evaluate.records import nothing
from stillhouse.find import find, names


def test_the_example_measure_runs() -> None:
    page = Path(__file__).parents[2] / "docs" / "evaluate.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S)
    assert len(blocks) == 1
    scope: dict[str, object] = {}
    exec(blocks[0], scope)
    world = World(documents=8)
    items = world.items(student=world.noisy(0.5))
    finding = scope["rare_words"](items, above=6)  # type: ignore[operator]
    rare = items.label > 6
    expected = (items.roles["student"].nll - items.roles["teacher"].nll)[rare].mean()
    assert abs(finding.estimates[0].value - expected) < 1e-12
    json.dumps(finding.to_dict(), allow_nan=False)
    assert scope["rare_words"](items).verdict == "NOT MEASURED"  # type: ignore[operator]


@pytest.mark.parametrize("name", names("measure"))
def test_every_measure_is_what_the_page_says_of_measures(name: str) -> None:
    """A function of the file's name; takes tables by their names and options by keyword; its first line is its question; with nothing to
    judge from it says NOT MEASURED and why, and raises nothing."""
    measure = find("measure", name)
    parameters = inspect.signature(measure).parameters.values()
    tables = {p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY}
    assert tables and tables <= {"items", "answers", "tags", "classes"}
    needed = {p.name: "x" for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY and p.default is p.empty}
    assert (measure.__doc__ or "").strip().splitlines()[0].endswith("?")
    empty = {"items": nothing(), "answers": Answers(()), "tags": {}, "classes": ("x", "y")}
    found = measure(**{table: empty[table] for table in tables}, **needed)
    assert found.verdict == "NOT MEASURED" and found.name == name
    assert (found.reason or found.sentence) and found.question.endswith("?")
