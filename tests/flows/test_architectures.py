"""Students of other architectures through the whole flow: trained, saved, loaded, evaluated, stopped and gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classifiers import reviews, write
from shared import LINES, make_batch, make_llama, make_tokenizer
from test_classifier_flow import FORM, fresh_encoder
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import stillhouse
from stillhouse.check import costs
from stillhouse.errors import RecipeError
from stillhouse.evaluate import records
from stillhouse.models import Model
from stillhouse.teacher import Teacher

STUDENTS: dict[str, dict[str, Any]] = {
    "recurrent": {"name": "recurrent", "cell": "gru", "state": 48},
    "state_space": {"name": "drop_layers", "keep": 2, "then": [{"name": "state_space", "attention": [1]}]},
    "linear_attention": {"name": "drop_layers", "keep": 2, "then": [{"name": "linear_attention", "window": 8}]},
}


def settings(folder: Path, student: dict[str, Any], terms: list[dict[str, Any]] | None = None) -> stillhouse.Recipe:
    lines = [json.dumps({"text": f"{i} casks of oak, {i * i} litres. {LINES[i % 4]}"}) for i in range(80)]
    (folder / "text.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    make_llama(make_tokenizer(), layers=3).save(folder / "teacher")
    return stillhouse.parse(
        {
            "name": "tiny",
            "run": str(folder / "run"),
            "data": {"sources": {"name": "jsonl", "path": str(folder / "text.jsonl")}, "block": 64, "validation": 0.2},
            "teacher": {"name": "local", "model": str(folder / "teacher"), "dtype": "float32"},
            "student": student,
            "objective": {"terms": terms or [{"name": "hidden_mse", "layers": "uniform", "weight": 0.1}]},
            "trainer": {
                "steps": 12, "tokens_per_step": 256, "micro_tokens": 128, "dtype": "float32", "learning_rate": 1e-2,
                "gradient_checkpointing": True, "checkpoint_every": 4, "threads": 1,
            },
            "evaluate": {"tokens": 300, "control": False},
            "report": {"prompts": ["still water"], "new_tokens": 4},
        }
    )  # fmt: skip


@pytest.mark.parametrize("name", STUDENTS)
def test_a_language_model_learns_and_is_loaded(name: str, tmp_path: Path):
    recipe = settings(tmp_path, STUDENTS[name])
    planned = costs(recipe, measure=False)
    run = stillhouse.run(recipe)
    items = records.read(run / "evaluation" / "items.parquet")
    assert items.roles["student"].kl is not None
    assert items.roles["student"].kl.mean() < items.roles["before"].kl.mean()
    student = AutoModelForCausalLM.from_pretrained(run / "student")
    assert planned.student_parameters == sum(p.numel() for p in student.parameters())
    tokenizer = AutoTokenizer.from_pretrained(run / "student")
    out = student.generate(**tokenizer("still", return_tensors="pt"), max_new_tokens=3)
    assert out.shape[1] >= 2
    card = (run / "student" / "README.md").read_text(encoding="utf-8")
    assert ("trust_remote_code=True" in card) == (name != "state_space")


@pytest.mark.parametrize("name", STUDENTS)
def test_attention_maps_are_refused_before_any_work(name: str, tmp_path: Path):
    recipe = settings(tmp_path, STUDENTS[name], [{"name": "attention_kl", "layers": "last", "weight": 1.0}])
    with pytest.raises(RecipeError, match=r"(?s)objective, 'attention_kl'.*not all of .* attend.*hidden_mse"):
        costs(recipe, measure=False)
    with pytest.raises(RecipeError, match="objective, 'attention_kl'"):
        stillhouse.run(recipe)
    assert not (tmp_path / "run" / "data").exists()


def test_such_a_student_shows_its_own_student_no_attention(tokenizer):
    from stillhouse.recipe import Student
    from stillhouse.student import build

    student = build(Student(**STUDENTS["recurrent"]), make_llama(tokenizer))
    assert Teacher(student).shows == {"hidden"}
    assert Teacher(make_llama(tokenizer)).shows == {"hidden", "attention"}


def test_a_bilstm_learns_a_task_from_an_encoder(tmp_path: Path):
    fresh_encoder().save(tmp_path / "encoder")
    write(tmp_path / "rows.jsonl", reviews(240))
    content: dict[str, Any] = {
        "name": "tiny",
        "run": str(tmp_path / "run"),
        "data": {
            "sources": {"name": "jsonl", "path": str(tmp_path / "rows.jsonl"), "format": FORM},
            "block": 32,
            "validation": 0.3,
        },
        "teacher": {"name": "local", "model": str(tmp_path / "encoder"), "dtype": "float32"},
        "stages": [{"name": "adapted", "student": "classifier", "objective": {"alpha": 0.0}, "trainer": {"steps": 25}}],
        "student": {"name": "recurrent", "layers": 1, "state": 32},
        "objective": {"alpha": 0.8, "temperature": 2.0},
        "trainer": {
            "steps": 30, "tokens_per_step": 256, "micro_tokens": 128, "dtype": "float32", "learning_rate": 1e-2, "threads": 1,
        },
        "evaluate": {"reference": "adapted", "control": False},
    }  # fmt: skip
    run = stillhouse.run(stillhouse.parse(content))
    network = AutoModelForSequenceClassification.from_pretrained(run / "student").eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "student")
    assert network.config.id2label == {0: "negative", 1: "positive"}
    rows = reviews(60, seed=9)
    with torch.no_grad():
        batch = tokenizer([r["sentence"] for r in rows], padding=True, return_tensors="pt")
        said = network(**batch).logits.argmax(-1).tolist()
    assert np.mean([a == r["label"] for a, r in zip(said, rows, strict=True)]) > 0.85


@pytest.mark.parametrize("name", ["recurrent", "linear_attention"])
def test_one_of_ours_is_a_teacher_too(name: str, tmp_path: Path, tokenizer):
    """Loaded by its folder, as the teacher of the next stage is."""
    from stillhouse import models
    from stillhouse.recipe import Student
    from stillhouse.student import build

    student: Model = build(Student(**STUDENTS[name]), make_llama(tokenizer, layers=3))
    student.save(tmp_path / "student")
    again = models.load(str(tmp_path / "student"))
    batch = make_batch([5, 9], 290)
    assert torch.equal(again.eval()(batch)[0], student.eval()(batch)[0])
