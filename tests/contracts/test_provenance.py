"""Every row that a teacher writes says what it came of, wherever its prompt came from: for all strategies of prompts in the listing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from taught import ask_lines, make_taught

from stillhouse.data.sources.written import written
from stillhouse.find import check_options, names
from stillhouse.writing import Ask, Local

ALWAYS = {
    *("teacher", "fingerprint", "arithmetic", "prompts", "sample", "form", "seed", "new_tokens"),
    *("temperature", "top_p", "min_p", "stop", "finish", "tokens", "logprob"),
}
OWN = {"files": {"file", "line"}, "grid": set(), "prefixes": set(), "self_instruct": set(), "magpie": set()}
"""What else a strategy's prompts say of where they came from, at least."""


def options_of(name: str, folder: Path) -> dict[str, Any]:
    lines = ask_lines(folder / "lines.txt", 4)
    draft = {"count": 3, "new_tokens": 40, "together": 8, "temperature": 1.0, "top_p": 1.0}
    return {
        "files": {"path": lines},
        "grid": {"axes": {"a": ["fox", "dog"], "b": ["quick", "lazy"]}, "template": "the {{ b }} {{ a }}"},
        "prefixes": {"source": {"name": "text", "path": lines, "separator": "\n"}, "tokens": 2, "count": 3},
        "self_instruct": {"path": lines, "similar": 0.9, **draft},
        "magpie": draft,
    }[name]


def test_all_strategies_are_known_here() -> None:
    assert set(names("prompt")) == set(OWN)


@pytest.mark.parametrize("name", sorted(OWN))
def test_provenance_is_complete(name: str, tmp_path: Path) -> None:
    teacher = make_taught()
    asked = {"prompts": {"name": name, **options_of(name, tmp_path)}, "samples": 2, "new_tokens": 4, "dtype": "float32"}
    found = list(written(teacher, lambda _: None, tmp_path / "rows", **check_options(written, asked, "source")))
    assert len(found) >= 2
    for row in found:
        about = row["provenance"]
        assert set(about) >= ALWAYS and about["prompts"]["name"] == name
        assert set(about["prompts"]) >= OWN[name]
        assert json.loads(json.dumps(row)) == row
        # nothing else is needed to write it again
        ask = Ask(row["prompt"], **{field: about[field] for field in Ask.__dataclass_fields__ if field != "text"})
        (answer,) = Local(teacher).write([ask])
        assert answer.tokens == about["tokens"] and row["response"].strip() == answer.text.strip()
    assert len({(row["prompt"], row["provenance"]["sample"]) for row in found}) == len(found)
