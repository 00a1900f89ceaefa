"""Asking roles tasks: what is written down, what is chosen, what is not asked twice."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from shared import make_llama, make_tokenizer

from stillhouse.errors import ModelError
from stillhouse.evaluate import answers
from stillhouse.evaluate.examine import Asker, examine, fingerprint
from stillhouse.evaluate.questions import Task, choice, write
from stillhouse.evaluate.tasks.recall import recall
from stillhouse.models import Model
from stillhouse.run import rounded


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "stillhouse" / "answers"


def quiz(offset: int = 0) -> tuple:
    options = [" fox jumps over the lazy dog", " dog", " still"]
    return tuple(choice(f"{offset}.{i}", f"Line {i + offset}:", options, i % 3, free="Line:") for i in range(30))


def tasks() -> dict[str, Task]:
    told = tuple(write(str(i), f"Say {i}:", lambda text: float(len(text) % 2), new_tokens=3) for i in range(6))
    return {
        "recall": recall(pairs=(4,), questions=20),
        "quiz": Task(quiz(), "knowledge", quiz(100)),
        "told": Task(told, "instructions"),
    }


def models() -> dict[str, Model]:
    tokenizer = make_tokenizer()
    return {role: make_llama(tokenizer, seed=seed) for seed, role in enumerate(("student", "teacher", "before"))}


def asked(folder: Path, roles: dict[str, Model]) -> answers.Answers:
    examine(folder, tasks(), {role: (lambda m=model: m) for role, model in roles.items()}, lambda _: 0)
    return answers.read(folder / "evaluation" / "answers.parquet")


def test_every_role_answers_every_task(tmp_path: Path):
    found = asked(tmp_path, models())
    assert [task.task for task in found.tasks] == ["recall", "quiz", "told"]
    for task in found.tasks:
        assert {"teacher", "student", "before"} <= set(task.roles)
    told = found.named("told")
    assert told is not None and "floor" in told.roles
    assert told.roles["floor"].text == told.roles["teacher"].text[1:] + told.roles["teacher"].text[:1]


def test_the_normalisation_is_the_teachers_choice_on_other_questions_and_stays(tmp_path: Path):
    roles = models()
    found = asked(tmp_path, roles).named("quiz")
    assert found is not None
    kept = json.loads((tmp_path / "evaluation" / "normalisations.json").read_text())["quiz"]
    best = max(kept["right"].values())
    assert kept["right"][found.normalisation] == best and kept["questions"] == 30
    assert list(kept["right"]) == ["raw", "character", "token", "pmi"]
    roles["teacher"] = make_llama(make_tokenizer(), seed=7)
    again = asked(tmp_path, roles).named("quiz")
    assert again is not None and again.normalisation == found.normalisation


def test_what_was_answered_is_not_asked_again(tmp_path: Path, cache: Path):
    asked(tmp_path / "one", models())
    files = {p: p.stat().st_mtime_ns for p in cache.iterdir()}
    assert files
    first = (tmp_path / "one" / "evaluation" / "answers.parquet").read_bytes()
    asked(tmp_path / "two", models())
    assert {p: p.stat().st_mtime_ns for p in cache.iterdir()} == files
    assert (tmp_path / "two" / "evaluation" / "answers.parquet").read_bytes() == first


def test_an_interruption_costs_a_shard(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.modules["stillhouse.evaluate.examine"], "SHARD", 10)
    asker = Asker(models()["student"], 0)

    seen = 0

    def stop(count: int) -> None:
        nonlocal seen
        seen += count
        if seen > 10:  # in the second shard
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asker(quiz(), free=False, tick=stop)
    assert len(list(cache.iterdir())) == 1
    asker(quiz(), free=False)
    assert len(list(cache.iterdir())) == 3


def test_other_weights_are_another_model():
    tokenizer = make_tokenizer()
    one, same, other = make_llama(tokenizer), make_llama(tokenizer), make_llama(tokenizer, seed=1)
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)
    with torch.no_grad():
        next(same.parameters())[0, 0] += 1e-3
    assert fingerprint(one) != fingerprint(same)


def test_weights_that_are_no_numbers_are_told():
    broken = models()["student"]
    with torch.no_grad():
        broken.head_layer.weight[5] = torch.nan
    with pytest.raises(ModelError, match="probabilities that are no numbers"):
        Asker(broken, 0)(quiz(), free=False)


def test_the_rounded_teacher_is_another_model_and_the_teacher_stays(tmp_path: Path):
    """Its weights are those that 16 bits hold; its answers are asked and kept apart from the teacher's."""
    teacher = models()["teacher"]
    before = fingerprint(teacher)
    other = rounded(teacher)
    assert fingerprint(teacher) == before != fingerprint(other)
    for mine, theirs in zip(other.parameters(), teacher.parameters(), strict=True):
        assert torch.equal(mine, theirs.to(torch.bfloat16).float())
    table = asked(tmp_path, {"teacher": teacher, "rounded": other})
    for task in table.tasks:
        assert set(task.roles) >= {"teacher", "rounded"}
