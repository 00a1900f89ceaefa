"""The end: the best student into the refinement's folder, the seal broken, one verdict, what the rounds bought, what could be served."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import Any, TypeVar

from rich.console import Console

from stillhouse import data, export, models, recipe
from stillhouse.errors import RunError
from stillhouse.evaluate import judge, tables_of
from stillhouse.evaluate.answers import Answered, Answers
from stillhouse.evaluate.examine import fingerprint
from stillhouse.evaluate.questions import tasks_of
from stillhouse.evaluate.records import Items
from stillhouse.files import atomic_folder, write_text
from stillhouse.find import find, options_model
from stillhouse.refinement import guard, router
from stillhouse.refinement.draft import worked_on
from stillhouse.refinement.history import History
from stillhouse.refinement.weakness import slices_in, tables_in
from stillhouse.run import Clock, ask_tasks, collect, load_teacher
from stillhouse.run import held_out as texts_of

Table = TypeVar("Table", Items, Answered)

FRESH = 7919
"""Added to the seed of tasks that draw their questions, so that the sealed ones are questions that no round has seen."""


def finish(history: History, settings: recipe.Recipe, console: Console | None) -> None:
    """Put the best student into the refinement's folder, break the seal, judge it once, and say what it can serve."""
    number = history.best["number"]
    best, folder = history.round_folder(number), history.folder
    own = recipe.load(best / "recipe.yaml")
    student = fingerprint(models.load(str(best / "student")))
    if history.open_sealed(student, number):
        return
    # the student that the rounds began from, so that what they bought and cost shows on texts that chose nothing
    first = history.round_folder(0) / ("student" if number else "before")
    for name, source in (("before", first), ("student", best / "student"), ("data", best / "data")):
        if not (folder / name).exists():
            with atomic_folder(folder / name) as building:
                shutil.copytree(source, building, dirs_exist_ok=True, copy_function=_linked)
    for name in ("metrics.jsonl", "environment.json", "arithmetic.json"):
        if (best / name).is_file():
            write_text(folder / name, (best / name).read_text(encoding="utf-8"))
    content = own.to_dict() | {"name": settings.name, "run": str(folder), "stages": []}
    content |= {name: getattr(settings, name).model_dump(mode="json") for name in ("export", "deploy")}
    content["teacher"] = own.reference.model_dump(mode="json")
    tasks = [_fresh(task) for task in own.evaluate.tasks]
    content["evaluate"] |= {"part": "sealed", "tasks": tasks, "reference": "teacher"}
    final = recipe.parse(content)
    write_text(folder / "recipe.yaml", final.to_yaml())
    clock = Clock(folder, write=True)
    with clock("evaluate"):
        master = load_teacher(final.reference, console)
        tokenizer = models.load(str(folder / "before"), empty=True).tokenizer
        corpus = data.prepare(final.data, tokenizer, folder / "data", teacher=master)
        collect(folder, final, master, corpus, console)
        ask_tasks(folder, final, master, tasks_of(final.evaluate.tasks), console)
    found = judge(folder, final, clock.seconds)
    seen = tables_in(best, own, ("discover", "confirm"))["items"]
    sizes = {role: model["parameters"] for role, model in found["models"].items()}
    cost = sizes["student"] / sizes["teacher"]
    history.state["router"] = router.advise(seen, tables_of(folder, final.data.classes)["items"], cost)
    history.state["sealed"] |= _gained(history, final) if number else {"bought": [], "guard": []}
    history.state["sealed"] |= {"verdict": found["verdict"], "sentence": found["sentence"]}
    history.save()
    refused = export.others(
        settings.export, folder, *texts_of(corpus, bool(final.data.classes)), console, deploy=settings.deploy
    )
    if refused:
        raise RunError(*refused)


def _gained(history: History, final: recipe.Recipe) -> dict[str, Any]:
    """What all kept rounds together bought of the slices they worked on, and cost elsewhere, on the sealed part."""
    after = tables_in(history.folder, final, ("sealed",))
    answers = Answers(tuple(_as_student(task) for task in after["answers"].having("before")))
    before = after | {"items": _as_student(after["items"]), "answers": answers}
    weak = worked_on(each for each in history.judged if each["accepted"])
    section = history.state["of"]["refine"]
    slices = slices_in(before, final.evaluate, section["smallest"])
    kept = guard.guard(before, after, ((), ()), slices, weak, section["margin"])
    return {"bought": guard.bought(before, after, weak), "guard": [each.to_dict() for each in kept]}


def _as_student(table: Table) -> Table:
    """A table in which the student before stands in the student's place."""
    return replace(table, roles={**table.roles, "student": table.roles["before"]})


def _linked(source: str, target: str) -> None:
    """The same file under a second name, or a copy where there cannot be one."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _fresh(task: recipe.Asked) -> dict[str, Any]:
    """A task with questions that no round has seen, where it draws them."""
    plain = task.model_dump(mode="json")
    fields = options_model(find("task", task.name, "evaluate.tasks")).model_fields
    if "seed" in fields:
        plain["seed"] = int(task.options.get("seed", fields["seed"].default)) + FRESH
    return plain
