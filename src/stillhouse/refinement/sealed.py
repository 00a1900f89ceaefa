"""The end: the best student into the refinement's folder, the seal broken, one verdict, and what could be served."""

from __future__ import annotations

import os
import shutil
from typing import Any

from rich.console import Console

from stillhouse import data, export, models, recipe
from stillhouse.errors import RunError
from stillhouse.evaluate import judge, tables_of
from stillhouse.evaluate.examine import fingerprint
from stillhouse.evaluate.questions import tasks_of
from stillhouse.files import atomic_folder, write_text
from stillhouse.find import find, options_model
from stillhouse.refinement import router
from stillhouse.refinement.history import History
from stillhouse.refinement.weakness import tables_in
from stillhouse.run import Clock, ask_tasks, collect, load_teacher
from stillhouse.run import held_out as texts_of

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
    for name, source in (("before", history.round_folder(0)), ("student", best), ("data", best)):
        if not (folder / name).exists():
            with atomic_folder(folder / name) as building:
                shutil.copytree(source / name, building, dirs_exist_ok=True, copy_function=_linked)
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
    history.state["sealed"] |= {"verdict": found["verdict"], "sentence": found["sentence"]}
    history.save()
    refused = export.others(
        settings.export, folder, *texts_of(corpus, bool(final.data.classes)), console, deploy=settings.deploy
    )
    if refused:
        raise RunError(*refused)


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
