"""The loop: run → evaluate → find what is weak → change data, weights, objective → run again, until every gate holds.

Every round is an ordinary run in ``rounds/<number>``; ``refinement.json`` says what was changed and what it bought, and is all that an
interrupted refinement goes on from. What rounds look at, what they are judged by and what is opened once at the end are three
parts of the held-out text that never meet (``evaluate.splits``).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from stillhouse import data, export, models, recipe
from stillhouse.data.tagging import Row, Tagger, held_out, rows, tagger
from stillhouse.errors import RunError, fail
from stillhouse.evaluate import ask, gates_of, judge, statistics, tables_of
from stillhouse.evaluate.examine import fingerprint
from stillhouse.evaluate.questions import tasks_of
from stillhouse.files import atomic_folder, read_json, write_text
from stillhouse.find import check_options, find, options_model
from stillhouse.lock import lock
from stillhouse.refinement import capacity, guard, router
from stillhouse.refinement.admission import admit, pool_of
from stillhouse.refinement.defaults import actions_for
from stillhouse.refinement.draft import Case, Draft, Weak, recipe_of
from stillhouse.refinement.history import History
from stillhouse.refinement.weakness import lost_keys, of_slice, slices_in, tables_in, weakest
from stillhouse.report import report
from stillhouse.run import Clock, ask_tasks, collect, load_teacher, run
from stillhouse.run import held_out as texts_of

LOOKED_AT = {"part": "open", "control": False, "direct": False}
"""How rounds are evaluated: without what is sealed, and without a control, which would double what they cost."""

MOST_SLICES = 40
"""Slices of which a round's numbers are kept, the weakest first."""

FRESH = 7919
"""Added to the seed of tasks that draw their questions, so that the sealed ones are questions that no round has seen."""


def refine(settings: recipe.Recipe, *, console: Console | None = None) -> Path:
    """Refine: a student, and then round after round of what mends its weaknesses.

    Args:
        settings: the recipe; its section ``refine`` says how long and by what means.
        console: where to show progress; None for silence.

    Returns:
        the folder: of the student that was best, judged on the sealed part, with all rounds in ``rounds/``.

    Raises:
        RecipeError: the recipe cannot be refined; all mistakes at once, before anything is loaded.
        StillhouseError: what else a user can mend; what is done so far stays.

    """
    parts = admit(settings)
    folder = settings.folder
    say = console.print if console else lambda *_, **__: None
    with lock(folder):
        history = History(folder, settings)
        history.state["parts"] = parts
        history.state["stopped"] = stopped(history, settings)
        text = Text(settings, folder)
        while history.state["stopped"] is None:
            number = len(history.judged)
            if number == len(history.rounds):
                history.rounds.append(planned(history, settings, text, number))
                if not history.rounds[-1]["changes"] and number:
                    tried = history.rounds.pop()["tried"]
                    history.state["stopped"] = {"why": "nothing to do", "said": "; ".join(tried)}
                    break
                history.save()
            entry = history.rounds[number]
            tell_plan(entry, say)
            own = recipe.load(history.round_folder(number) / "recipe.yaml")
            run(own, console=console)
            judged(history, own, entry)
            tell_round(entry, say)
            history.state["stopped"] = stopped(history, settings) or limited(history, settings, text, console)
            history.save()
        history.save()
        ended = history.state["stopped"] or {}
        say(f"[bold]Stopped[/] ({ended['why']}): {escape(ended['said'])}")
        finish(history, settings, console)
        say(f"[bold]{history.state['sealed']['verdict']}[/] {escape(history.state['sealed']['sentence'])}")
        say(f"Report: {report(folder)}", highlight=False)
    return folder


@dataclass(frozen=True)
class Text:
    """What is learned from, what could be, and what is held out, with tags; read when it is first needed.

    Args:
        settings: the recipe.
        folder: the refinement's.
    """

    settings: recipe.Recipe
    folder: Path

    @cached_property
    def tokenizer(self) -> Any:
        """The student's, whose chat template texts are rendered with."""
        return models.load(str(self.folder / "rounds" / "0" / "before"), empty=True).tokenizer

    @cached_property
    def tag(self) -> Tagger:
        """What tags a text."""
        return tagger(self.settings.data, self.tokenizer, self.settings.evaluate.slices)

    @cached_property
    def learned(self) -> list[Row]:
        """Rows of the sources."""
        return list(rows(self.settings.data, self.tokenizer, self.tag))

    @cached_property
    def pool(self) -> list[Row]:
        """Rows of the pool."""
        return pool_of(self.settings, self.tokenizer, self.tag)

    def words_of(self, keys: Sequence[str]) -> tuple[str, ...]:
        """The texts of held-out documents."""
        wanted = set(keys)
        section = self.settings.data
        found = {
            row.key: row.rendered.words
            for row in rows(section, self.tokenizer, Tagger(()), held_out(section))
            if row.key in wanted
        }
        return tuple(found[key] for key in keys if key in found)


def planned(history: History, settings: recipe.Recipe, text: Text, number: int) -> dict[str, Any]:
    """What a round will change, and its recipe in its folder; frozen before anything of it runs."""
    folder = history.round_folder(number)
    entry: dict[str, Any] = {"number": number, "weak": [], "changes": [], "tried": [], "draft": Draft().to_dict(), "verdict": None}  # fmt: skip
    if number == 0:
        write_text(folder / "recipe.yaml", first_round(settings, folder).to_yaml())
        return entry
    best = history.round_folder(history.best["number"])
    before = recipe.load(best / "recipe.yaml")
    seen = tables_in(best, before, ("discover",))
    refine_ = settings.refine or recipe.Refine()
    weak = weakest(slices_in(seen, settings.evaluate, refine_.smallest), settings.evaluate, refine_)
    open_gates = [gate["name"] for gate in history.best["gates"] if gate["required"] and gate["verdict"] != "PASS"]
    lost = text.words_of(lost_keys(seen, weak))
    writes = not settings.data.classes and settings.teacher.name != "store"
    with atomic_folder(folder / "rows") as building:
        case = Case(settings, weak, frozenset(open_gates), lost, text.learned, text.pool, writes, building, number)
        draft = Draft.of(history.best["draft"])
        for action in refine_.actions or [recipe.Strategy(name=name) for name in actions_for(open_gates)]:
            function = find("action", action.name, "refine.actions")
            changed, said = function(draft, case, **check_options(function, action.options, "refine.actions"))
            kind = "tried" if changed is draft else "changes"
            entry[kind].append(f"{action.name}: {said}")
            draft = changed
        content = recipe_of(draft, settings, text.learned, folder, building)
    content = _moved(content, building, folder / "rows")
    entry["draft"] = _moved(draft.to_dict(), building, folder / "rows")
    entry["weak"] = [{"tag": w.tag, "value": w.value, "name": w.name, "gap": w.gap, "priority": w.priority} for w in weak]  # fmt: skip
    entry["predicted"] = round(sum(one.priority for one in weak), 6)
    failures = number - 1 - history.best["number"]
    if failures:
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


def judged(history: History, own: recipe.Recipe, entry: dict[str, Any]) -> None:
    """Judge a round on the part that confirms, against the best one before it, and take its student or leave it."""
    refine_smallest = _smallest(history)
    tables = tables_in(own.folder, own, ("confirm",))
    asked = gates_of(own, own.evaluate, bool(tables["answers"].tasks))
    findings, overall = ask(tables, own.evaluate, asked)
    required = {gate.name.rpartition(":")[2]: gate.required for gate in asked}
    slices = slices_in(tables, own.evaluate, refine_smallest)
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
    weak = [Weak(w["tag"], w["value"], w["gap"], w["priority"]) for w in entry["weak"]]
    margin = history.state["of"]["refine"]["margin"]
    slices = slices_in(old, before.evaluate, _smallest(history))
    found, _ = ask(old, before.evaluate, gates_of(before, before.evaluate, bool(old["answers"].tasks)))
    kept = guard.guard(old, tables, (found, findings), slices, weak, margin)
    entry["guard"] = [each.to_dict() for each in kept]
    changed_N, size_N = guard.changes(old["items"], tables["items"])
    for one in (Weak("", "", 0.0, 0.0), *(each for each in weak if each.tag)):
        rows_N = of_slice(old["items"], old["tags"], one)
        if rows_N.any():
            change = statistics.ratio(changed_N[rows_N], size_N[rows_N], old["items"].document[rows_N])
            entry["bought"].append({"name": one.name, **guard.change_of(change)})
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


def stopped(history: History, settings: recipe.Recipe) -> dict[str, str] | None:
    """Why no further round is begun: the gates hold, or the budget is used; None if one is.

    Raises:
        RunError: the budget was raised after the sealed part was opened.
    """
    refine_ = settings.refine or recipe.Refine()
    done = [each for each in history.judged if each["number"]]
    if not history.judged or len(history.judged) < len(history.rounds):
        return None
    before = history.state["stopped"]
    if before is not None and before["why"] not in ("rounds", "tokens", "hours"):
        return dict(before)
    tokens = sum(each["tokens"] for each in done)
    spent = {"rounds": len(done), "tokens": tokens, "hours": sum(each["hours"] for each in done)}
    following = settings.trainer.model_dump() | refine_.trainer
    coming = following["steps"] * following["tokens_per_step"]
    why = None
    if history.best["verdict"] == "PASS":
        why = {
            "why": "gates hold",
            "said": f"every gate holds after round {history.best['number']}, on the part that confirms",
        }
    elif spent["rounds"] >= refine_.rounds:
        why = {"why": "rounds", "said": f"{spent['rounds']} of {refine_.rounds} rounds are used"}
    elif refine_.tokens is not None and tokens + coming > refine_.tokens:
        why = {"why": "tokens", "said": f"another {coming:,} tokens would exceed {refine_.tokens:,}"}
    elif refine_.hours is not None and spent["hours"] >= refine_.hours:
        why = {"why": "hours", "said": f"{spent['hours']:.2f} of {refine_.hours:g} hours are used"}
    if why is None and history.state["sealed"] is not None:
        what = "its sealed part is opened: what further rounds would be judged by is seen"
        way_out = "Refine in a new folder, with held-out texts that nobody has looked at (data.test_sources)."
        raise fail(RunError, str(history.folder), what, way_out)
    return why


def limited(history: History, settings: recipe.Recipe, text: Text, console: Console | None) -> dict[str, str] | None:
    """After two rounds that surely bought nothing of the worst slice: whether the student is too small for it, by a probe."""
    if not capacity.stalled(history.judged) or history.state.get("diagnosis"):
        return None
    weak = history.judged[-1]["weak"][0]
    last = recipe.load(history.round_folder(history.judged[-1]["number"]) / "recipe.yaml")
    start = history.round_folder(history.best["number"]) / "student"
    one = Weak(weak["tag"], weak["value"], weak["gap"], weak["priority"])
    section = last.model_copy(update={"data": settings.data.model_copy(update={"augment": ()})})
    found = capacity.probe(section, one, text.learned, start, history.folder / "probe", console)
    history.state["diagnosis"] = found
    if found["diagnosis"] == "mixture-limited":
        return None
    told = f"two rounds bought nothing of {found['slice']}"
    if "texts" in found:
        return {
            "why": "data-limited",
            "said": f"{told}, of which {found['texts']} texts are learned from: more are needed",
        }
    told += f"; taught it alone, the student keeps {found['kept_held_out']:.0%} of it"
    if found["diagnosis"] == "data-limited":
        learned = f"{found['kept_of_what_it_learned']:.0%} of what it learned from"
        return {"why": "data-limited", "said": f"{told}, but {learned}: more text of it is needed"}
    size = "no size is estimated to be enough"
    if found["enough"]:
        size = f"about {found['enough']:,} parameters instead of {found['parameters']:,} are estimated to be enough"
    learned = f"{found['kept_of_what_it_learned']:.0%} of what it learned from"
    return {"why": "capacity-limited", "said": f"{told} and {learned}; {size}, or route this slice to the teacher"}


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
    refused = export.others(settings.export, folder, texts_of(corpus), console, deploy=settings.deploy)
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


def tell_plan(entry: dict[str, Any], say: Any) -> None:
    """What a round is about to do."""
    say(f"[bold]Round {entry['number']}[/]" + (": the recipe as it is" if not entry["number"] else ""))
    if entry["weak"]:
        weak = ", ".join(f"{w['name']} ({w['gap'] * 100:.0f} points short)" for w in entry["weak"])
        say(f"Weakest: {escape(weak)}; at most {entry['predicted'] * 100:.1f} % of the teacher's skill to win back")
    for change in entry["changes"]:
        say(f"  {escape(change)}", highlight=False)


def tell_round(entry: dict[str, Any], say: Any) -> None:
    """What a round bought."""
    for each in entry["bought"]:
        numbers = f"{each['value'] * 100:+.1f} [{each['low'] * 100:+.1f}, {each['high'] * 100:+.1f}]"
        say(f"  {escape(each['name'])}: {numbers} points", highlight=False)
    gates_told = ", ".join(f"{gate['name']} {gate['verdict']}" for gate in entry["gates"])
    said = f"{entry['said']}; " if entry.get("said") else ""
    say(f"Round {entry['number']}: {said}{gates_told}", highlight=False)


__all__ = ["refine"]
