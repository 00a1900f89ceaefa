"""Does text that the teacher wrote teach better than text that people wrote? Real alone, written alone, both: the same budget.

    python benchmarks/mixtures.py --data FOLDER --only before    makes the student that all cells begin with
    python benchmarks/written_text.py --data FOLDER              every cell, one after another, resumable
    python benchmarks/written_text.py --table                    the table of what was measured so far

FOLDER holds medquad (questions with people's answers) and wiki_passages. The real text are questions with their answers; the written
text are the same questions with the teacher's answers, written once, both of 160 characters at most. Teacher and student are those of
small.py; same steps, learning rate and objective: α as the recipe's `moderate`, or labels alone (α = 0), which is what a black box
allows. A seed decides in which order text comes. Afterwards each student reads questions that nobody was taught, with people's
answers and with the teacher's.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import small
from cells import DOCS, Benchmark, Row, over_seeds, put

from stillhouse.data.reading import decoded
from stillhouse.data.sources.written import written
from stillhouse.files import write_text
from stillhouse.find import check_options
from stillhouse.teacher.sources.store import weights

TASKS = ("real", "written")
CELLS: dict[str, dict[str, Any]] = {"before": {}} | {
    f"{name}{said}": {"shares": shares, "alpha": alpha}
    for said, alpha in (("", "moderate"), (", labels alone", 0.0))
    for name, shares in (("real", (1.0, 1e-9)), ("written", (1e-9, 1.0)), ("both", (1.0, 1.0)))
}
BENCHMARK = Benchmark(
    "written_text",
    __doc__ or "",
    CELLS,
    {
        **small.NUMBERS,
        "questions": (120, "to learn from, of each kind of answer"),
        "new_tokens": (40, "that the teacher writes of an answer, at most"),
    },
    seeds=(0, 1, 2),
)
MEASURES = (
    ("real", "nll", "loss on people's answers, nats"),
    ("real", "kl", "KL on people's answers, nats"),
    ("written", "kl", "KL on the teacher's answers, nats"),
    ("written", "agree", "top-1 agreement on the teacher's answers"),
)
LONGEST = 160
"""Characters of an answer."""


def section_of(given: argparse.Namespace) -> dict[str, Any]:
    """The recipe's data: both kinds of answers to the same questions; held-out questions are other questions."""
    form = {"name": "prompt_response", "template": "chat", "prompt": "prompt", "response": "response"}

    def sources(side: str) -> list[dict[str, Any]]:
        return [
            {"name": "jsonl", "path": str(given.work / f"{side}-{task}.jsonl"), "task": task, "format": form}
            for task in TASKS
        ]

    return {"sources": sources("train"), "validation_sources": sources("held")}


def write(given: argparse.Namespace) -> None:
    """Put both kinds of answers into files, the teacher's after it has written them."""
    if all((given.work / f"{side}-{task}.jsonl").is_file() for side in ("train", "held") for task in TASKS):
        return
    given.work.mkdir(parents=True, exist_ok=True)
    path = next(given.data.glob("medquad/train.jsonl*"))
    rows = [json.loads(line) for line in "".join(decoded(path)).splitlines()]
    rows = rows[:: max(1, len(rows) // (given.questions * 4 // 3))]  # the file is ordered by topic
    sides = {"train": rows[: given.questions], "held": rows[given.questions :]}
    teacher = weights(small.TEACHER)
    for side, mine in sides.items():
        asked = given.work / f"{side}-questions.txt"
        write_text(asked, "".join(" ".join(row["question"].split()) + "\n" for row in mine))
        real = [{"prompt": row["question"], "response": row["answer"][:LONGEST]} for row in mine]
        place = {"prompts": str(asked), "path": str(given.work / f"{side}-rows")}
        wanted = {**place, "new_tokens": given.new_tokens, "together": 24, "dtype": "float32"}
        answers = written(teacher, **check_options(written, wanted, "written"))
        said = [{"prompt": row["prompt"], "response": row["response"][:LONGEST]} for row in answers]
        for task, found in (("real", real), ("written", said)):
            write_text(given.work / f"{side}-{task}.jsonl", "".join(json.dumps(row) + "\n" for row in found))


def prepare(given: argparse.Namespace) -> small.Material:
    """Let the teacher answer, and say what it thinks of both kinds of answers."""
    write(given)
    return small.prepare(given, section_of(given))


def measure(cell: str, seed: int, material: small.Material, given: argparse.Namespace) -> Row:
    """Train one student, then let it read held-out answers of both kinds."""
    if cell == "before":
        return {"cpu_seconds": 0.0, **small.held_out(material.first, material.held, TASKS)}
    shares = dict(zip(TASKS, CELLS[cell]["shares"], strict=True))
    section = section_of(given) | {"mixture": {"name": "fixed", "shares": shares}}
    objective = {"alpha": CELLS[cell]["alpha"], "temperature": 1.0}
    settings = small.recipe_of(given, f"{cell}-{seed}", section, objective, seed)
    student, took = small.taught(settings, material, material.corpus, given.work / "first")
    return took | small.held_out(student, material.held, TASKS)


def tell(rows: list[Row]) -> None:
    """As Markdown, in docs/synthesize.md: means over the seeds, with their interval where there are several."""
    lines = [f"| learned from | seeds | {' | '.join(about for _, _, about in MEASURES)} |"]
    lines.append(f"| --- | --: | {'--: | ' * len(MEASURES)}")
    for cell in CELLS:
        if mine := [row["tasks"] for row in rows if row["cell"] == cell]:
            found = [over_seeds([tasks[task][name] for tasks in mine], 3) for task, name, _ in MEASURES]
            lines.append(f"| {cell} | {len(mine)} | {' | '.join(found)} |")
    print("\n".join(lines))
    if rows:
        put(DOCS / "synthesize.md", "written_text", "\n".join(lines))


if __name__ == "__main__":
    BENCHMARK.main(prepare, measure, tell)
