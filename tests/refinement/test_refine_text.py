"""A language model refined: domains by a column, text that the teacher writes near what was lost."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from classifiers import write
from taught import make_taught, sentence

import stillhouse


def documents(count: int, domain: str, seed: int) -> list[dict[str, str]]:
    chance = random.Random(f"{seed} {domain}")
    made = []
    for _ in range(count):
        text = " ".join(sentence(chance) for _ in range(4))
        made.append({"text": text if domain == "plain" else text.upper(), "domain": domain})
    return made


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    make_taught().save(folder / "teacher")
    write(folder / "train.jsonl", [*documents(80, "plain", 0), *documents(8, "loud", 1)])
    write(folder / "test.jsonl", [*documents(70, "plain", 2), *documents(50, "loud", 3)])
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
    state = json.loads((run / "refinement.json").read_text())
    assert state["sealed"]["verdict"] in ("PASS", "FAIL", "INCONCLUSIVE", "UNINFORMATIVE")
    assert all(abs(each["value"]) < 2 for each in state["rounds"][1]["bought"])
