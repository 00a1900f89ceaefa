"""Whether a round is kept: its gates on the part that confirms, what it bought, and what it cost elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stillhouse import recipe
from stillhouse.evaluate import ask, gates_of, statistics
from stillhouse.files import read_json
from stillhouse.refinement import capacity, guard
from stillhouse.refinement.draft import Weak, worked_on
from stillhouse.refinement.history import History
from stillhouse.refinement.weakness import of_slice, slices_in, tables_in

MOST_SLICES = 40
"""Slices of which a round's numbers are kept, the weakest first."""


def judged(history: History, own: recipe.Recipe, entry: dict[str, Any]) -> None:
    """Judge a round on the part that confirms, against the best one before it, and take its student or leave it."""
    tables = tables_in(own.folder, own, ("confirm",))
    asked = gates_of(own, own.evaluate, bool(tables["answers"].tasks))
    findings, overall = ask(tables, own.evaluate, asked)
    required = {gate.name.rpartition(":")[2]: gate.required for gate in asked}
    slices = slices_in(tables, own.evaluate, _smallest(history))
    entry["gates"] = [
        {"name": f.name, "verdict": f.verdict, "sentence": f.sentence, "required": required.get(f.name, True)}
        for f in findings
        if f.verdict != "DESCRIPTIVE"
    ]
    entry["slices"] = [
        {"name": s.name, "n": s.size, **{k: round(getattr(s.kept, k), 6) for k in ("value", "low", "high")}}
        for s in sorted(slices, key=lambda s: (bool(s.tag), s.shrunk))
        if s.kept.high - s.kept.low < float("inf")
    ][:MOST_SLICES]
    entry["tokens"] = own.trainer.steps * own.trainer.tokens_per_step
    entry["hours"] = round(sum(read_json(own.folder / "seconds.json", {}).values()) / 3600, 4)
    entry["accepted"], entry["guard"], entry["bought"], entry["worst"] = True, [], [], None
    if entry["number"]:
        _compare(history, own, entry, tables, findings)
    entry["verdict"], entry["sentence"] = overall.verdict, overall.sentence
    if entry["accepted"]:
        history.state["best"] = entry["number"]


def _compare(
    history: History, own: recipe.Recipe, entry: dict[str, Any], tables: dict[str, Any], findings: list[Any]
) -> None:
    """What a round bought and what it cost, paired with the student it started from."""
    folder = history.round_folder(history.best["number"])
    before = recipe.load(folder / "recipe.yaml")
    old = tables_in(folder, before, ("confirm",))
    weak = worked_on([entry])
    margin = history.state["of"]["refine"]["margin"]
    slices = slices_in(old, before.evaluate, _smallest(history))
    found, _ = ask(old, before.evaluate, gates_of(before, before.evaluate, bool(old["answers"].tasks)))
    kept = guard.guard(old, tables, (found, findings), slices, weak, margin)
    entry["guard"] = [each.to_dict() for each in kept]
    entry["bought"] = guard.bought(old, tables, weak)
    entry["worst"] = _gain_of_worst(folder, before, own, weak[0])
    better = sum(each["value"] for each in entry["bought"][1:] or entry["bought"]) > 0
    holding = [sum(gate["verdict"] == "PASS" for gate in each["gates"]) for each in (entry, history.best)]
    broken = [each.name for each in kept if not each.held]
    entry["accepted"] = not broken and (better or holding[0] > holding[1])
    if broken:
        entry["said"] = f"rolled back: not shown to cost less than {margin:.0%} of {', '.join(broken)}"
    elif not entry["accepted"]:
        entry["said"] = "not kept: it bought nothing"
    else:
        entry["said"] = "kept"


def _gain_of_worst(folder: Path, before: recipe.Recipe, own: recipe.Recipe, worst: Weak) -> dict[str, Any]:
    """What was gained of the slice worked on first, on all that rounds may look at."""
    one, other = (tables_in(f, r, ("discover", "confirm")) for f, r in ((folder, before), (own.folder, own)))
    changed_N, size_N = guard.changes(one["items"], other["items"])
    rows_N = of_slice(one["items"], one["tags"], worst)
    change = statistics.ratio(changed_N[rows_N], size_N[rows_N], one["items"].document[rows_N])
    return {"name": worst.name, **capacity.gain(change)}


def _smallest(history: History) -> int:
    return int(history.state["of"]["refine"]["smallest"])
