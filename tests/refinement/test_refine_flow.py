"""A whole refinement of a tiny classifier: a planted weak domain is found, mended and proved on texts that were sealed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from weak_domain import settings

import stillhouse
from stillhouse import data
from stillhouse.errors import RunError
from stillhouse.evaluate import records
from stillhouse.evaluate.splits import part_of
from stillhouse.files import sha256_file

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stillhouse.refine(settings(tmp_path_factory.mktemp("refined")))


def state_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "refinement.json").read_text())
    return found


def lasting(state: dict[str, Any]) -> Any:
    """What does not depend on when and where it was made."""
    text = json.dumps(state)
    found = json.loads(text)
    del found["of"]
    found["sealed"].pop("opened")
    for each in found["rounds"]:
        each.pop("hours", None)
        each["draft"]["added"] = [{k: v for k, v in s.items() if k != "path"} for s in each["draft"]["added"]]
    return found


def test_the_planted_domain_is_found_and_mended(finished: Path):
    rounds = state_of(finished)["rounds"]
    assert len(rounds) >= 2, "the first run held every gate: nothing was weak"
    assert rounds[1]["weak"][0]["name"] == "domain odd"
    before, after = (
        {s["name"]: s["value"] for s in rounds[n]["slices"]}["domain odd"] for n in (0, state_of(finished)["best"])
    )
    assert after > before
    assert any("120 texts of the pool" in change for change in rounds[1]["changes"])


def test_texts_near_the_weakness_were_taken(finished: Path):
    rows = [json.loads(line) for line in (finished / "rounds/1/rows/pool-0.jsonl").read_text().splitlines()]
    assert len(rows) == 120
    odd = sum(row["domain"] == "odd" for row in rows)
    assert odd > 0.45 * 120, "a third of the pool is of the weak domain, and no more than that was taken"


def test_nothing_sealed_was_looked_at_or_learned(finished: Path):
    sealed = set(records.read(finished / "evaluation/items.parquet").key.tolist())
    assert sealed
    assert all(part_of(key) == "sealed" for key in sealed)
    for folder in sorted((finished / "rounds").iterdir()):
        looked = set(records.read(folder / "evaluation/items.parquet").key.tolist())
        assert not looked & sealed
        recipe = stillhouse.load(folder / "recipe.yaml")
        tokenizer = AutoTokenizer.from_pretrained(folder / "before")
        corpus = data.prepare(recipe.data, tokenizer, folder / "data")
        learned = {key for batch, _ in corpus.train.all(4096) for key in batch.keys}
        assert learned
        assert not learned & (sealed | looked)


def test_the_folder_is_that_of_the_best_student(finished: Path):
    state = state_of(finished)
    best = finished / "rounds" / str(state["best"])
    assert sha256_file(finished / "student/model.safetensors") == sha256_file(best / "student/model.safetensors")
    assert sha256_file(finished / "before/model.safetensors") == sha256_file(
        finished / "rounds/0/student/model.safetensors"
    ), "what the rounds bought is against the student they began from"
    evaluation = json.loads((finished / "evaluation.json").read_text())
    assert evaluation["verdict"] == state["sealed"]["verdict"]
    assert state["sealed"]["round"] == state["best"]


def test_what_the_rounds_bought_shows_on_the_sealed_part(finished: Path):
    """Told again from the item table alone: who is right there after all rounds, and who was before them."""
    sealed = state_of(finished)["sealed"]
    items = records.read(finished / "evaluation/items.parquet")
    tags = json.loads((finished / "evaluation/tags.json").read_text())
    right = {role: items.roles[role].column("correct") for role in ("before", "student")}
    rows = {
        "all": [True] * items.size,
        "domain odd": [tags[key]["domain"] == "odd" for key in items.key.tolist()],
    }
    told = {each["name"]: each["value"] for each in sealed["bought"]}
    assert set(told) == set(rows)
    for name, of_it in rows.items():
        gained = [float(b - a) for a, b, inside in zip(right["before"], right["student"], of_it, strict=True) if inside]
        assert told[name] == pytest.approx(sum(gained) / len(gained), abs=1e-5)
    assert {each["name"] for each in sealed["guard"]} >= {"all text", "all that was not worked on"}
    assert all(each["held"] for each in sealed["guard"])


def test_a_round_can_be_run_by_hand(finished: Path):
    """Its recipe is all there is to it: in a folder of its own it gives the same weights."""
    recipe = stillhouse.load(finished / "rounds/1/recipe.yaml", [f"run={finished / 'by_hand'}"])
    mine = stillhouse.run(recipe)
    assert sha256_file(mine / "student/model.safetensors") == sha256_file(
        finished / "rounds/1/student/model.safetensors"
    )
    shutil.rmtree(mine)


def test_the_same_command_answers_at_once(finished: Path):
    before = (finished / "refinement.json").read_bytes()
    began = time.monotonic()
    stillhouse.refine(settings(finished.parent))
    assert time.monotonic() - began < 30
    assert (finished / "refinement.json").read_bytes() == before


def test_after_the_seal_is_broken_there_is_no_other_round(finished: Path):
    state = state_of(finished)
    kept = (finished / "refinement.json").read_text()
    best = next(r for r in state["rounds"] if r["number"] == state["best"])
    best["verdict"] = "INCONCLUSIVE"  # as if the budget had ended it, and were raised
    state["stopped"] = {"why": "rounds", "said": ""}
    (finished / "refinement.json").write_text(json.dumps(state))
    try:
        with pytest.raises(RunError, match="sealed part is opened"):
            stillhouse.refine(settings(finished.parent, refine={"rounds": 9}))
    finally:
        (finished / "refinement.json").write_text(kept)


def test_another_recipe_does_not_go_on_here(finished: Path):
    with pytest.raises(RunError, match="another recipe"):
        stillhouse.refine(settings(finished.parent, refine={"margin": 0.07}))


def test_what_is_told(finished: Path):
    router = state_of(finished)["router"]
    assert 0 <= router["served"][1] <= router["served"][0] <= router["served"][2] <= 1
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "Refinement" in page
    assert "domain odd" in page
    assert "the student before the rounds" in page
    assert "cost elsewhere: nothing in" in page


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill")
def test_killed_at_any_instant_it_ends_the_same(finished: Path, tmp_path: Path):
    """Killed while the first round learns, and again when the seal is broken."""
    settings(tmp_path)
    code = f"import stillhouse, pathlib, weak_domain; stillhouse.refine(weak_domain.settings(pathlib.Path({str(tmp_path)!r})))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), *sys.path])}
    run = tmp_path / "run"

    def broken() -> bool:
        path = run / "refinement.json"
        return path.is_file() and json.loads(path.read_text())["sealed"] is not None

    for reached in ((run / "rounds/1/data/manifest.json").is_file, broken):
        process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 200
        while not reached() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
        process.wait()
        assert reached()
    stillhouse.refine(settings(tmp_path))
    assert lasting(state_of(run)) == lasting(state_of(finished))
    assert sha256_file(run / "student/model.safetensors") == sha256_file(finished / "student/model.safetensors")
