"""Whether text that the student writes itself teaches it more than given text does.

    python benchmarks/on_policy.py --data FOLDER            every cell below with two seeds, one after another, resumable
    python benchmarks/on_policy.py --data FOLDER --only CELL
    python benchmarks/on_policy.py --table                  the table of what was measured so far

Same teacher (SmolLM2-135M-Instruct), same student (the fifteen of its layers that turn their input most), the same steps of
the same number of tokens read, α = 1, temperature 1. Afterwards each student reads held-out documents, and goes on from their beginnings at temperature 1; of what it wrote
the teacher says how it would have gone on there. FOLDER is a text file or a folder of them, cut into documents at empty lines.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from cells import Benchmark, Row, over_seeds
from losses import Material, held_out, prepare

from stillhouse import recipe
from stillhouse.data.samplers.student_text import StudentText, student_text
from stillhouse.models import Model
from stillhouse.objective import Learner, Shape
from stillhouse.student.builders.drop_layers import drop_layers
from stillhouse.teacher import Teacher
from stillhouse.trainer.distributed import start
from stillhouse.trainer.loop import take_step
from stillhouse.trainer.optim import make_optimiser
from stillhouse.types import Batch

LAYERS = [0, 1, 2, 8, 10, 11, 19, 20, 21, 22, 23, 24, 27, 28, 29]
"""What ``{name: drop_layers, keep: 15, by: block_influence}`` keeps on the text of these books."""

EACH = {
    "soft": {"name": "forward_kl", "weights": {"name": "own_text", "inside": 0, "outside": 1}},
    "terms": {"name": "reverse_kl", "weights": "own_text"},
}
"""Forward KL on given text, reverse KL on what the student wrote."""

CELLS: dict[str, dict[str, Any]] = {
    "given text, forward KL": {},
    "given text, reverse KL": {"objective": {"soft": "reverse_kl"}},
    "half own text (λ = 0.5), reverse KL on it": {"share": 0.5, "objective": EACH},
    "own text alone (λ = 1), reverse KL": {"share": 1.0, "objective": {"soft": "reverse_kl"}},
}

BENCHMARK = Benchmark(
    "on_policy",
    __doc__ or "",
    CELLS,
    {
        "steps": (10, "optimiser steps"),
        "tokens": (256, "read in a step"),
        "rate": (3e-4, "the learning rate"),
        "held_out": (800, "tokens that are read afterwards"),
        "written": (9, "texts that the student writes afterwards"),
    },
    seeds=(0, 1),
)


@dataclass(frozen=True)
class Once:
    """Pieces of one step: held-out micro-batches, whose beginnings a student goes on from."""

    batches: Sequence[Batch]

    def step(self, *_: Any, **__: Any) -> list[Batch]:
        """See ``Pieces.step``."""
        return list(self.batches)

    def all(self, *_: Any) -> Iterator[Batch]:
        """See ``Pieces.all``."""
        return iter(self.batches)


def writer(pieces: Any, share: float, student: Model, given: argparse.Namespace, steps: int, name: str) -> StudentText:
    """A sampler bound to the student, with a folder of its own, empty."""
    folder = given.work / name
    shutil.rmtree(folder, ignore_errors=True)
    sampler = student_text(pieces, [], share=share, every=4, prompt_tokens=32, new_tokens=48)
    sampler.bind(student, folder, steps=steps, world=1)
    return sampler


def measure(cell: str, seed: int, material: Material, given: argparse.Namespace) -> Row:
    """Train one student, then let it read held-out text, and write."""
    teacher, how = material.teacher, CELLS[cell]
    section = recipe.Trainer(
        steps=given.steps, tokens_per_step=given.tokens, micro_tokens=given.tokens, learning_rate=given.rate, seed=seed
    )
    objective = recipe.Objective.model_validate({"alpha": 1.0, "temperature": 1.0} | how.get("objective", {}))
    student, ranks = drop_layers(teacher.model, list, keep=LAYERS), start("cpu")
    learner = Learner(student, objective, given.steps, shape=Shape.of(teacher.model))
    parameters = dict(learner.named_parameters())
    optimiser = make_optimiser(parameters, section)
    pieces = writer(material.corpus.train, how.get("share", 0.0), student, given, given.steps, "training")
    began, positions = time.process_time(), 0
    for step in range(given.steps):
        batches = pieces.step(step, tokens_per_step=given.tokens, micro_tokens=given.tokens, seed=seed)
        positions += sum(len(batch.labels_N) for batch in batches)
        take_step(learner, teacher, batches, parameters, optimiser, step, section, ranks)
    seconds = time.process_time() - began
    found = held_out(student, teacher, material.corpus, given) | {"learned_from": positions, "cpu_seconds": seconds}
    return found | on_its_own(student, teacher, material, given, seed)


@torch.no_grad()
def on_its_own(
    student: Model, teacher: Teacher, material: Material, given: argparse.Namespace, seed: int
) -> dict[str, float]:
    """Means over the positions of what it writes after beginnings of held-out documents: how far from the teacher it is there."""
    student.eval()
    whole = [batch for batch, _ in material.corpus.validation.all(given.tokens, 8 * given.tokens)]
    wrote = writer(Once(whole), 1.0, student, given, 1, "writing")
    sums, positions, texts = dict.fromkeys(("own_reverse_kl", "own_kl", "own_teacher_nll"), 0.0), 0, 0
    for batch in wrote.step(0, tokens_per_step=given.tokens, micro_tokens=given.tokens, seed=seed):
        if batch.truth_N is None or texts >= given.written:
            continue
        hidden_NH, signal = student(batch)[0], teacher.signal(batch)
        log_q_NV = torch.log_softmax(student.head.logits(hidden_NH), -1)
        log_p_NV = torch.log_softmax(signal.rows(0, len(batch.labels_N)).logits_NV, -1)
        sums["own_reverse_kl"] += float((log_q_NV.exp() * (log_q_NV - log_p_NV)).sum())
        sums["own_kl"] += float((log_p_NV.exp() * (log_p_NV - log_q_NV)).sum())
        sums["own_teacher_nll"] -= float(log_p_NV.gather(-1, batch.labels_N[:, None]).sum())
        positions += len(batch.labels_N)
        texts += len(batch.borders_D1) - 1
    found = {name: value / positions for name, value in sums.items()}
    return found | {"own_positions": positions, "own_repeated": wrote.facts()["own_repeated"]}


def tell(rows: list[Row]) -> None:
    """As Markdown, a row a cell, over its seeds."""
    names = {
        "kl": ("KL(teacher ‖ student) on given text, nats", 2),
        "own_reverse_kl": ("KL(student ‖ teacher) on its own text, nats", 2),
        "own_teacher_nll": ("the teacher's loss on what it wrote, nats", 2),
        "own_repeated": ("repeated", 3),
        "learned_from": ("positions learned from", 0),
        "cpu_seconds": ("CPU seconds", 0),
    }
    print("| training | " + " | ".join(title for title, _ in names.values()) + " |")
    print("| --- |" + " --: |" * len(names))
    for cell in CELLS:
        of = [row for row in rows if row["cell"] == cell]
        if of:
            interval = ("kl", "own_reverse_kl", "own_teacher_nll")
            values = [
                over_seeds([row[name] for row in of], digits)
                if name in interval
                else f"{np.mean([row[name] for row in of]):,.{digits}f}"
                for name, (_, digits) in names.items()
            ]
            print(f"| {cell} | " + " | ".join(values) + " |")


if __name__ == "__main__":
    BENCHMARK.main(prepare, measure, tell)
