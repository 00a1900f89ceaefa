"""A user's mistakes with filters: told in check, all at once, before anything is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from shared import LINES, make_llama, make_tokenizer

from stillhouse.cli import main


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("material")
    make_llama(make_tokenizer(), layers=2).save(folder / "teacher")
    lines = [json.dumps({"text": f"{i} {LINES[i % 4]}"}) for i in range(60)]
    (folder / "text.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def told(material: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], filters: object, **data: object) -> str:
    content = {
        "run": str(tmp_path / "run"),
        "data": {
            "sources": {"name": "jsonl", "path": str(material / "text.jsonl")},
            "block": 32,
            "validation": 0.2,
            "filters": filters,
            **data,
        },
        "teacher": str(material / "teacher"),
        "student": {"name": "drop_layers", "keep": 1},
        "trainer": {"steps": 1, "tokens_per_step": 64, "micro_tokens": 64, "dtype": "float32", "threads": 1},
        "evaluate": {"tokens": 100, "control": False},
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(SystemExit) as exit_:
        main(["run", str(path)])
    assert exit_.value.code == 2
    error = capfd.readouterr().err
    assert "Traceback" not in error and "✗" in error
    return " ".join(error.split())


def test_mistakes_in_filters_are_told_at_once(material, tmp_path, capfd):
    filters = [
        "near_duplicate",
        {"name": "length", "leest": 5},
        {"name": "repetition", "most": 1.5},
        {"name": "length", "least": 9, "most": 3},
        {"name": "contamination", "files": ["nowhere/*.jsonl"]},
    ]
    said = told(material, tmp_path, capfd, filters, workers=0)
    assert "data.workers" in said
    said = told(material, tmp_path, capfd, filters)
    for words in (
        "data.filters.0: there is no filter 'near_duplicate'",
        "Did you mean 'near_duplicates'",
        "data.filters.1.leest: unknown key",
        "data.filters.2.most",
        "data.filters.3.least: is 9, above most",
        "data.filters.4.files.0: no file matches 'nowhere/*.jsonl'",
    ):
        assert words in said, words
    assert not (tmp_path / "run").exists()


def test_a_filter_that_takes_everything_is_one_message_and_nothing_is_half_written(material, tmp_path, capfd):
    said = told(material, tmp_path, capfd, [{"name": "length", "least": 500}])
    assert "length removed 60 of 60" in said and "Loosen the filter" in said
    assert not (tmp_path / "run" / "data").exists()


def test_a_broken_evaluation_file_is_named(material, tmp_path, capfd):
    broken = tmp_path / "eval.jsonl"
    broken.write_text('{"question": "what"}\n{"question": ', encoding="utf-8")
    said = told(material, tmp_path, capfd, [{"name": "contamination", "files": [str(broken)]}])
    assert "eval.jsonl, line 2: is not JSON" in said


def test_perplexity_is_not_asked_of_a_teacher_that_is_elsewhere(material):
    from stillhouse import recipe
    from stillhouse.check import filter_problems

    content = {
        "data": {"sources": {"name": "jsonl", "path": str(material / "text.jsonl")}, "filters": "perplexity"},
        "student": {"name": "drop_layers", "keep": 1},
    }
    assert filter_problems(recipe.parse({**content, "teacher": str(material / "teacher")})) == []
    (problem,) = filter_problems(recipe.parse({**content, "teacher": {"name": "served", "model": "x", "url": "y"}}))
    assert problem.where == "data.filters.0" and "weights" in problem.what
