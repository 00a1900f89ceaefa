"""Plan: from a teacher and a goal to students that hold it, what each will cost, and a recipe that says why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from stillhouse import machine, models, recipe
from stillhouse import teacher as teachers
from stillhouse.check import check
from stillhouse.errors import Problem, RecipeError, RunError, fail
from stillhouse.files import write_text
from stillhouse.find import check_options, find
from stillhouse.plan import adapt, latency, memory, search, strategy
from stillhouse.plan import goal as goals_
from stillhouse.plan.candidate import NOT_QUANTISED, Candidate, Context, candidate
from stillhouse.plan.goal import Goal
from stillhouse.plan.latency import Law
from stillhouse.plan.search import Found, Limit
from stillhouse.plan.sizes import Tally, tally
from stillhouse.report.words import bytes_of
from stillhouse.teacher import Teacher

CROWDED = 0.5
"""Share of a student that rows of tokens may be before a trimmed vocabulary is recommended: most are looked up rarely."""

COARSE = 0.8
"""Share of what the limits allow that a student must use to be recommended."""

BUSY = 0.3
"""Relative error of the law of latency above which it is not to be trusted."""

LABELLED = "Give --data train.jsonl --labelled '{text: sentence, label: label, classes: [negative, positive]}'."
"""The way out where a classifier is planned without labelled texts."""

RATIOS = (4.0, 10.0, 50.0)
"""Compressions that are planned where only a budget is given: one of each of the guide's bands."""


@dataclass(frozen=True)
class Plan:
    """Students for a goal, the recommended one first.

    Args:
        teacher: its name.
        tally: its sizes.
        classes: that texts are sorted into; none where next tokens are said.
        goals: as understood.
        precision: of the weights while answering.
        law: of latency on this machine; None if nothing was measured.
        teacher_seconds: predicted by it of the teacher.
        candidates: the recommended one first; never empty.
        left_out: way → why it offers none.
        notes: what else to know, a sentence each.

    """

    teacher: str
    tally: Tally
    classes: tuple[str, ...]
    goals: tuple[Goal, ...]
    precision: str
    law: Law | None
    teacher_seconds: float | None
    candidates: tuple[Candidate, ...]
    left_out: dict[str, str]
    notes: tuple[str, ...]

    @property
    def best(self) -> Candidate:
        """The recommended one."""
        return self.candidates[0]

    def write(self, path: str | Path, choice: int = 1) -> None:
        """Write a candidate's recipe.

        Args:
            path: of the YAML file; it must not be there.
            choice: which candidate, counted from 1 as the table does.

        Raises:
            RunError: there is a file, or no data with classes was given for a classifier.
            RecipeError: there is no such candidate.

        """
        path = Path(path)
        if not 1 <= choice <= len(self.candidates):
            what = f"there is no candidate {choice}"
            raise fail(RecipeError, "--choose", what, f"Give a number from 1 to {len(self.candidates)}.")
        text = self.candidates[choice - 1].recipe
        if text is None:
            what = "a classifier's recipe takes labelled texts, of which none were given"
            raise fail(RunError, str(path), what, LABELLED)
        if path.exists():
            raise fail(RunError, str(path), "is there already", "Give another name; a plan overwrites nothing.")
        write_text(path, text)


def plan(
    teacher: recipe.Teacher | str,
    goals: Sequence[str | Goal],
    *,
    data: Sequence[str] = (),
    labelled: Mapping[str, Any] | None = None,
    measure: bool = True,
    law: Law | None = None,
) -> Plan:
    """Plan students for a goal: exact sizes, memory, speed, cost, what to expect and with which strategy.

    Loads no weights, but for one look at how well a language model knows ``data``.

    Args:
        teacher: what a recipe may say: a hub id, a folder, a .gguf file, ``pkg:NAME``, or its section.
        goals: all must hold, such as ``["10x", "p50 30 ms per token", "4 h"]``; see ``stillhouse.plan.goal``.
        data: paths of text for the recipe.
        labelled: how classes lie in it, the options of the format ``labelled``: ``{"text": "sentence", "classes": ["no", "yes"]}``.
        measure: time this machine for latencies and training times, and ask the teacher about ``data``; takes some seconds.
        law: of latency, where it was measured before.

    Raises:
        RecipeError: a goal that cannot be understood or held; the nearest possible is named.
        ModelError: no such teacher.

    """
    wanted = tuple(g if isinstance(g, Goal) else goals_.parse(g) for g in goals)
    if not wanted:
        raise fail(RecipeError, "goal", "none is given", f"Goals look like {', '.join(goals_.KINDS.values())}.")
    section = recipe.as_teacher(teacher) if isinstance(teacher, str) else teacher
    if labelled is not None:
        try:
            check_options(find("format", "labelled"), dict(labelled), "labelled")
        except RecipeError as error:
            raise RecipeError(*(replace(p, way_out=p.way_out or LABELLED) for p in error.problems)) from None
        if not data:
            raise fail(RecipeError, "data", "is missing, though how it is labelled is given", LABELLED)
    raw = teachers.load(section, empty=True)
    classes = adapt.classes_of(labelled, raw)
    adaptation = adapt.for_classes(raw.model, classes) if classes else None
    known = adapt.ask(section, data) if measure and data and not classes else None
    adaptation = adaptation or adapt.for_text(raw.model, known)
    model = raw.model if adaptation is None else adaptation.model
    whole = tally(model)
    rate = None
    if measure:
        machine.set_threads(None)
        rate = machine.measure_gemm(torch.float32, "cpu") * 1e9
    law = latency.measure(model) if law is None and measure else law
    precision = next((g.precision for g in wanted if g.kind in ("memory", "file")), goals_.DEFAULT_PRECISION)
    limits = [_limit(g, whole, law) for g in wanted if g.kind not in ("tokens", "time")]
    _check_smaller(limits, whole)
    ratios = RATIOS if not limits else ()
    alternatives = [[_limit(goals_.parse(f"{r:g}x"), whole, law)] for r in ratios] or [limits]

    trimmed = search.vocabularies(model)
    _check_possible(alternatives[0], whole, search.smallest(model, trimmed))
    fast = bool(limits) and all(limit.goal.kind == "latency" for limit in limits)
    left_out: dict[str, str] = {}
    ordered = [
        each for these in alternatives for each in _ranked(_students(model, these, trimmed, left_out), whole, fast)
    ]
    if not ordered:
        words = "', '".join(str(limit.goal) for limit in limits)
        raise fail(RecipeError, "goal", f"no student holds '{words}' together, though each can be held", "Drop one.")
    context = Context(
        section=section,
        teacher=raw,
        master=raw if adaptation is None else Teacher(model),
        adaptation=adaptation if labelled is not None or not classes else None,
        known=known,
        whole=whole,
        goals=wanted,
        data=tuple(data),
        classes=classes,
        labelled=labelled,
        law=law,
        rate=rate,
        precision=precision,
    )
    candidates = tuple(candidate(found, context, first) for found, first in ordered)
    if candidates[0].recipe is not None:  # the others differ from it in nothing that a check would refuse
        check(recipe.parse(yaml.safe_load(candidates[0].recipe)))
    return Plan(
        model.name,
        whole,
        classes,
        wanted,
        precision,
        law,
        law.seconds(whole) if law else None,
        candidates,
        left_out,
        tuple(_notes(candidates, context, trimmed)),
    )


def _students(
    teacher: models.Model, limits: Sequence[Limit], trimmed: Sequence[int], left_out: dict[str, str]
) -> list[Found]:
    """The largest student of each way that holds all limits, with the whole vocabulary and with a trimmed one.

    Args:
        teacher: may be on the meta device.
        limits: of one alternative.
        trimmed: sizes of vocabularies.
        left_out: gets way → why it offers none with the whole vocabulary.

    """
    found: list[Found] = []
    for way in search.ways(teacher):
        plain = search.search(teacher, way, limits)
        small = search.search_trimmed(teacher, way, limits, trimmed)
        found += [_by_stages(teacher, each, limits) for each in (plain, small) if each is not None]
        if plain is None:
            whole_vocabulary = " with the whole vocabulary" if small else ""
            words = " and ".join(str(limit.goal) for limit in limits)
            left_out[way] = f"its smallest{whole_vocabulary} is too large for {words}"
    return found


def _limit(goal: Goal, teacher: Tally, law: Law | None) -> Limit:
    """What a goal allows at most, and of what."""
    if goal.kind == "ratio":
        return Limit(goal, math.floor(teacher.parameters / goal.value), lambda found: found.parameters)
    if goal.kind == "parameters":
        return Limit(goal, goal.value, lambda found: found.parameters)
    if goal.kind == "file":
        return Limit(goal, goal.value, lambda found: found.file[goal.precision])
    if goal.kind == "memory":
        return Limit(goal, goal.value, lambda found: memory.serving(found, goal.precision).total)
    if law is None:
        raise fail(
            RecipeError, "goal", f"'{goal}' cannot be planned without measuring this machine", "Leave --no-measure out."
        )
    return Limit(goal, goal.value, law.seconds)


def _check_smaller(limits: Sequence[Limit], teacher: Tally) -> None:
    """Refuse goals that the teacher holds itself: there is nothing to make smaller."""
    problems = []
    for limit in limits:
        if limit.goal.kind in ("ratio", "parameters"):
            if limit.most >= teacher.parameters:
                what = f"'{limit.goal}' is no smaller than the teacher, which has {teacher.parameters:,} parameters"
                problems.append(Problem("goal", what, "Ask for a ratio above 1x, or for fewer parameters."))
        elif all(other.holds(teacher) for other in limits):
            what = f"the teacher itself holds '{limit.goal}': {_said(limit, teacher)}"
            problems.append(Problem("goal", what, "Use the teacher, or ask for less."))
    if problems:
        raise RecipeError(*problems)


def _check_possible(limits: Sequence[Limit], teacher: Tally, smallest: Sequence[Found]) -> None:
    """Refuse limits that even the smallest student does not hold, each with the nearest possible."""
    problems = []
    for limit in limits:
        nearest = min(smallest, key=lambda f: limit.of(f.tally))
        if limit.holds(nearest.tally):
            continue
        said, way = _said(limit, nearest.tally), nearest.way
        way += f" with {nearest.vocabulary:,} tokens" if nearest.vocabulary else ""
        ratio = teacher.parameters / nearest.tally.parameters
        what = f"no student of this teacher holds '{limit.goal}'; the nearest possible is {said} ({way}, {ratio:,.1f}x)"
        problems.append(Problem("goal", what, "Ask for no less than that, or take a smaller teacher."))
    if problems:
        raise RecipeError(*problems)


def _said(limit: Limit, found: Tally) -> str:
    """A limit's value of a model, in its unit."""
    value = limit.of(found)
    if limit.goal.kind in ("ratio", "parameters"):
        return f"{value:,.0f} parameters"
    if limit.goal.kind == "latency":
        return f"{1e3 * value:.2f} ms"
    return f"{bytes_of(value)} as {limit.goal.precision}"


def _by_stages(teacher: models.Model, found: Found, limits: Sequence[Limit]) -> Found:
    """A student as the guide would reach it: straight from the teacher, or by way of assistants."""
    count = strategy.prescribe(teacher.parameters_count / found.tally.parameters).stages
    return search.staged(teacher, found, limits, count) if count > 1 else found


def _ranked(found: Sequence[Found], teacher: Tally, fast: bool) -> list[tuple[Found, tuple[str, str]]]:
    """Students for one set of limits, the recommended one first, each with the way that is the first choice and why.

    First those that use what the limits allow (whole layers can be too coarse a step), then by the way, then by the vocabulary.
    """
    if not found:
        return []
    largest = max(f.tally.parameters for f in found)
    order, reason = strategy.preferred(strategy.prescribe(teacher.parameters / largest).name, fast)
    crowded = {f.way for f in found if f.vocabulary is None and f.tally.lookup > CROWDED}

    def rank(one: Found) -> tuple[float, ...]:
        coarse = not fast and one.tally.parameters < COARSE * largest
        return coarse, order.index(one.way), (one.vocabulary is None) == (one.way in crowded), one.tally.parameters

    ranked = sorted(found, key=rank)
    if ranked[0].way != order[0]:
        reason += ", but here its steps are too coarse to come near the goal"
    return [(one, (order[0], reason)) for one in ranked]


def _notes(candidates: Sequence[Candidate], context: Context, trimmed: Sequence[int]) -> list[str]:
    """What a reader of the table should know."""
    notes = []
    best = candidates[0]
    if context.law and context.law.error > BUSY:
        notes.append(
            f"The fit of latency is off by up to {100 * context.law.error:.0f} %: the machine was busy, or the architecture "
            "does not follow so simple a law. Plan again when it is quiet."
        )
    if any(g.kind == "latency" for g in context.goals) and context.law and best.seconds is not None:
        notes.append("Latency is of float32 weights in transformers; other runtimes and quantised weights are faster.")
    room = machine.memory()
    if best.training and room and best.training.total > room:
        notes.append(
            f"Training takes about {bytes_of(best.training.total)}, and this machine has {bytes_of(room)}: set "
            "trainer.gradient_checkpointing=true and a smaller trainer.micro_tokens, or label first (stillhouse label)."
        )
    if any(c.vocabulary for c in candidates):
        notes.append(
            "A trimmed vocabulary says the same text in more tokens; how many more depends on the text, so that its latency "
            "per text is higher than per token."
        )
    if best.recipe is None:
        notes.append(
            f"Sizes and speed only, as a classifier of {len(context.classes)} classes. For a recipe: {LABELLED}"
        )
    if context.adaptation is not None:
        notes.append(f"{context.adaptation.why}, in the recipe's first stage.")
    elif context.known is not None:
        notes.append(f"The teacher on {context.known.positions:,} held-out tokens of this text: {context.known}.")
    if best.recipe is not None and "quantize" in best.recipe:
        notes.append("The recipe trains with quantisation in the loop: pip install 'stillhouse[quant]'.")
    elif best.prescription.quantise:
        notes.append(NOT_QUANTISED)
    elif context.precision in ("int8", "int4") and any(g.kind in ("file", "memory") for g in context.goals):
        notes.append(
            f"Sizes as {context.precision} are of weights rounded after training; what that costs is not predicted."
        )
    if not trimmed:
        notes.append("No candidate has a trimmed vocabulary: this tokenizer's cannot be made smaller.")
    if not any(g.kind in ("ratio", "parameters", "file", "memory", "latency") for g in context.goals):
        notes.append("Only a budget was given: one compression of each of the guide's bands is shown.")
    return notes
