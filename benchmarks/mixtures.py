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
from typing import Any

import numpy as np
import small
from cells import DOCS, Benchmark, Row, over_seeds, put, standing

from stillhouse import recipe
from stillhouse.evaluate import statistics
from stillhouse.files import write_text
from stillhouse.report import charts

TASKS = ("translation", "summaries", "answers", "sentiment", "instructions")
SHORT = "{{ %s[:200] }}"  # of a long field
SOURCES: tuple[tuple[str, str, str, str], ...] = (
    ("tanaka_en_ja", "translation", "English: {{ en }}\nJapanese:", " {{ ja | replace(' ', '') }}"),
    ("scitldr", "summaries", SHORT % "text" + "\nIn one sentence:", " {{ summary }}"),
    ("medquad", "answers", "Question: {{ question }}\nAnswer:", " " + SHORT % "answer"),
    (
        "boolq",
        "answers",
        SHORT % "passage" + "\nQuestion: {{ question }}\nAnswer:",
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
    "adaptive": {"mixture": {"name": "adaptive", "every": 10}},
    **{f"only {task}": {"only": task} for task in TASKS},
    "hard_first": {**BALANCED, "sampler": "hard_first"},
    "curriculum": {**BALANCED, "sampler": "curriculum"},
    "focused": {**BALANCED, "sampler": {"name": "focused", "keep": 0.5}},
    "dynamic": {**BALANCED, "sampler": {"name": "dynamic", "every": 10}},
}

BENCHMARK = Benchmark(
    "mixtures",
    __doc__ or "",
    CELLS,
    {**small.NUMBERS, "documents": (1000, "that are read of all sources in turn")},
    seeds=(0, 1, 2),
)


def section_of(given: argparse.Namespace) -> dict[str, Any]:
    """The recipe's data, without mixture and samplers."""
    sources = [
        {
            "name": "jsonl",
            "path": f"{given.data}/{folder}/train.jsonl*",
            "task": task,
            "format": {"name": "template", "prompt": prompt, "response": response},
        }
        for folder, task, prompt, response in SOURCES
    ]
    return {
        "sources": sources,
        "tasks": {"sentiment": {"weight": 8}},
        "validation": 0.3,
        "max_documents": given.documents,
    }


def prepare(given: argparse.Namespace) -> small.Material:
    """The student, and what the teacher says of all text."""
    section = section_of(given)
    small.make_student(
        given, recipe.Data.model_validate({"long_prompts": "drop", "end_token": small.END, "block": 192, **section})
    )
    return small.prepare(given, section)


def measure(cell: str, seed: int, material: small.Material, given: argparse.Namespace) -> Row:
    """Train one student, then let it read held-out text."""
    if cell == "before":
        return {"cpu_seconds": 0.0, **small.held_out(material.first, material.held, TASKS)}
    changes = dict(CELLS[cell])
    only = changes.pop("only", None)
    if only is not None:  # of the same text: the shares of the others are next to nothing
        shares = {task: 1.0 if task == only else 1e-9 for task in TASKS}
        changes["mixture"] = {"name": "fixed", "shares": shares}
    settings = small.recipe_of(given, f"{cell}-{seed}", section_of(given) | changes, {}, seed)
    student, took = small.taught(settings, material, material.corpus, given.work / "first")
    return took | small.held_out(student, material.held, TASKS)


def tell(rows: list[Row]) -> None:
    """Points and divergence of every task, and what a mixture costs each task, as Markdown in docs/mixtures.md; a picture of it."""
    of = {(row["cell"], row["seed"]): row["tasks"] for row in rows}
    lines = []
    for name, scale, digits, title in (
        ("right", 100.0, 1, "answers' tokens said first, %"),
        ("kl", 1.0, 2, "KL to the teacher, nats"),
    ):
        lines += [f"| {title} | seeds | {' | '.join(TASKS)} | mean |", f"| --- | --: |{' --: |' * 6}"]
        for cell in CELLS:
            mine = [tasks for (c, _), tasks in of.items() if c == cell]
            if not mine:
                continue
            of_task = [[scale * tasks[task][name] for tasks in mine] for task in TASKS]
            means = [sum(column) / len(TASKS) for column in zip(*of_task, strict=True)]
            said = " | ".join(over_seeds(values, digits) for values in (*of_task, means))
            lines.append(f"| {cell} | {len(mine)} | {said} |")
        if name == "right" and rows:
            theirs = [100.0 * rows[0]["tasks"][task]["teacher"] for task in TASKS]
            said = " | ".join(f"{value:.1f}" for value in (*theirs, sum(theirs) / len(theirs)))
            lines.append(f"| *teacher* | | {said} |")
        lines.append("")
    lines += [f"| points above the single-task student | {' | '.join(TASKS)} |", f"| --- |{' --: |' * 5}"]
    series: list[list[charts.Series]] = [[] for _ in TASKS]
    for cell in CELLS:
        if cell == "before" or cell.startswith("only "):
            continue
        told = []
        for number, task in enumerate(TASKS):
            single = {seed: tasks[task]["right"] for (c, seed), tasks in of.items() if c == f"only {task}"}
            mine = {seed: tasks[task]["right"] for (c, seed), tasks in of.items() if c == cell and seed in single}
            values = np.array([100.0 * (right - single[seed]) for seed, right in mine.items()])
            told.append(over_seeds(values.tolist(), 1) if len(values) else "–")
            if len(values) > 1:
                found = statistics.mean(values, np.arange(len(values)))
                point = charts.Point(f"{task}, {cell}", found.value, found.low, found.high)
                series[number].append(charts.Series(f"{task}, {cell}", (point,), "student"))
        lines.append(f"| {cell} | {' | '.join(told)} |")
    print("\n".join(lines))
    if any(series):
        title = "Answers' tokens said first: points above the single-task student of the same budget"
        marks = (charts.Mark(0.0, "single-task"), charts.Mark(-5.0, "5 points below"))
        chart = charts.Chart(
            "forest", title, "", "points, paired by seed", tuple(each for of_task in series for each in of_task), marks
        )
        write_text(DOCS / "images" / "mixtures.svg", standing(str(charts.forest(chart, "mixtures", charts.WIDE))))
        lines = ["![Each mixture and sampler against single-task students](images/mixtures.svg)", "", *lines]
    if rows:
        put(DOCS / "mixtures.md", "mixtures", "\n".join(lines))


if __name__ == "__main__":
    BENCHMARK.main(prepare, measure, tell)
