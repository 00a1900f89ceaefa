"""Artefacts in a fresh process: those that differ are refused and say where, the others are recorded."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classifiers import bert, word_pieces
from shared import make_llama, make_tokenizer

from stillhouse import export, recipe
from stillhouse.check import export_problems
from stillhouse.errors import RunError, StillhouseError
from stillhouse.export.compare import difference, logits_of
from stillhouse.find import check_options, find, names
from stillhouse.models import Model
from stillhouse.worker import Worker

TEXTS = [[5 + i, *range(3 + i, 30 + i)] for i in range(6)]


class Shifted:
    """A worker that answers for a model with something added to every logit row."""

    def __init__(self, model: Model, shift: Any) -> None:
        self.model, self.shift = model, shift

    def logits(self, ids: list[int]) -> np.ndarray:
        return self.shift(logits_of(self.model, ids).numpy().copy(), ids)


@pytest.fixture(scope="module")
def student() -> Model:
    return make_llama(make_tokenizer())


def test_a_constant_is_no_difference(student: Model):
    found = difference(Shifted(student, lambda x, _: x + 7.0), student, TEXTS)
    assert abs(found.kl) < 1e-9 and abs(found.loss) < 1e-6 and found.agreement == 1.0
    assert found.largest_logit < 1e-4


def test_differences_are_those_of_the_definition(student: Model):
    def spoil(logits: np.ndarray, ids: list[int]) -> np.ndarray:
        if ids == TEXTS[3]:
            logits[7, 11] += 9.0
        return logits

    found = difference(Shifted(student, spoil), student, TEXTS)
    assert found.where.startswith("text 4, token 8")
    p = torch.softmax(logits_of(student, TEXTS[3])[7].double(), -1).tolist()
    lifted = [p[i] * (math.exp(9.0) if i == 11 else 1.0) for i in range(len(p))]
    q = [x / sum(lifted) for x in lifted]
    kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    positions = sum(map(len, TEXTS))
    assert found.worst == pytest.approx(kl, rel=1e-4)
    assert found.kl == pytest.approx(kl / positions, rel=1e-4)
    true = TEXTS[3][8]
    assert found.loss == pytest.approx(math.log(p[true] / q[true]) / (positions - len(TEXTS)), rel=1e-4)
    assert found.low <= found.loss <= found.high


def test_accuracy_and_calibration_are_those_of_the_definition():
    tokenizer = word_pieces()
    reader = Model(bert(tokenizer, "ForSequenceClassification", num_labels=3), tokenizer, "reader")
    texts = [tokenizer(words).input_ids for words in ("a fine film", "so dull", "the plot", "awful and cold", "a page")]
    classes = [0, 1, 2, 0, 1]

    def sharper(logits: np.ndarray, ids: list[int]) -> np.ndarray:
        logits *= 30.0
        if ids == texts[2]:
            logits[0] = [0.0, 0.0, 100.0]
        return logits

    found = difference(Shifted(reader, sharper), reader, texts, classes)
    rows = []  # of each text: loss, right, sure of the first choice; of the student and of the sharper one
    for ids, true in zip(texts, classes, strict=True):
        mine = logits_of(reader, ids)[0].double()
        other = torch.tensor(sharper(mine.numpy()[None].copy(), ids)[0])
        both = [torch.softmax(each, -1).tolist() for each in (mine, other)]
        rows.append([(-math.log(max(p[true], 1e-300)), p.index(max(p)) == true, max(p)) for p in both])
    count = len(rows)
    assert found.loss == pytest.approx(sum(b[0] - a[0] for a, b in rows) / count, rel=1e-4)
    assert found.accuracy == pytest.approx(sum(b[1] for _, b in rows) / count)
    assert found.right.value == pytest.approx(sum(b[1] - a[1] for a, b in rows) / count)
    moved = sum((b[2] - b[1]) - (a[2] - a[1]) for a, b in rows) / count
    assert found.calibration.value == pytest.approx(moved, abs=1e-5)
    assert found.calibration.low <= moved + 1e-6 and moved - 1e-6 <= found.calibration.high
    unknown = difference(Shifted(reader, sharper), reader, texts)
    assert all(map(math.isnan, (unknown.loss, unknown.accuracy, unknown.right.value, unknown.calibration.high)))
    assert unknown.to_dict()["right"] == {"value": None, "low": None, "high": None}


def test_one_that_is_sure_of_other_things_is_refused(student: Model):
    texts = [student.tokenizer(line).input_ids for line in ("a still emoji", "deep and wide", "def add", "said it")] * 4
    found = difference(Shifted(student, lambda x, _: x * 3.0), student, texts)
    assert found.agreement == 1.0 and found.right.value == 0.0 and found.calibration.low > export.CALIBRATION
    with pytest.raises(
        StillhouseError, match=r"export\.formats\.0: is more confident than the student .* pp \(at most 3\)"
    ):
        export._refuse_lossy(found, 1e9, "a token", "export.formats.0")


def test_nan_is_infinitely_far_and_is_named(student: Model):
    def spoil(logits: np.ndarray, ids: list[int]) -> np.ndarray:
        if ids == TEXTS[1]:
            logits[2] = np.nan
        return logits

    found = difference(Shifted(student, spoil), student, TEXTS)
    assert math.isinf(found.kl) and found.where.startswith("text 2, token 3")
    assert json.dumps(found.to_dict(), allow_nan=False)


@pytest.fixture
def run(student: Model, tmp_path: Path) -> Path:
    export.export(student, tmp_path)
    return tmp_path


def read(run: Path) -> dict[str, dict[str, Any]]:
    return {r["name"]: r for r in json.loads((run / "exports.json").read_text(encoding="utf-8"))}


FORMATS = [
    {"name": name, **options}
    for name in names("export")
    if name != "hf"
    for options in [{"gguf": {"precision": "f16"}, "web": {"precision": "float32"}}.get(name, {})]
]


@pytest.mark.parametrize("strategy", FORMATS, ids=lambda s: s["name"])
def test_every_format_is_written_tested_and_recorded(
    strategy: dict[str, Any], student: Model, tmp_path: Path, monkeypatch
):
    section, run = recipe.Export(formats=(strategy,)), tmp_path
    function = find("export", strategy["name"])
    if function.refuses(student, check_options(function, section.formats[0].options, "")) is not None:
        tokenizer = word_pieces()  # what holds no language model holds a classifier
        student = Model(bert(tokenizer, "ForSequenceClassification", num_labels=3), tokenizer, "reader")
    export.export(student, run)
    if export_problems(section):
        pytest.skip(str(export_problems(section)[0]))
    classes = [i % 3 for i in range(len(TEXTS))] if student.classifies else None
    assert export.others(section, run, TEXTS, classes) == []
    again, artefact = read(run)["hf"], read(run)[export.label_of(section.formats[0])]
    assert again["difference"]["kl"] == 0.0
    assert student.classifies or again["greedy"][0] == again["greedy"][1]
    assert (run / artefact["path"]).exists() and artefact["bytes"] > 1000
    if "untested" not in artefact:
        assert artefact["exact"]["kl"] < 0.01 and artefact["difference"]["agreement"] > 0.9
        assert 0 < artefact["load_seconds"] < 120 and artefact["peak_bytes"] > artefact["import_bytes"] * 0.9
        assert (
            abs(artefact["difference"]["right"]["value"]) < 0.1 and artefact["difference"]["calibration"]["low"] < 0.03
        )
    assert not [p for p in run.rglob("*") if p.name.endswith(".tmp")]
    before = (run / artefact["path"]).stat().st_mtime_ns
    monkeypatch.setattr(export, "_tested", lambda *_: pytest.fail("was there already"))
    assert export.others(section, run, TEXTS, classes) == []
    assert (run / artefact["path"]).stat().st_mtime_ns == before


needs_llama_cpp = pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="llama.cpp is not installed")


@needs_llama_cpp
def test_one_that_loses_too_much_is_refused_and_says_where(student: Model, run: Path):
    section = recipe.Export(formats=({"name": "gguf", "precision": "q4_0"},), margin=1e-6)
    texts = [list(ids[:3]) for ids in TEXTS]
    for ids in texts:  # the student's own words, of which every change of its weights makes it less sure
        while len(ids) < 40:
            ids.append(int(logits_of(student, ids)[-1].argmax()))
    problems = export.others(section, run, texts)
    assert len(problems) == 1
    text = str(problems[0])
    assert "export.formats.0 (gguf-q4_0)" in text
    assert "nats a token against the student" in text and "most at text" in text and "finer precision" in text
    assert not (run / "exports" / "gguf-q4_0").exists()
    assert "refused" in read(run)["gguf-q4_0"]


@needs_llama_cpp
def test_wrong_weights_are_no_loss_but_a_fault(run: Path, monkeypatch):
    from stillhouse.export.formats import gguf

    monkeypatch.setattr(gguf, "_turned", lambda values, _: values)
    monkeypatch.setattr(gguf, "_turned_back", lambda values, _: values)
    problems = export.others(recipe.Export(formats=({"name": "gguf", "precision": "f32"},), margin=1e9), run, TEXTS)
    assert "does not compute what was written" in str(problems[0]) and "furthest apart at text" in str(problems[0])


def test_a_tokenizer_that_cuts_otherwise_is_found_and_says_where(student: Model):
    class Other:
        def ask(self, do: str, text: str) -> dict[str, Any]:
            ids = student.tokenizer(text).input_ids
            return {"ids": [*ids[:3], 7, *ids[4:]] if "emoji" in text else ids}

    said = student.tokenizer("a still emoji here").input_ids
    with pytest.raises(
        StillhouseError, match=r"(?s)export\.formats\.0: its tokenizer cuts otherwise: after .* come .*pre:"
    ):
        export._same_tokens(Other(), student, [said], "export.formats.0")
    export._same_tokens(Other(), student, [student.tokenizer("a still").input_ids], "export.formats.0")


@needs_llama_cpp
def test_a_broken_file_is_one_message(tmp_path: Path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(RunError, match=r"broken\.gguf"):
        Worker("llama_cpp", tmp_path / "broken.gguf", 1)


def test_a_process_that_dies_is_one_message(run: Path):
    with Worker("pytorch", run / "student", 1) as worker:
        worker._process.kill()
        with pytest.raises(RunError, match="the process that ran it ended with -9"):
            worker.logits([1, 2, 3])


def test_memory_is_the_processes_own(run: Path):
    """On Linux ru_maxrss of a child begins with what its parent held."""
    held = torch.zeros(200_000_000, dtype=torch.float32)  # 800 MB
    held += 1.0
    with Worker("pytorch", run / "student", 1) as worker:
        assert worker.ask("peak")["bytes"] < 700e6


def test_too_large_after_all_is_refused(run: Path):
    section = recipe.Export(formats=({"name": "gguf"},))
    assert "max_file_mb allows 0.001" in str(
        export.others(section, run, TEXTS, deploy=recipe.Deploy(max_file_mb=0.001))[0]
    )


def test_check_tells_of_twins():
    section = recipe.Export(formats=("gguf", "gguf", {"name": "gguf", "precision": "f16"}))
    assert [p.where for p in export_problems(section)] == ["export.formats.1"]


@pytest.mark.parametrize("name", [name for name in names("export") if getattr(find("export", name), "packages", ())])
def test_a_missing_package_is_told_before_training_with_what_installs_it(name: str, monkeypatch):
    packages, extra = find("export", name).packages, find("export", name).extra
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n in packages else there(n, *a))
    (problem,) = export_problems(recipe.Export(formats=(name,)))
    assert all(package in str(problem) for package in packages) and f"stillhouse[{extra}]" in str(problem)
