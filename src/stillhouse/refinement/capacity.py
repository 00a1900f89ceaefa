"""Whether a slice stays weak because the student is too small for it: a probe that learns the slice alone, from its labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from stillhouse import data, models, recipe
from stillhouse.data.tagging import Row
from stillhouse.evaluate import records, statistics
from stillhouse.evaluate.declared import scores
from stillhouse.evaluate.records import Items
from stillhouse.files import read_json
from stillhouse.plan.strategy import expected
from stillhouse.refinement.draft import Weak, write_rows
from stillhouse.refinement.weakness import of_slice, tables_in
from stillhouse.run import collect, load_teacher, run

NOTHING = 0.01
"""A gain that is surely below this, twice, is none: share of texts, or of the teacher's skill."""

FEWEST = 20
"""Texts of the slice that a probe must have to learn from: with fewer it would show nothing of the student."""

ROUNDS = 2
"""So many rounds without a gain ask for the probe."""


def stalled(rounds: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last rounds surely bought next to nothing of the slice that each worked on first."""
    last = [each["worst"] for each in rounds if each["number"] > 0][-ROUNDS:]
    return len(last) == ROUNDS and all(gain["high"] < NOTHING for gain in last)


def probe(
    settings: recipe.Recipe, weak: Weak, learned: Sequence[Row], start: Path, folder: Path, console: Console | None
) -> dict[str, Any]:
    """Train the student on the slice alone, from labels, and say what it would keep of it, held out and of what it learned from.

    Capacity-limited: below what is asked for on both. It keeps enough of what it learned from, and not of the rest: there is too
    little text of the slice. It keeps enough of both: neither; the mixture is what is in the way.

    Args:
        settings: the recipe of the last round.
        weak: the slice.
        learned: rows of the sources.
        start: folder of the student that it starts from.
        folder: of the probe's run.
        console: where to show progress.

    Returns:
        ``diagnosis``, what was kept, and the size estimated to be enough, as plain values; of a slice with next to no text,
        ``data-limited`` and how many texts there are.
    """
    few = sum(weak.holds(row.tags) for row in learned)
    if few < FEWEST:
        return {"slice": weak.name, "diagnosis": "data-limited", "texts": few}
    own = probe_recipe(settings, weak, learned, start, folder)
    run(own, console=console)
    asked = own.evaluate.retention
    tables = tables_in(folder, own, ("discover", "confirm"))
    outside = _kept(tables["items"].taken(of_slice(tables["items"], tables["tags"], weak)))
    inside = _kept(_on_training(own, console))
    sizes = {role: int(model["parameters"]) for role, model in _models(folder).items()}
    learned_it = "data-limited" if inside >= asked else "capacity-limited"
    diagnosis = "mixture-limited" if outside >= asked else learned_it
    found: dict[str, Any] = {
        "slice": weak.name,
        "diagnosis": diagnosis,
        "kept_held_out": round(outside, 4),
        "kept_of_what_it_learned": round(inside, 4),
        "asked": asked,
        "parameters": sizes["student"],
        "enough": None,
        "folder": f"{folder.parent.name}/{folder.name}",
    }
    if diagnosis == "capacity-limited":
        found["enough"] = size_enough(sizes["teacher"], sizes["student"], inside, asked)
    return found


def probe_recipe(
    settings: recipe.Recipe, weak: Weak, learned: Sequence[Row], start: Path, folder: Path
) -> recipe.Recipe:
    """The probe as an ordinary recipe.

    Args:
        settings: of the last round.
        weak: the slice.
        learned: rows of the refined recipe's sources.
        start: folder of the student that it starts from.
        folder: of its run.
    """
    content = settings.to_dict()
    forms = {row.source: settings_form(settings, row.source) for row in learned}
    sources = []
    for number, form in sorted(forms.items()):
        mine = [row.record for row in learned if row.source == number and weak.holds(row.tags)]
        path = folder / "rows" / f"{number}.jsonl"
        if mine:
            if not path.is_file():  # its time is part of what a corpus is known by
                write_rows(path, mine)
            sources.append({"name": "jsonl", "path": str(path), "format": form, "task": ""})
    content["data"] |= {"sources": sources, "tasks": {}, "mixture": {"name": "proportional"}, "sampler": []}
    for group in ("validation_sources", "test_sources"):
        for source in content["data"][group]:
            source["task"] = ""
    content["objective"] |= {"alpha": 0, "hard": {"name": "cross_entropy"}, "terms": []}
    content["student"] = {"name": "same", "start": str(start)}
    content |= {"name": f"{settings.name}-probe", "run": str(folder)}
    return recipe.Recipe.model_validate(content)


def settings_form(settings: recipe.Recipe, number: int) -> dict[str, Any]:
    """The format that rows of a source are read by."""
    sources = settings.data.sources
    return sources[min(number, len(sources) - 1)].format.model_dump(mode="json")


def size_enough(teacher: int, student: int, kept: float, asked: float) -> int | None:
    """Parameters that would keep what is asked for, if retention goes with size as the guide's bands do, through what was kept here.

    The guide's middle as log-odds over the compression, moved so that it passes through this student: an estimate of where to look,
    not a measurement. None if not even a student of the teacher's size would.

    Args:
        teacher: parameters.
        student: parameters.
        kept: by this student, as a share.
        asked: likewise.
    """

    def guide(ratio: float) -> float:
        band = expected(max(1.0, ratio))
        return _log_odds((band.high + (band.low if band.low is not None else band.high - 0.1)) / 2)

    ratio = max(1.0, teacher / student)
    moved = _log_odds(kept) - guide(ratio)
    while ratio > 1.0:
        ratio = max(1.0, ratio * 0.97)
        if guide(ratio) + moved >= _log_odds(asked):
            return round(teacher / ratio)
    return None


def _log_odds(share: float) -> float:
    inside = min(0.999, max(0.001, share))
    return math.log(inside / (1 - inside))


def _kept(items: Items) -> float:
    """Share of the teacher's skill above the floor."""
    (teacher_N, _), (student_N, _), (floor_N, _) = (scores(items, role) for role in ("teacher", "student", "floor"))
    gap = float((teacher_N - floor_N).sum())
    return float((student_N - floor_N).sum()) / gap if gap > 0 else math.nan


def _on_training(settings: recipe.Recipe, console: Console | None) -> Items:
    """The table of what the probe learned from."""
    folder, place = settings.folder, settings.folder / "training"
    path = place / "evaluation" / "items.parquet"
    if not path.is_file():
        master = load_teacher(settings.teacher, console)
        tokenizer = models.load(str(folder / "before"), empty=True).tokenizer
        corpus = data.prepare(settings.data, tokenizer, folder / "data", teacher=master)
        everything = settings.evaluate.model_copy(update={"part": "all", "slices": ()})
        learned = replace(corpus, test=corpus.labelled)
        collect(folder, settings.model_copy(update={"evaluate": everything}), master, learned, console, place)
    return records.read(path)


def _models(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(folder / "evaluation" / "models.json", {})
    return found


def gain(changed: statistics.Interval) -> dict[str, float]:
    """A slice's gain with its one-sided 95 % bounds."""
    low, high = changed.bounds(0.90)
    return {"value": round(changed.value, 6), "low": round(low, 6), "high": round(high, 6)}
