"""A round that costs something elsewhere is rolled back; one that the student is too small for is told so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from classifiers import write
from weak_domain import FORM, settings, texts

import stillhouse
from stillhouse.files import sha256_file
from stillhouse.refinement.draft import Case, Draft


def harm(draft: Draft, case: Case) -> tuple[Draft, str]:
    """Text whose labels are all wrong."""
    path = write(case.folder / "wrong.jsonl", [{**row, "label": 1 - row["label"]} for row in texts(600, "plain", 77)])
    return replace(draft, added=({"name": "jsonl", "path": str(path), "format": FORM, "task": ""},)), "wrong labels"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)


def test_a_harmful_round_is_rolled_back_and_said(tmp_path: Path, here: None):
    own = settings(
        tmp_path,
        refine={"rounds": 1, "actions": ["test_rollback:harm"]},
        evaluate={"measures": ["accuracy", {"name": "declared", "least": 0.999}]},
        objective={"alpha": 0.0},
    )
    run = stillhouse.refine(own)
    state = json.loads((run / "refinement.json").read_text())
    harmed = state["rounds"][1]
    assert not harmed["accepted"]
    assert harmed["said"].startswith("rolled back")
    assert any(not each["held"] for each in harmed["guard"])
    assert state["best"] == 0
    assert state["stopped"]["why"] == "rounds"
    assert sha256_file(run / "student/model.safetensors") == sha256_file(run / "rounds/0/student/model.safetensors")
    assert state["sealed"]["round"] == 0


def test_a_student_that_cannot_learn_the_slice_is_told_its_size(tmp_path: Path):
    """Its weights can hardly move: neither more text of the slice nor the slice alone teaches it anything."""
    still = {"learning_rate": 1e-9, "steps": 4}
    own = settings(
        tmp_path,
        refine={"rounds": 5, "trainer": still, "actions": ["reweight"]},
        evaluate={"measures": ["accuracy", {"name": "declared", "least": 0.999}], "retention": 0.999},
        trainer={"steps": 12},
    )
    write(tmp_path / "train.jsonl", [*texts(240, "plain", 0), *texts(40, "odd", 1)])
    run = stillhouse.refine(own)
    state = json.loads((run / "refinement.json").read_text())
    assert state["stopped"]["why"] == "capacity-limited"
    assert len(state["rounds"]) == 3
    found = state["diagnosis"]
    assert found["slice"].startswith("domain ")
    assert found["kept_held_out"] < 0.999
    assert found["kept_of_what_it_learned"] < 0.999
    assert found["enough"] is None or found["enough"] > found["parameters"]
    assert (run / "probe" / "evaluation.json").is_file()
