"""Retention against compression, of classifiers and of the language model: trains what is missing, collects, writes the tables.

    python benchmarks/retention/run.py --data ../shared/data                                everything, in the order below
    python benchmarks/retention/run.py --data … --task sst2 clinc150 --size 10x --seeds 3   a part of it
    python benchmarks/retention/run.py --data … --task books --size 10x --budget 0.1 0.3 1   the language model, with less of the steps
    python benchmarks/retention/run.py --collect                                            only rows and tables of what is done

Of each task the encoder is adapted once and what it says of all texts is stored once; each student then learns from that. A
student comes straight from the adapted teacher, with a control of the same size, start and tokens that learns from the labels
alone; and by way of larger ones, with as many tokens in all. Killed at any moment, the same command goes on: a run continues
at its last checkpoint, a finished one is not touched. Rows go to benchmarks/results/retention.jsonl, the table between the
marks of docs/retention.md, with the picture of budget against retention. The test files are read once a run, at its end; everything that was chosen was chosen on the
validation files (--dev trains with those in the place of the test, in folders of its own, and writes no rows).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import yaml
from collect import collect, write_table
from rich.console import Console

import stillhouse
from recipes import FOLDER, RUNS, SIZES, TASKS, TEXTS
from stillhouse import recipe
from stillhouse.errors import StillhouseError
from stillhouse.evaluate.questions import DATA
from stillhouse.label import label
from stillhouse.run import share_text

WAYS = ["direct", "stages", "phases"]
"""The last one only if it is asked for: the teacher runs along, which takes ten times as long."""


@dataclass(frozen=True)
class Job:
    """One run of a recipe.

    Args:
        name: of the recipe's file.
        seed: of the training; the data's stays.
        budget: the share of the recipe's steps that is taken, of each stage.

    """

    name: str
    seed: int = 0
    budget: float = 1.0

    @property
    def folder(self) -> str:
        """Where it lies among the runs."""
        seed = f"-seed{self.seed}" if self.seed else ""
        return self.name + seed + (f"-budget{self.budget:g}" if self.budget != 1.0 else "")


def jobs(tasks: list[str], sizes: list[str], seeds: int, ways: list[str], budgets: list[float]) -> Iterator[Job]:
    """What is to be run, in order: one seed of everything before the next, a task's teacher before its students."""
    for seed in range(seeds):
        for task in tasks:
            if seed == 0 and task in TASKS:
                yield Job(f"{task}-teacher")
            for size in sizes:
                for budget in budgets:
                    if "direct" in ways:
                        yield Job(f"{task}-{size}", seed, budget)
                    for way in ("stages", "phases"):
                        if way in ways and (FOLDER / f"{task}-{size}-{way}.yaml").is_file():
                            yield Job(f"{task}-{size}-{way}", seed, budget)


def load(job: Job, data: Path, runs: Path, *, dev: bool = False, overrides: list[str] | None = None) -> recipe.Recipe:
    """A recipe with its paths where things are."""
    content: dict[str, Any] = yaml.safe_load((FOLDER / f"{job.name}.yaml").read_text(encoding="utf-8"))
    _place(content, data, runs)
    content["run"] = str(runs / job.folder)
    content["trainer"]["seed"] = job.seed
    for part in (content, *content.get("stages", ())):
        part["trainer"]["steps"] = max(1, round(part["trainer"]["steps"] * job.budget))
    if dev:
        content["data"].pop("test_sources")
        content["run"] += "-dev"
    return stillhouse.parse(content, overrides or [])


def _place(content: Any, data: Path, runs: Path) -> None:
    """Put the folders of data and runs in front of the paths that begin with them, in place."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(items):
        if isinstance(value, str) and value.startswith("data/"):
            content[key] = str(data / value.removeprefix("data/"))
        elif isinstance(value, str) and value.startswith(f"{RUNS}/"):
            content[key] = str(runs / value.removeprefix(f"{RUNS}/"))
        else:
            _place(value, data, runs)


def store_of(settings: recipe.Recipe, console: Console) -> None:
    """Store what the adapted teacher says of a recipe's texts, if that was not done yet."""
    if settings.teacher.name == "store":
        # a corpus beside the store, which all students of the task share: of texts with classes in the teacher's tokens
        first = settings.stage(0) if settings.stages else settings
        own: dict[str, Any] = {"run": settings.teacher.options["path"] + "-text"}
        own |= {"stages": (), "student": "same"} if settings.data.classes else {}
        label(stillhouse.parse(first.to_dict() | own), console=console)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with sst2/train.jsonl …")
    parser.add_argument("--runs", type=Path, default=Path(RUNS), help="folder of the runs")
    parser.add_argument("--task", nargs="+", choices=[*TASKS, *TEXTS], default=[*TASKS, *TEXTS])
    parser.add_argument("--size", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--way", nargs="+", choices=WAYS, default=WAYS[:2])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", nargs="+", type=float, default=[1.0], help="shares of the recipes' steps")
    parser.add_argument("--dev", action="store_true", help="evaluate on the validation files, to choose by")
    parser.add_argument("--without-control", action="store_true", help="students first: the controls another time")
    parser.add_argument("--collect", action="store_true", help="train nothing")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="override a recipe, with --dev")
    given = parser.parse_args()
    if given.set and not given.dev:
        parser.error("--set is for --dev: the table is of the recipes as they are")
    os.environ.setdefault(DATA, str(given.data))  # where BLiMP is looked for
    console = Console()
    if not given.collect:
        for job in jobs(given.task, given.size, given.seeds, given.way, given.budget):
            console.rule(job.folder)
            later = ["evaluate.control=false"] if given.without_control else []
            settings = load(job, given.data, given.runs, dev=given.dev, overrides=[*given.set, *later])
            began = time.monotonic()
            try:
                store_of(settings, console)
                first = load(replace(job, seed=0), given.data, given.runs, dev=given.dev)
                if job.seed and not settings.stages and (first.folder / "data").is_dir():
                    share_text(first, settings)  # the seed is of the training alone
                stillhouse.run(settings, console=console)
            except StillhouseError as error:
                console.print(str(error), markup=False)
                sys.exit(2)
            console.print(f"{job.folder}: {time.monotonic() - began:,.0f} s in this sitting")
            if not given.dev:
                collect(given.runs)
                write_table()
    if not given.dev:
        collect(given.runs)
        write_table()


if __name__ == "__main__":
    main()
