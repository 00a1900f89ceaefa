"""The whole flow on a tiny teacher: seconds, and everything a user gets is there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from shared import LINES, make_llama, make_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

import stillhouse
from stillhouse.evaluate import records
from stillhouse.run import load_resolved

WORDS = [
    "still",
    "water",
    "grain",
    "malt",
    "mash",
    "oak",
    "cask",
    "spirit",
    "copper",
    "worm",
    "tun",
    "wash",
    "low",
    "cut",
]


def documents(count: int, seed: int = 0) -> list[str]:
    """Sentences that differ, so that none is dropped as a duplicate."""
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, size=24)) + ". " + LINES[i % 4] for i in range(count)]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny teacher and a text to learn from."""
    folder = tmp_path_factory.mktemp("material")
    make_llama(make_tokenizer(), layers=4).save(folder / "teacher")
    lines = [json.dumps({"text": text}) for text in documents(120)]
    (folder / "text.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def recipe_for(material: Path, run: Path, *overrides: str) -> stillhouse.Recipe:
    content = {
        "name": "tiny",
        "run": str(run),
        "data": {"sources": {"name": "jsonl", "path": str(material / "text.jsonl")}, "block": 128, "validation": 0.2},
        "teacher": str(material / "teacher"),
        "student": {"name": "drop_layers", "keep": 2},
        "trainer": {
            "steps": 6, "tokens_per_step": 256, "micro_tokens": 128, "dtype": "float32", "validate_every": 3,
            "validation_tokens": 256, "checkpoint_every": 2, "threads": 1, "learning_rate": 3e-3,
        },
        "evaluate": {"tokens": 1000},
        "report": {"prompts": ["still water"], "new_tokens": 4},
    }  # fmt: skip
    return stillhouse.parse(content, overrides)


@pytest.fixture(scope="module")
def finished(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stillhouse.run(recipe_for(material, tmp_path_factory.mktemp("runs") / "tiny"))


def test_the_student_loads_and_writes(finished: Path):
    student = AutoModelForCausalLM.from_pretrained(finished / "student")
    tokenizer = AutoTokenizer.from_pretrained(finished / "student")
    assert student.config.num_hidden_layers == 2
    out = student.generate(**tokenizer("still", return_tensors="pt"), max_new_tokens=3)
    assert out.shape[1] >= 2
    assert "stillhouse" in (finished / "student" / "README.md").read_text(encoding="utf-8").lower()


def test_every_file_of_the_run_is_there(finished: Path):
    for name in ("recipe.yaml", "environment.json", "metrics.jsonl", "control/metrics.jsonl", "evaluation.json",
                 "evaluation/items.parquet", "samples.json", "report.html"):  # fmt: skip
        assert (finished / name).is_file(), name
    assert not [p for p in finished.rglob("*") if ".tmp" in p.name]
    steps = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [s["step"] for s in steps if "loss" in s] == [1, 2, 3, 4, 5, 6]
    assert {"forward_kl", "cross_entropy"} <= set(steps[0])


def test_the_table_has_every_role_and_the_teacher_agrees_with_itself(finished: Path):
    items = records.read(finished / "evaluation" / "items.parquet")
    assert set(items.roles) == {"teacher", "before", "student", "control", "floor"}
    teacher = items.roles["teacher"]
    assert teacher.kl is not None and np.abs(teacher.kl).max() < 1e-5
    assert teacher.agree is not None and teacher.agree.min() == 1.0


def test_the_table_says_what_a_slow_reading_says(finished: Path, material: Path):
    """−log q of every label of one held-out document, from plain transformers on the text alone."""
    items = records.read(finished / "evaluation" / "items.parquet")
    tokenizer = AutoTokenizer.from_pretrained(material / "teacher")
    model = AutoModelForCausalLM.from_pretrained(finished / "student")
    rows = items.document == items.document[0]
    labels = items.label[rows].tolist()
    text = next(t for t in documents(120) if tokenizer(t).input_ids[1:] == labels[:-1])
    ids = torch.tensor([[*tokenizer(text).input_ids, tokenizer.eos_token_id]])
    with torch.no_grad():
        log_q = torch.log_softmax(model(ids).logits[0], -1)
    slow = [-log_q[i, ids[0, i + 1]].item() for i in range(ids.shape[1] - 1)]
    assert items.roles["student"].nll[rows] == pytest.approx(slow, rel=1e-4)
    assert int(items.bytes[rows].sum()) == len(text.encode()) - len(tokenizer.decode(ids[0, :1]).encode())


def test_a_finished_run_answers_at_once_and_changes_nothing(finished: Path, material: Path):
    before = {p: p.stat().st_mtime_ns for p in (finished / "student").iterdir() if p.suffix == ".safetensors"}
    stillhouse.run(recipe_for(material, finished))
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_judging_again_needs_no_model(finished: Path, monkeypatch: pytest.MonkeyPatch):
    first = json.loads((finished / "evaluation.json").read_text(encoding="utf-8"))
    monkeypatch.setattr("stillhouse.models.load", None)
    again = stillhouse.evaluate(finished, judge_only=True)
    assert [f["estimates"] for f in again["findings"]] == [f["estimates"] for f in first["findings"]]


def test_evaluating_again_gives_the_same_table(finished: Path):
    first = records.read(finished / "evaluation" / "items.parquet")
    stillhouse.evaluate(finished)
    again = records.read(finished / "evaluation" / "items.parquet")
    for role in first.roles:
        assert np.array_equal(first.roles[role].nll, again.roles[role].nll)


def test_another_recipe_may_not_use_the_folder(finished: Path, material: Path):
    with pytest.raises(stillhouse.RunError, match="another recipe"):
        stillhouse.run(recipe_for(material, finished, "trainer.steps=7"))
    assert load_resolved(finished).trainer.steps == 6


def test_a_run_stopped_between_stages_goes_on(finished: Path, material: Path, tmp_path: Path):
    """Delete what the last stages made: the same command makes it again, and only that."""
    copy = tmp_path / "tiny"
    shutil.copytree(finished, copy)
    for name in ("evaluation.json", "report.html", "control/student/config.json"):
        (copy / name).unlink()
    weights = (copy / "student" / "model.safetensors").read_bytes()
    stillhouse.run(recipe_for(material, copy))
    assert (copy / "report.html").is_file()
    assert (copy / "student" / "model.safetensors").read_bytes() == weights
    assert (copy / "control" / "student" / "model.safetensors").read_bytes() == (
        finished / "control" / "student" / "model.safetensors"
    ).read_bytes()


def test_the_student_learns_from_its_teacher(material: Path, tmp_path: Path):
    """More steps: held-out KL to the teacher falls far below that of the cut student."""
    settings = recipe_for(
        material, tmp_path / "long", "trainer.steps=60", "trainer.validate_every=null", "evaluate.control=false"
    )
    stillhouse.run(settings)
    items = records.read(tmp_path / "long" / "evaluation" / "items.parquet")
    assert items.roles["student"].kl.mean() < 0.5 * items.roles["before"].kl.mean()
    assert "control" not in items.roles
