"""What a round will change, and its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stillhouse import recipe
from stillhouse.files import atomic_folder, write_text
from stillhouse.find import check_options, find
from stillhouse.refinement.defaults import actions_for
from stillhouse.refinement.draft import Case, Draft, recipe_of
from stillhouse.refinement.history import History
from stillhouse.refinement.texts import Texts
from stillhouse.refinement.weakness import found_in, lost_keys, slices_in, tables_in, weakest

LOOKED_AT = {"part": "open", "control": False, "direct": False}
"""How rounds are evaluated: without what is sealed, and without a control, which would double what they cost."""


def planned(history: History, settings: recipe.Recipe, texts: Texts, number: int) -> dict[str, Any]:
    """What a round will change, and its recipe in its folder; frozen before anything of it runs."""
    folder = history.round_folder(number)
    entry: dict[str, Any] = {"number": number, "weak": [], "changes": [], "tried": [], "draft": Draft().to_dict(), "verdict": None}  # fmt: skip
    if number == 0:
        write_text(folder / "recipe.yaml", first_round(settings, folder).to_yaml())
        return entry
    best = history.round_folder(history.best["number"])
    before = recipe.load(best / "recipe.yaml")
    seen = tables_in(best, before, ("discover",))
    section = settings.refine or recipe.Refine()
    known = slices_in(seen, settings.evaluate, section.smallest) + found_in(seen, settings.evaluate)
    weak = weakest(known, settings.evaluate, section)
    open_gates = [gate["name"] for gate in history.best["gates"] if gate["required"] and gate["verdict"] != "PASS"]
    lost = texts.words_of(lost_keys(seen, weak))
    writes = not settings.data.classes and settings.teacher.name != "store"
    with atomic_folder(folder / "rows") as building:
        case = Case(settings, weak, frozenset(open_gates), lost, texts.learned, texts.pool, writes, building, number)
        draft = Draft.of(history.best["draft"])
        for action in section.actions or [recipe.Strategy(name=name) for name in actions_for(open_gates)]:
            function = find("action", action.name, "refine.actions")
            changed, said = function(draft, case, **check_options(function, action.options, "refine.actions"))
            kind = "tried" if changed is draft else "changes"
            entry[kind].append(f"{action.name}: {said}")
            draft = changed
        content = recipe_of(draft, settings, texts.learned, folder, building)
    content = _moved(content, building, folder / "rows")
    entry["draft"] = _moved(draft.to_dict(), building, folder / "rows")
    entry["weak"] = [{"tag": w.tag, "value": w.value, "name": w.name, "gap": w.gap, "priority": w.priority} for w in weak]  # fmt: skip
    entry["predicted"] = round(sum(one.priority for one in weak), 6)
    failures = number - 1 - history.best["number"]
    if failures and entry["changes"]:
        content["trainer"]["learning_rate"] *= 0.5**failures
        entry["changes"].append(f"learning rate divided by {2**failures}: what was tried before cost too much or bought nothing")  # fmt: skip
    write_text(folder / "recipe.yaml", later_round(content, settings, best, history, number).to_yaml())
    return entry


def first_round(settings: recipe.Recipe, folder: Path) -> recipe.Recipe:
    """The recipe itself, evaluated on what rounds may look at."""
    content = settings.to_dict()
    content |= {"run": str(folder), "export": {}, "deploy": {}, "refine": None, "name": f"{settings.name}-0"}
    content["evaluate"] |= LOOKED_AT
    return recipe.parse(content)


def later_round(
    content: dict[str, Any], settings: recipe.Recipe, best: Path, history: History, number: int
) -> recipe.Recipe:
    """A round that goes on from the best student, taught by whom it is compared with."""
    first = recipe.load(history.round_folder(0) / "recipe.yaml")
    content["name"] = f"{settings.name}-{number}"
    content["teacher"] = first.reference.model_dump(mode="json")
    content["student"] = {"name": "same", "start": str(best / "student")}
    content["trainer"]["seed"] = settings.trainer.seed + number
    content["evaluate"] |= {**LOOKED_AT, "reference": "teacher"}
    return recipe.parse(content)


def _moved(value: Any, old: Path, new: Path) -> Any:
    """Plain values with the paths of files that were renamed."""
    if isinstance(value, dict):
        return {key: _moved(each, old, new) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_moved(each, old, new) for each in value]
    return value.replace(str(old), str(new)) if isinstance(value, str) else value
