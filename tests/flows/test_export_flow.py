"""A run that exports: told before training, written after it, tested, on the page; and the same run again does nothing."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from shared import LINES, make_llama, make_tokenizer

import stillhouse
from stillhouse.errors import RecipeError
from stillhouse.profile import profile
from stillhouse.profile.terminal import show


def recipe_for(folder: Path, *overrides: str) -> stillhouse.Recipe:
    make_llama(make_tokenizer(), layers=2).save(folder / "teacher")
    lines = [json.dumps({"text": f"{i} {text} {i * 7}"}) for i, text in enumerate(LINES * 10)]
    (folder / "text.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    content = {
        "name": "tiny",
        "run": str(folder / "run"),
        "data": {"sources": {"name": "jsonl", "path": str(folder / "text.jsonl")}, "block": 64, "validation": 0.2},
        "teacher": str(folder / "teacher"),
        "student": {"name": "drop_layers", "keep": 1},
        "trainer": {"steps": 2, "tokens_per_step": 128, "micro_tokens": 64, "dtype": "float32", "threads": 1},
        "evaluate": {"tokens": 400, "control": False, "measures": ["performance"]},
        "export": {"formats": ["hf", {"name": "gguf", "precision": "q8_0"}]},
        "report": {"prompts": ["still"], "new_tokens": 2},
    }
    return stillhouse.parse(content, overrides)


def test_a_gguf_file_stands_in_the_run_and_on_its_page(tmp_path: Path):
    run = stillhouse.run(recipe_for(tmp_path))
    records = {r["name"]: r for r in json.loads((run / "exports.json").read_text(encoding="utf-8"))}
    assert set(records) == {"hf", "gguf-q8_0"}
    assert (run / records["gguf-q8_0"]["path"]).stat().st_size == records["gguf-q8_0"]["bytes"]
    page, card = (run / "report.html").read_text(encoding="utf-8"), (run / "student" / "README.md").read_text("utf-8")
    assert records["gguf-q8_0"]["path"] in page and "## Other files" in card
    tested = "difference" in records["gguf-q8_0"]
    assert tested == (importlib.util.find_spec("llama_cpp") is not None)
    found = profile(run, prompt=8, tokens=6, blocks=2, threads=1, watts=10.0)
    assert [m.name for m in found.models] == ["teacher", "student", *(["gguf-q8_0"] if tested else [])]
    for model in found.models:
        assert len(model.prefill) == 2 and len(model.steps) == 12 and min(model.steps) > 0
        assert model.cold > model.loaded["load_seconds"] and 30e6 < model.peak < 2e9
    assert "times fewer parameters" in found.explained[0]
    parts = found.models[1].parts
    assert parts is not None and 0 < parts["head"] + parts["matrices"] < parts["all"]
    told = io.StringIO()
    show(found, Console(file=told, width=200))
    assert "Energy: estimated: 10 W assumed" in told.getvalue() and "Distilling took" in told.getvalue()
    assert found.spent > 0 and {each.name for each in found.paybacks} == {m.name for m in found.models[1:]}
    assert found.energy["student"]["joules"] == pytest.approx(10 * sum(found.models[1].steps) / 12)
    assert json.loads((run / "profile.json").read_text(encoding="utf-8"))["blocks"] == 2
    was = (run / "exports.json").read_bytes()
    stillhouse.run(recipe_for(tmp_path))
    assert (run / "exports.json").read_bytes() == was


def test_what_cannot_be_exported_is_told_before_anything_is_trained(tmp_path: Path):
    with pytest.raises(RecipeError, match=r"(?s)formats\.1 \(gguf\).*max_file_mb allows 0\.01"):
        stillhouse.run(recipe_for(tmp_path, "deploy.max_file_mb=0.01"))
    assert not (tmp_path / "run" / "student").exists()
