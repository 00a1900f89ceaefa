"""Signals stored for a student that kept only some of its teacher's tokens: what the teacher would say to it live."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from shared import LINES, make_llama, make_tokenizer

import stillhouse
from stillhouse import data, models, student
from stillhouse.errors import StillhouseError
from stillhouse.label import label
from stillhouse.run import tutor_of
from stillhouse.teacher import Teacher, load
from stillhouse.teacher.store import Store

TRIM = [{"name": "trim_vocabulary", "size": 275}]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("material")
    make_llama(make_tokenizer()).save(folder / "teacher")
    words, draw = " ".join(LINES[:4]).split(), random.Random(0)
    lines = [json.dumps({"text": " ".join(draw.choices(words, k=20))}) for _ in range(40)]
    (folder / "text.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def recipe_of(material: Path, tmp: Path, *overrides: str, then: list[dict] = TRIM) -> stillhouse.Recipe:
    content = {
        "run": str(tmp / "run"),
        "data": {"sources": {"name": "jsonl", "path": str(material / "text.jsonl")}, "block": 64, "validation": 0.2},
        "teacher": {"name": "store", "path": str(tmp / "store"), "model": str(material / "teacher"), "k": 12, "dtype": "float32"},
        "student": {"name": "drop_layers", "keep": 1, "then": then},
        "trainer": {"steps": 3, "tokens_per_step": 64, "micro_tokens": 64, "device": "cpu", "threads": 1, "dtype": "float32"},
        "evaluate": {"tokens": 300},
        "report": {"prompts": ["still water"], "new_tokens": 2},
    }  # fmt: skip
    return stillhouse.parse(content, overrides)


@pytest.fixture(scope="module")
def labelled(material: Path, tmp_path_factory: pytest.TempPathFactory) -> stillhouse.Recipe:
    settings = recipe_of(material, tmp_path_factory.mktemp("labelled"))
    label(settings)
    return settings


def test_what_is_stored_is_what_the_teacher_says_to_this_student(labelled: stillhouse.Recipe, material: Path):
    live = Teacher(models.load(str(material / "teacher")))
    sample = data.sample(labelled.data, live.tokenizer, teacher=live)
    tokenizer = student.build(labelled.student, live.model, labelled.trainer.seed, sample=lambda: sample).tokenizer
    assert len(tokenizer) == 275 < len(live.tokenizer)
    corpus = data.prepare(labelled.data, tokenizer, labelled.folder / "data", teacher=live)
    stored, told = load(labelled.teacher), tutor_of(labelled, live, tokenizer, corpus.text_of)
    heard = tutor_of(labelled, stored, tokenizer, corpus.text_of)
    assert heard is stored and Store(labelled.teacher.options["path"]).manifest["outcomes"] == 275
    rows = inside = 0
    for side in (corpus.train, corpus.validation):
        for batch, _ in side.all(64):
            kept, whole = heard.signal(batch), told.signal(batch)
            for n in range(len(batch.select_N)):
                part = whole.rows(n, n + 1)
                p_V = torch.softmax(part.logits_NV[0].double(), -1)
                ids = kept.ids_NK[n].tolist()
                best = sorted(p_V.tolist(), reverse=True)[: len(ids)]
                assert p_V[ids].tolist() == pytest.approx(best, rel=1e-4, abs=1e-12)
                top = p_V > 1e-6
                named = torch.zeros(275, dtype=torch.float64)
                named[ids] = kept.logp_NK[n].double().exp()
                assert named[ids][top[ids]].tolist() == pytest.approx(p_V[ids][top[ids]].tolist(), rel=0.2)
                assert float(named.sum() + kept.rest_N[n].double().exp()) == pytest.approx(1, abs=1e-5)
                expected = 1.0 if part.weight_N is None else float(part.weight_N[0])
                assert float(kept.weight_N[n]) == pytest.approx(expected, abs=1e-3)
                rows += 1
                inside += int((part.logits_NV[0] < part.logits_NV[0].max() - 5e3).any())
    assert rows > 500 and inside > 50  # also within the teacher's tokens


def test_a_student_of_fewer_tokens_learns_from_a_store(labelled: stillhouse.Recipe):
    folder = stillhouse.run(labelled)
    assert models.load(str(folder / "student")).outcomes == 275
    losses = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert sum("validation" not in line for line in losses) >= 3
    # the teacher itself is charged for its own reading, as without a store
    assert json.loads((folder / "evaluation.json").read_text())["findings"]


def test_a_part_of_the_words_counts_a_part(labelled: stillhouse.Recipe):
    store = Store(labelled.teacher.options["path"])
    assert store.manifest["signal"] == {"kind": "topk", "k": 12, "bits": 8, "weighted": True}
    assert store.codec.widths["weight"] == 2


@pytest.mark.parametrize("then", [[], [{"name": "trim_vocabulary", "size": 270}]])
def test_signals_for_other_tokens_are_refused(
    labelled: stillhouse.Recipe, then: list[dict], material: Path, tmp_path: Path
):
    settings = recipe_of(material, tmp_path, f"teacher.path={labelled.teacher.options['path']}", then=then)
    with pytest.raises(StillhouseError, match="was labelled for") as stopped:
        stillhouse.run(settings)
    assert "stillhouse label" in str(stopped.value)


def test_a_store_of_the_teachers_tokens_is_refused_for_a_student_of_fewer(material: Path, tmp_path: Path):
    label(recipe_of(material, tmp_path, then=[]))
    with pytest.raises(StillhouseError, match="was labelled for"):
        stillhouse.run(recipe_of(material, tmp_path, f"run={tmp_path / 'other'}"))
    with pytest.raises(StillhouseError, match="store of other signals"):
        label(recipe_of(material, tmp_path, f"run={tmp_path / 'other'}"))


def test_hidden_states_speak_of_the_teachers_tokens_only(material: Path, tmp_path: Path):
    with pytest.raises(StillhouseError, match="hidden") as stopped:
        label(recipe_of(material, tmp_path, "teacher.kind=hidden"))
    assert "topk" in str(stopped.value)
    assert not (tmp_path / "store").exists()


def test_all_mistakes_are_told_before_a_weight_is_loaded(material: Path, tmp_path: Path):
    settings = recipe_of(
        material, tmp_path, "data.sources.paht=x", "student.kep=3", f"teacher.model={tmp_path / 'none'}"
    )
    with pytest.raises(StillhouseError) as stopped:
        label(settings)
    assert {problem.where for problem in stopped.value.problems} >= {"data.sources.0.paht", "student.kep"}


@pytest.mark.parametrize("kind", ["topk", "sampled"])
def test_each_kind_that_names_outcomes(material: Path, tmp_path: Path, kind: str):
    path = label(recipe_of(material, tmp_path, f"teacher.kind={kind}"))
    assert Store(path).positions > 500
