"""Evaluate: how good the student is, what it kept and what it lost.

``collect`` runs the models and fills the item table; ``judge`` answers every question from that table alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from stillhouse import machine, recipe
from stillhouse.evaluate import gates, records
from stillhouse.files import read_json, write_json
from stillhouse.find import check_options, find
from stillhouse.models import Model
from stillhouse.progress import bar

if TYPE_CHECKING:
    from stillhouse.evaluate.score import Speaks


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
    facts["teacher"]["name"] = teacher.name
    if not teacher.forms:
        del writers["teacher"]
    speaks = None if teacher.alone else teacher.own.signal
    written = []
    if not any(model.classifies for model in writers.values()):
        with bar(console, "Writing samples", len(section.prompts) * len(writers), "texts") as tick:
            written = samples(section.prompts, writers, section.new_tokens, end, tick, speaks)
    write_json(folder / "samples.json", written)
    write_json(folder / "evaluation" / "models.json", facts)


def judge(folder: Path, settings: recipe.Recipe, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Ask the measures of the stored table, combine their answers, write evaluation.json and return what it holds.

    Raises:
        RunError: there is no item table, or it is damaged.
        RecipeError: no such measure, or options it does not take.

    """
    items = records.read(folder / "evaluation" / "items.parquet")
    findings = []
    measures = settings.evaluate.measures
    if settings.data.classes and measures == recipe.Evaluate().measures:
        measures = (recipe.Strategy(name="accuracy"), *measures[1:])
    if settings.evaluate.direct and "route" not in [each.name for each in measures]:
        measures = (*measures, recipe.Strategy(name="route"))
    for index, strategy in enumerate(measures):
        where = f"evaluate.measures.{index}"
        measure = find("measure", strategy.name, where)
        findings.append(measure(items, **check_options(measure, _options(measure, strategy, settings.evaluate), where)))
    overall = gates.combine(findings)
    evaluation = {
        "schema": 1,
        "run": folder.name,
        "recipe_fingerprint": settings.fingerprint(),
        "verdict": overall.verdict,
        "sentence": overall.sentence,
        "findings": [finding.to_dict() for finding in findings],
        "models": read_json(folder / "evaluation" / "models.json", {}),
        "counts": {
            "documents": items.documents,
            "tokens": items.size,
            "bytes": None if items.bytes is None else int(items.bytes.sum()),
        },
        "environment": machine.describe(),
        "seconds": dict(seconds),
    }
    write_json(folder / "evaluation.json", evaluation)
    return evaluation


def _options(measure: Callable[..., Any], strategy: recipe.Strategy, section: recipe.Evaluate) -> dict[str, Any]:
    """A measure's options: the section's retention and seed where it takes them and the recipe gives no others."""
    common = {"retention": section.retention, "seed": section.seed}
    takes = inspect.signature(measure).parameters
    return {name: value for name, value in common.items() if name in takes} | strategy.options
