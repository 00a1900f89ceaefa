"""The evaluator evaluated: what benchmarks/defects.py plants is found by its gate, and what it measured is what the docs say."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from answer_tables import answers, suite
from synthetic_tables import World

from stillhouse import recipe
from stillhouse.evaluate import ask
from stillhouse.evaluate.answers import Answers

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def defects() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("defects")
    sys.path.remove(str(BENCHMARKS))
    for name in ("defects", "small_world", "cells"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def world() -> World:
    return World(documents=150)


def verdicts(defects: ModuleType, table: Answers, world: World, sharp: float = 1.0) -> dict[str, str]:
    """What each gate says."""
    tables = {"items": world.items(student=sharp * world.logits), "answers": table, "classes": (), "tags": {}}
    found, _ = ask(tables, recipe.Evaluate(), tuple(recipe.Gate(name=name) for name in defects.GATES))
    return {one.name: one.verdict for one in found}


def as_written(table: Answers) -> Answers:
    """The sums as the benchmark asks them: one continuation that must be the likeliest."""
    from dataclasses import replace

    tasks = []
    for task in table.tasks:
        if task.task == "chains":
            roles = {r: replace(x, greedy_NK=task.score(r)[:, None]) for r, x in task.roles.items()}
            task = replace(task, kind="word", roles=roles)
        tasks.append(task)
    return Answers(tuple(tasks))


@pytest.mark.parametrize(
    ("cell", "gate", "also"),
    [
        ("stereotyped pronouns", "bias", set()),
        ("long sums", "reasoning", {"coverage"}),
        ("half of the answers mixed up", "tasks", {"coverage", "collapse", "reasoning", "bias"}),
    ],
)
def test_a_change_of_the_answers_is_found_by_its_gate(
    defects: ModuleType, world: World, cell: str, gate: str, also: set[str]
) -> None:
    teacher = suite()
    teacher["probe"] = (np.random.default_rng(1).random(3000) < 0.58).astype(float)
    table = as_written(answers(teacher, {name: x.copy() for name, x in teacher.items()}))
    assert set(verdicts(defects, table, world).values()) == {"PASS"}
    rng = np.random.default_rng(2)
    hurt = Answers(tuple(defects.ANSWERS[cell](task, rng) for task in table.tasks))
    if cell == "stereotyped pronouns":  # of made-up answers three nats lie between the options
        hurt = Answers(tuple(defects.stereotyped(task, rng, nats=4.0) for task in table.tasks))
    found = verdicts(defects, hurt, world)
    failed = {name for name, verdict in found.items() if verdict == "FAIL"}
    assert gate in failed and failed <= {gate} | also, found


def test_sharpened_logits_are_found_by_calibration_alone(defects: ModuleType, world: World) -> None:
    teacher = suite()
    table = as_written(answers(teacher, teacher))
    found = verdicts(defects, table, world, sharp=1.6)
    assert {name for name, verdict in found.items() if verdict == "FAIL"} == {"calibration"}


def test_what_was_measured_is_diagonal_and_what_the_docs_say(defects: ModuleType) -> None:
    rows = {row["cell"]: row for row in defects.BENCHMARK.rows()}
    assert set(rows) == set(defects.AIMED)
    told = (BENCHMARKS.parent / "docs" / "evaluate.md").read_text(encoding="utf-8")
    assert defects.matrix(list(rows.values())) in told
    for cell, row in rows.items():
        aimed = defects.AIMED[cell]
        failed = {gate for gate, verdict in row["verdicts"].items() if verdict == "FAIL"}
        assert not aimed or aimed in failed, (cell, row["verdicts"])
        assert cell not in defects.NARROW or failed <= {aimed, *defects.NARROW[cell]}, (cell, row["verdicts"])
    for nothing in ("rounded to 16 bits", "rounded to 4 bits"):
        assert set(rows[nothing]["verdicts"].values()) == {"PASS"}


def test_words_of_a_region_are_its_own(defects: ModuleType) -> None:
    small = importlib.import_module("small_world")
    assert set(small.REGION.values()) == set(small.REGIONS)
    asked = small.tasks(80)
    assert {name: len(task.questions) for name, task in asked.items()} == {
        "capitals": 80, "agreement": 133, "chains": 80, "pronouns": 10 * len(small.LEANS)
    }  # fmt: skip
    assert all(q.options[q.gold].strip() == small.CAPITALS[q.cluster] for q in asked["capitals"].questions)
