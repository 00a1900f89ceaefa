"""What is wrong with a refinement is told at once, before anything is loaded or trained, with the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from classifiers import bert, model, word_pieces, write

import stillhouse
from stillhouse.errors import RecipeError, StillhouseError


def recipe(folder: Path, texts: int = 600, **changes: Any) -> dict[str, Any]:
    if not (folder / "teacher").exists():
        tokenizer = word_pieces()
        model(bert(tokenizer, "ForSequenceClassification", num_labels=2), tokenizer).save(folder / "teacher")
        write(folder / "train.jsonl", [{"sentence": f"a film {n}", "label": n % 2, "domain": "x"} for n in range(40)])
        write(
            folder / "test.jsonl", [{"sentence": f"the plot {n}", "label": n % 2, "domain": "x"} for n in range(texts)]
        )
    form = {"name": "labelled", "text": "sentence", "classes": ["0", "1"]}
    content: dict[str, Any] = {
        "run": str(folder / "run"),
        "data": {
            "sources": {"name": "jsonl", "path": str(folder / "train.jsonl"), "format": form},
            "test_sources": {"name": "jsonl", "path": str(folder / "test.jsonl"), "format": form},
        },
        "teacher": {"name": "local", "model": str(folder / "teacher")},
        "student": "same",
        "evaluate": {"slices": ["domain"]},
    }
    for key, value in changes.items():
        content[key] = {**content.get(key, {}), **value}
    return content


def told(folder: Path, **changes: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        stillhouse.refine(stillhouse.parse(recipe(folder, **changes)))
    assert not (folder / "run").exists()
    return str(caught.value)


def test_everything_wrong_is_told_at_once(tmp_path: Path):
    text = told(
        tmp_path,
        evaluate={"measures": [{"name": "accuracy", "required": False}]},
        refine={"actions": ["rewieght"], "trainer": {"stepz": 3}, "pool": {"name": "jsonl", "path": "nowhere.jsonl"}},
    )
    for part in ("no gate that must hold", "Did you mean 'reweight'", "stepz", "nowhere.jsonl", "other classes"):
        assert part in text


def test_parts_that_are_too_small(tmp_path: Path):
    text = told(tmp_path, texts=200)
    assert "hold too few texts: discover" in text
    assert "sealed" in text
    assert "Hold out about" in text


def test_a_slice_that_is_no_column(tmp_path: Path):
    text = told(tmp_path, evaluate={"slices": ["domian", "length", "task"]})
    assert "'task' is asked for" in text
    text = told(tmp_path, evaluate={"slices": ["domian", "length"]})
    assert "no held-out record has a column 'domian'" in text
    assert "Did you mean 'domain'" in text


def test_no_test_sources(tmp_path: Path):
    assert "data.test_sources: is needed" in told(tmp_path, data={"test_sources": []})


@pytest.mark.parametrize("key", ["rounds", "tokens", "hours", "weakest"])
def test_a_budget_of_zero(key: str, tmp_path: Path):
    with pytest.raises(RecipeError, match=f"refine.{key}"):
        stillhouse.parse(recipe(tmp_path, refine={key: 0}))


def test_the_command_line_says_it_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    import yaml

    from stillhouse.cli import main

    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(tmp_path, evaluate={"part": "sealed"})))
    with pytest.raises((SystemExit, StillhouseError)) as caught:
        main(["refine", str(path)])
    assert getattr(caught.value, "code", 2) == 2
    assert "is chosen by the refinement" in capsys.readouterr().err.replace("\n", " ")
