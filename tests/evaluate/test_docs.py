"""The measure that the documentation shows works."""

from __future__ import annotations

import json
import re
from pathlib import Path

from synthetic_tables import World


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
