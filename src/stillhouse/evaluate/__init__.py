"""Evaluate: how good the student is, what it kept and what it lost.

``collect`` runs the models and fills the item table; ``judge`` answers every question from that table alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from stillhouse import machine, recipe
from stillhouse.evaluate import answers, gates, records
from stillhouse.evaluate.examples import examples
from stillhouse.evaluate.power import Power, power
from stillhouse.evaluate.questions import name_of
from stillhouse.files import read_json, write_json
from stillhouse.find import check_options, find
from stillhouse.models import Model
from stillhouse.progress import bar

if TYPE_CHECKING:
    from stillhouse.evaluate.score import Speaks

ON_TASKS = (
    "tasks",
    "coverage",
    "flips",
    "collapse",
    "discovered",
    "forgetting",
    "generalisation",
    "bias",
    "reasoning",
    "domains",
    "soundness",
)
"""What is asked of the answers to tasks if the recipe lists no measures; where nothing suits one of them, it holds nothing back."""


def collect(
    folder: Path,
    batches: list[Any],
    counts_V: Any,
    teacher: Speaks,
    loaders: Mapping[str, Callable[[], Model]],
    end: Callable[[Any], int],
    section: recipe.Report,
    console: Console | None = None,
) -> None:
    """Run the models over held-out text and let them write; one item table, one file of samples (empty of classifiers).

    Args:
        folder: the run's.
        batches: held-out micro-batches, each with the UTF-8 bytes of its labels.
        counts_V: how often each outcome was a label in training: the unigram floor.
        teacher: whose distributions all others are compared with.
        loaders: role → what loads its model, of all others.
        end: a tokenizer → the id of the token that ends a text.
        section: the recipe's report, for its prompts.
        console: where to show progress.

    """
    from stillhouse.evaluate.samples import samples
    from stillhouse.evaluate.score import read, score

    positions = sum(len(batch.labels_N) for batch, _ in batches)
    writers = {"teacher": teacher.model}
    with bar(console, "Reading held-out text", positions * (1 + len(loaders)), "tokens") as tick:
        text = read(batches, counts_V, teacher, tick)
        for role, load in loaders.items():
            writers[role] = load()
            text = score(text, role, writers[role], tick)
    records.write(folder / "evaluation" / "items.parquet", text.items)
    facts = {
        role: {"name": model.name, "parameters": model.parameters_count, "bytes": 4 * model.parameters_count}
        for role, model in writers.items()
    }
    facts["teacher"] = {
        "name": teacher.name,
        "parameters": teacher.parameters_count,
        "bytes": 4 * teacher.parameters_count,
    }
    if not teacher.forms:
        del writers["teacher"]
    speaks = None if teacher.alone else teacher.own.signal
    written = []
    if not any(model.classifies for model in writers.values()):
        with bar(console, "Writing samples", len(section.prompts) * len(writers), "texts") as tick:
            written = samples(section.prompts, writers, section.new_tokens, end, tick, speaks)
    write_json(folder / "samples.json", written)
    write_json(folder / "evaluation" / "models.json", facts)


def judge(
    folder: Path, settings: recipe.Recipe, seconds: Mapping[str, float], policy: recipe.Evaluate | None = None
) -> dict[str, Any]:
    """Ask the measures of the stored tables, combine their answers, write evaluation.json and return what it holds.

    Args:
        folder: the run's.
        settings: its recipe.
        seconds: how long each stage took.
        policy: what to judge by instead of the recipe's section ``evaluate``.

    Raises:
        RunError: there is no item table, or it is damaged.
        RecipeError: no such measure, or options it does not take.

    """
    section = policy or settings.evaluate
    tables = tables_of(folder, settings.data.classes)
    if (
        policy is not None and policy.tasks != settings.evaluate.tasks
    ):  # a suite of its own: what else was asked is no part of it
        own = {name_of(task) for task in policy.tasks}
        tables["answers"] = answers.Answers(tuple(task for task in tables["answers"].tasks if task.task in own))
    gated = gates_of(settings, section, bool(tables["answers"].tasks))
    facts = {
        "recipe_fingerprint": settings.fingerprint(),
        "policy": None
        if policy is None
        else policy.model_dump(mode="json", include={"retention", "measures", "tasks", "seed"}),
    }
    return _judged(folder, tables, section, gated, facts, seconds)


def judge_imported(folder: Path, section: recipe.Evaluate, logs: Mapping[str, str]) -> dict[str, Any]:
    """Ask what suits answers of a table that was brought in from another program's logs; write evaluation.json.

    Args:
        folder: where the table lies.
        section: what to judge by; what suits tasks is asked if it lists no measures.
        logs: what was read, to be told in the file.

    Raises:
        RunError: there is no table, or it is damaged.
        RecipeError: no such measure, or options it does not take.

    """
    listed = section.measures != recipe.Evaluate().measures
    gated = section.measures if listed else tuple(recipe.Gate(name=name) for name in ON_TASKS)
    return _judged(folder, tables_of(folder, ()), section, gated, {"imported": dict(logs)}, {})


def plan(folder: Path, settings: recipe.Recipe | None = None) -> list[Power]:
    """What the stored tables of a run, or of imported logs, can decide, gate by gate; no model is loaded.

    Args:
        folder: the run's.
        settings: its recipe; imported logs have none.

    Raises:
        RunError: there is no table, or it is damaged.

    """
    section = recipe.Evaluate() if settings is None else settings.evaluate
    tables = tables_of(folder, () if settings is None else settings.data.classes)
    return power(tables["items"], tables["answers"], retention=section.retention)


def tables_of(folder: Path, classes: Sequence[str]) -> dict[str, Any]:
    """The tables of a run, by the names under which measures take them.

    Args:
        folder: the run's.
        classes: of its data.

    Raises:
        RunError: there is no table, or it is damaged.

    """
    items, asked = folder / "evaluation" / "items.parquet", folder / "evaluation" / "answers.parquet"
    read_text = items.exists() or not asked.exists()
    return {
        "items": records.read(items) if read_text else records.nothing(),
        "classes": classes,
        "answers": answers.read(asked) if asked.exists() else answers.Answers(()),
        "tags": read_json(folder / "evaluation" / "tags.json", {}),
    }


def ask(
    tables: Mapping[str, Any], section: recipe.Evaluate, gated: Sequence[recipe.Gate]
) -> tuple[list[records.Finding], gates.Overall]:
    """Ask measures of tables, and make one verdict of what they find.

    Args:
        tables: as of ``tables_of``.
        section: what to judge by.
        gated: which measures.

    Raises:
        RecipeError: no such measure, or options it does not take.

    """
    findings = []
    for index, gate in enumerate(gated):
        where = f"evaluate.measures.{index}"
        measure = find("measure", gate.name, where)
        options = check_options(measure, _options(measure, gate, section), where)
        findings.append(measure(**_tables(measure, tables), **options))
    unasked = set(ON_TASKS) if section.measures == recipe.Evaluate().measures else set()
    optional = {
        finding.name
        for finding, gate in zip(findings, gated, strict=True)
        if not gate.required or (finding.name in unasked and finding.verdict == "NOT MEASURED")
    }
    return findings, gates.combine(findings, optional)


def _judged(
    folder: Path, tables: Mapping[str, Any], section: recipe.Evaluate, gated: Sequence[recipe.Gate],
    facts: Mapping[str, Any], seconds: Mapping[str, float],
) -> dict[str, Any]:  # fmt: skip
    """Findings and verdict of stored tables, written down."""
    items = tables["items"]
    findings, overall = ask(tables, section, gated)
    evaluation = {
        "schema": 1,
        "run": folder.name,
        **facts,
        "verdict": overall.verdict,
        "sentence": overall.sentence,
        "findings": [finding.to_dict() for finding in findings],
        "power": [row.to_dict() for row in power(items, tables["answers"], retention=section.retention)],
        "models": read_json(folder / "evaluation" / "models.json", {}),
        "counts": {
            "documents": items.documents,
            "tokens": items.size,
            "bytes": None if items.bytes is None else int(items.bytes.sum()),
            "questions": sum(task.size for task in tables["answers"].tasks),
        },
        "environment": machine.describe(),
        "seconds": dict(seconds),
    }
    write_json(folder / "evaluation" / "examples.json", examples(tables["answers"]))
    write_json(folder / "evaluation.json", evaluation)
    return evaluation


def gates_of(settings: recipe.Recipe, section: recipe.Evaluate, asked: bool) -> tuple[recipe.Gate, ...]:
    """What is asked of the tables: what is listed, or what suits the data.

    Args:
        settings: the recipe.
        section: its ``evaluate``, or a policy.
        asked: whether there are answers to tasks.
    """
    measures = section.measures
    if measures == recipe.Evaluate().measures:
        shown = ("selective",) if settings.data.classes else ("selective", "rarity")
        if section.part == "all":
            measures = (*measures, *(recipe.Gate(name=name, required=False) for name in shown))
        if settings.data.classes:
            measures = (recipe.Gate(name="accuracy"), *measures[1:])
        if section.direct:
            measures = (*measures, recipe.Gate(name="route"))
        if section.slices:
            measures = (*measures, recipe.Gate(name="declared"))
        on_tasks = ON_TASKS if asked else ("discovered",)
        measures = (*measures, *(recipe.Gate(name=name) for name in on_tasks))
    if section.part != "all":  # of a refinement, whose rounds train no control
        measures = tuple(gate for gate in measures if gate.name not in ("benefit", "route"))
    return measures


def _tables(measure: Callable[..., Any], tables: Mapping[str, Any]) -> dict[str, Any]:
    """The tables that a measure takes, by the names of its arguments."""
    return {name: table for name, table in tables.items() if name in inspect.signature(measure).parameters}


def _options(measure: Callable[..., Any], gate: recipe.Gate, section: recipe.Evaluate) -> dict[str, Any]:
    """A measure's options: the section's retention and seed where it takes them and the recipe gives no others."""
    common = {"retention": section.retention, "seed": section.seed}
    takes = inspect.signature(measure).parameters
    return {name: value for name, value in common.items() if name in takes} | gate.options
