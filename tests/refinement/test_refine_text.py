"""A language model refined: domains by a column, text that the teacher writes near what was lost."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from classifiers import write
from taught import make_taught, sentence

import stillhouse
from stillhouse.evaluate import records
from stillhouse.evaluate.splits import part_of


def documents(count: int, domain: str, seed: int) -> list[dict[str, str]]:
    chance = random.Random(f"{seed} {domain}")
    made = []
    for _ in range(count):
        said = [sentence(chance) for _ in range(4)]
        listed = "Come up with a series of tasks:\n\n" + "".join(f"Task {n}: {one}\n" for n, one in enumerate(said, 1))
        made.append({"text": " ".join(said) if domain == "plain" else listed, "domain": domain})
    return made


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    make_taught().save(folder / "teacher")
    write(folder / "train.jsonl", [*documents(80, "plain", 0), *documents(8, "tasks", 1)])
    write(folder / "test.jsonl", [*documents(70, "plain", 2), *documents(50, "tasks", 3)])
    source = {"name": "jsonl", "path": str(folder / "train.jsonl")}
    recipe = {
        "name": "text", "run": str(folder / "run"),
        "data": {"sources": source, "test_sources": {**source, "path": str(folder / "test.jsonl")}, "block": 64},
        "teacher": {"name": "local", "model": str(folder / "teacher"), "dtype": "float32"},
        "student": {"name": "drop_layers", "keep": 1},
        "trainer": {"steps": 3, "tokens_per_step": 128, "micro_tokens": 128, "dtype": "float32", "threads": 1, "validate_every": None},
        "evaluate": {"slices": ["domain", "length", "rarity"], "measures": ["performance", "declared"], "retention": 0.99},
        "refine": {"rounds": 1, "smallest": 10, "margin": 0.5, "actions": [{"name": "let_write", "count": 6, "new_tokens": 8}, "oversample", "reweight"]},
        "report": {"prompts": ["The"], "new_tokens": 4},
    }  # fmt: skip
    return stillhouse.refine(stillhouse.parse(recipe))


def test_the_teacher_wrote_and_slices_became_tasks(run: Path):
    own = stillhouse.load(run / "rounds/1/recipe.yaml")
    assert [source.name for source in own.data.sources].count("written") == 1
    assert {source.task for source in own.data.sources} == set(own.data.tasks)
    assert "rest" in own.data.tasks
    state = json.loads((run / "refinement.json").read_text())
    named = {weak["name"] for weak in state["rounds"][1]["weak"]}
    assert named & set(own.data.tasks)
    weights = own.data.tasks
    assert max(weights, key=lambda name: weights[name].weight) in named
    assert own.data.mixture.name == "fixed"


def test_gains_are_shares_of_the_teachers_skill(run: Path):
    """Of all text: what the guard compares, from the tables of both rounds, by the definition."""
    state = json.loads((run / "refinement.json").read_text())
    tables = [records.read(run / f"rounds/{n}/evaluation/items.parquet") for n in (0, 1)]
    cost = []
    for items in tables:
        rows = [i for i, key in enumerate(items.key.tolist()) if part_of(key) == "confirm"]
        bits = {role: sum(items.roles[role].nll[i] for i in rows) for role in ("teacher", "student", "floor")}
        cost.append(bits)
    gained = (cost[0]["student"] - cost[1]["student"]) / (cost[0]["floor"] - cost[0]["teacher"])
    assert state["rounds"][1]["bought"][0]["name"] == "all"
    assert state["rounds"][1]["bought"][0]["value"] == pytest.approx(gained, rel=1e-4)
