"""What each choice of a student is worth, everything else and the budget alike: table and picture of docs/ablations.md.

    python benchmarks/ablations.py --data FOLDER               every cell that is not measured yet, one after another
    python benchmarks/ablations.py --data FOLDER --only base "shape/6 layers × 160" --seeds 0 1 2
    python benchmarks/ablations.py --table                     table and picture from what is there

A cell is a run of ``stillhouse run`` from one recipe with one change: recipes/retention/sst2-10x.yaml (MiniLM-L6, adapted to SST-2,
teaching students with a tenth of its parameters) without its additional text and with fewer steps. All read the same texts in the
same order and as many tokens, over all stages. What is asked is SST-2's validation file: its test file is for the table of retention.
FOLDER holds the folder sst2. The adapted teacher, and what it says of all texts, are those of benchmarks/retention: made first if
they are not there (about half an hour).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.append(str(Path(__file__).parent / "retention"))

import numpy as np
from cells import DOCS, Benchmark, Row, put, standing
from rich.console import Console
from run import Job, load, store_of

import stillhouse
from stillhouse.evaluate import records, statistics
from stillhouse.files import write_text
from stillhouse.report import charts

TRIM = {"name": "trim_vocabulary", "size": 6000, "characters": "seen"}
DEPTH = {"name": "drop_layers", "keep": 3}
WIDTH = {"name": "shrink_width", "hidden": 192, "intermediate": 384}
FEATURES = {"name": "hidden_mse", "weight": 100.0}


def student(*chain: dict[str, Any]) -> dict[str, Any]:
    """A chain of builders as recipes have it."""
    return {"student": {**chain[0], "then": list(chain[1:])}}


CELLS: dict[str, dict[str, Any]] = {
    "base": {},
    "initialisation/random": student(
        {"name": "random", "layers": 3, "hidden": 192, "heads": 6, "intermediate": 384}, TRIM
    ),
    "initialisation/the first three layers": student(DEPTH | {"keep": [0, 1, 2]}, WIDTH, TRIM),
    "initialisation/layers by block influence": student(DEPTH | {"by": "block_influence"}, WIDTH, TRIM),
    "shape/2 layers × 192, inner 768": student(DEPTH | {"keep": 2}, WIDTH | {"intermediate": 768}, TRIM),
    "shape/6 layers × 160, inner 256": student(WIDTH | {"hidden": 160, "intermediate": 256}, TRIM),
    "shape/balanced, as the teacher’s proportions": student(TRIM, {"name": "balanced", "parameters": 2_180_000}),
    "shape/1 layer × 256, inner 512": student(DEPTH | {"keep": 1}, WIDTH | {"hidden": 256, "intermediate": 512}, TRIM),
    "vocabulary/all 30,522 tokens, 3 × 64": student(DEPTH, WIDTH | {"hidden": 64, "intermediate": 256}),
    "vocabulary/all 30,522 tokens, 3 × as large": student(DEPTH, WIDTH),
    "architecture/BiLSTM, teacher’s embedding": student(
        TRIM, {"name": "recurrent", "layers": 1, "embedding": 256, "state": 240}
    ),
    "features/on, weight 100": {"live": True, "terms": [FEATURES]},
    "features/first, then logits": {
        "live": True,
        "stages": [
            {
                "name": "features",
                "teaches": False,
                "objective": {"alpha": 1.0, "terms": [FEATURES]},
                **student(DEPTH, WIDTH, TRIM),
            }
        ],
        "student": "same",
    },
    "stages/by way of 3 layers × 384": {
        "stages": [
            {
                "name": "assistant",
                **student(DEPTH, {"name": "shrink_width", "intermediate": 768}, TRIM | {"size": 9000}),
            }
        ],
        **student(WIDTH, TRIM),
    },
    "training/dropout 0.1": {"dropout": 0.1},
    "objective/α = 0: no teacher": {"alpha": 0.0},
    **{
        f"objective/α = {alpha:g}, T = {temperature:g}": {"alpha": alpha, "temperature": temperature}
        for alpha in (0.5, 0.9, 1.0)
        for temperature in (1.0, 2.0, 4.0)
        if (alpha, temperature) != (0.9, 2.0)
    },
}
"""Name → what differs from the base: 3 layers × 192 (inner 384) cut from the teacher, 6,000 tokens, α 0.9, T 2, stored probabilities."""

BENCHMARK = Benchmark(
    "ablations",
    __doc__ or "",
    CELLS,
    {"steps": (200, "of all stages of a cell together"), "tokens": (1024, "of a step")},
)


def recipe_of(cell: str, seed: int, given: argparse.Namespace) -> stillhouse.Recipe:
    """The cell's recipe."""
    change = CELLS[cell]
    stages = change.get("stages", [])
    content = load(Job("sst2-10x", seed), given.data, given.work / "retention").to_dict()
    data = content["data"]
    name = re.sub(r"[^a-z0-9.]+", "-", cell.lower().replace("α", "alpha")).strip("-") + f"-seed{seed}"
    content |= {"name": name, "run": str(given.work / name), "stages": stages, "evaluate": {"control": False}}
    content["student"] = change.get("student", content["student"])
    if change.get("live"):  # the store holds no hidden states of layers
        content["teacher"] = {"name": "local", "model": content["teacher"]["model"], "dtype": "float32"}
    data |= {"sources": data["sources"][:1], "augment": [], "test_sources": data["validation_sources"]}
    data |= {"validation_sources": [], "validation": 0.02}  # one is asked for, and nothing is chosen by it
    content["objective"] |= {key: change[key] for key in ("alpha", "temperature", "terms") if key in change}
    content["trainer"] |= {
        "steps": given.steps // (1 + len(stages)), "tokens_per_step": given.tokens, "micro_tokens": given.tokens,
        "validate_every": None, "keep_best": False, "checkpoint_every": 100, "dtype": "float32",
        "dropout": change.get("dropout", 0.0),
    }  # fmt: skip
    content["evaluate"] |= {"tokens": 1_000_000, "measures": ["accuracy", "fidelity"]}
    return stillhouse.parse(content)


def prepare(given: argparse.Namespace) -> None:
    """Adapt the teacher and store what it says, unless that was done."""
    teacher, student = (load(Job(name), given.data, given.work / "retention") for name in ("sst2-teacher", "sst2-10x"))
    if not (teacher.folder / "student" / "config.json").is_file():
        stillhouse.run(teacher, console=Console())
    store_of(student, Console())


def measure(cell: str, seed: int, _: None, given: argparse.Namespace) -> Row:
    """Run a cell and read what its evaluation found, by text."""
    began = time.process_time()
    run = stillhouse.run(recipe_of(cell, seed, given))
    items = records.read(run / "evaluation" / "items.parquet")
    order = np.argsort(items.key)
    row: Row = {"parameters": stillhouse.evaluate(run, judge_only=True)["models"]["student"]["parameters"]}
    for role in ("teacher", "before", "student"):
        correct, kl = items.roles[role].correct, items.roles[role].kl
        row[role] = {"right": "" if correct is None else "".join(str(int(x)) for x in correct[order])}
        row[role]["kl"] = [] if kl is None or role == "teacher" else [round(float(x), 4) for x in kl[order]]
    return row | {"cpu_seconds": time.process_time() - began}


def of_text(rows: list[Row], role: str, what: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Of each text what a role scored, the mean over seeds: right or not (0 to 1), or KL to the teacher in nats."""
    return np.mean([[float(x) for x in row[role][what]] for row in rows], axis=0)


def interval(values: Any, scale: float = 1.0) -> statistics.Interval:
    """The mean over texts, each its own cluster."""
    return statistics.mean(scale * values, np.arange(len(values)))


def shown(found: statistics.Interval, digits: int) -> str:
    """A difference with its interval."""
    return f"{found.value:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"


def table(cells: dict[str, list[Row]]) -> str:
    """As Markdown; what is not measured yet is said to be so."""
    base = cells["base"]
    lines = [
        "| | parameters, M | right before | right, % | points more than the base | KL to the teacher, nats | more than the base | CPU s | seeds |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for cell in CELLS:
        rows = cells.get(cell)
        if not rows:
            lines.append(f"| {cell} | | | not measured yet | | | | | |")
            continue
        same = [row for row in base if row["seed"] in {each["seed"] for each in rows}]
        right, kl = (of_text(rows, "student", what) for what in ("right", "kl"))
        points, nats = "–", "–"
        if cell != "base":
            points = shown(interval(right - of_text(same, "student", "right"), 100.0), 1)
            nats = shown(interval(kl - of_text(same, "student", "kl")), 3)
        seconds = np.mean([row["cpu_seconds"] for row in rows])
        lines.append(
            f"| {cell} | {rows[0]['parameters'] / 1e6:.2f} | {100 * of_text(rows, 'before', 'right').mean():.1f} "
            f"| {100 * right.mean():.1f} | {points} | {kl.mean():.3f} | {nats} | {seconds:.0f} | {len(rows)} |"
        )
    theirs = of_text(base, "teacher", "right")
    settings, machine = base[0]["settings"], base[0]["machine"]
    lines.append(
        f"\nThe teacher is right on {100 * theirs.mean():.1f} % of the {len(theirs)} texts. {settings['steps']:,} steps of "
        f"{settings['tokens']:,} tokens; {machine['cpu']}, one core, shared with other work."
    )
    return "\n".join(lines)


def draw(cells: dict[str, list[Row]]) -> str:
    """Each cell's divergence from the teacher against the base's, with its interval; for light and dark pages."""
    base, series = cells["base"], []
    for cell, rows in cells.items():
        same = [row for row in base if row["seed"] in {each["seed"] for each in rows}]
        if cell != "base" and same:
            found = interval(of_text(rows, "student", "kl") - of_text(same, "student", "kl"))
            point = charts.Point(cell, found.value, found.low, found.high)
            series.append(charts.Series(cell, (point,), "student"))
    title = "KL to the teacher more than the base student’s: left is better"
    chart = charts.Chart("forest", title, "", "nats, paired by text", tuple(series), (charts.Mark(0.0, "base"),))
    return standing(str(charts.forest(chart, "ablations", charts.WIDE)))


def tell(rows: list[Row]) -> None:
    """Put table and picture where the page has them."""
    cells = {cell: [row for row in rows if row["cell"] == cell] for cell in CELLS}
    cells = {cell: found for cell, found in cells.items() if found}
    if "base" in cells:  # what all others are compared with
        put(DOCS / "ablations.md", "ablations", table(cells))
        write_text(DOCS / "images" / "ablations.svg", draw(cells))


if __name__ == "__main__":
    BENCHMARK.main(prepare, measure, tell)
