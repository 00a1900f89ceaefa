"""Plan: from a teacher and a goal to students that hold it, what each will cost, and a recipe that says why."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from stillhouse import machine, models, recipe, student
from stillhouse import teacher as teachers
from stillhouse.check import OVERHEAD, Costs, check, costs
from stillhouse.errors import Problem, RecipeError, RunError, fail
from stillhouse.files import write_text
from stillhouse.plan import goal as goals_
from stillhouse.plan import latency, memory, search, strategy
from stillhouse.plan.goal import Goal
from stillhouse.plan.latency import Law
from stillhouse.plan.memory import Serving, Training
from stillhouse.plan.search import Found, Limit
from stillhouse.plan.sizes import Tally, is_encoder, tally
from stillhouse.plan.strategy import Band, Prescription
from stillhouse.plan.write import TOKENS_PER_STEP, Draft, write
from stillhouse.progress import duration
from stillhouse.report.words import bytes_of
from stillhouse.teacher import Teacher

STEPS = 2000
"""Of a recipe where no budget is given: enough to see whether a student learns, not enough to finish a small one."""

TOKENS_PER_PARAMETER = 20
"""What a full training of a pruned student reads, about: Minitron's students of 8 and 4 billion parameters read 94 billion
tokens each, 12 and 24 a parameter (arXiv:2407.14679)."""

RATIOS = (4.0, 10.0, 50.0)
"""Compressions that are planned where only a budget is given: one of each of the guide's bands."""


@dataclass(frozen=True)
class Candidate:
    """A student that holds the goal.

    Args:
        way: depth, width or balanced.
        vocabulary: tokens it is trimmed to; None if it keeps the teacher's.
        section: the recipe's section that makes it.
        tally: exact sizes, counted on what the builders make.
        ratio: how many times fewer parameters than the teacher.
        flops: of an answer (a token of a language model, a text of an encoder): two a used weight.
        seconds: predicted of an answer on this machine, float32; None if nothing was measured.
        serving: memory of answering.
        training: memory at the peak of training; None for an encoder.
        tokens: that the recipe reads.
        training_flops: of the recipe, with its control; None for an encoder.
        training_seconds: likewise on this machine, about; None if it was not measured.
        full_seconds: of ``TOKENS_PER_PARAMETER`` tokens a parameter instead.
        retention: what the guide expects.
        prescription: its strategy.
        why: the reasons for its shape.
        recipe: the recipe as YAML; None for an encoder, whose training recipes cannot say yet.

    """

    way: str
    vocabulary: int | None
    section: dict[str, Any]
    tally: Tally
    ratio: float
    flops: float
    seconds: float | None
    serving: Serving
    training: Training | None
    tokens: int
    training_flops: float | None
    training_seconds: float | None
    full_seconds: float | None
    retention: Band
    prescription: Prescription
    why: str
    recipe: str | None

    @property
    def name(self) -> str:
        """Its way in words."""
        return self.way if self.vocabulary is None else f"{self.way}, {self.vocabulary:,} tokens"


@dataclass(frozen=True)
class Plan:
    """Students for a goal, the recommended one first.

    Args:
        teacher: its name.
        tally: its sizes.
        encoder: whether it reads whole texts at once.
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
    encoder: bool
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
            RunError: there is a file, or the teacher is an encoder.
            RecipeError: there is no such candidate.

        """
        path = Path(path)
        if not 1 <= choice <= len(self.candidates):
            what = f"there is no candidate {choice}"
            raise fail(RecipeError, "--choose", what, f"Give a number from 1 to {len(self.candidates)}.")
        text = self.candidates[choice - 1].recipe
        if text is None:
            what = "a recipe cannot say yet how an encoder is trained"
            raise fail(RunError, str(path), what, "Take the builder's section from the table.")
        if path.exists():
            raise fail(RunError, str(path), "is there already", "Give another name; a plan overwrites nothing.")
        write_text(path, text)


def plan(
    teacher: recipe.Teacher | str,
    goals: Sequence[str | Goal],
    *,
    data: Sequence[str] = (),
    measure: bool = True,
    law: Law | None = None,
) -> Plan:
    """Plan students for a goal: exact sizes, memory, speed, cost, what to expect and with which strategy. Loads no weights.

    Args:
        teacher: what a recipe may say: a hub id, a folder, a .gguf file, ``pkg:NAME``, or its section.
        goals: all must hold, such as ``["10x", "p50 30 ms per token", "4 h"]``; see ``stillhouse.plan.goal``.
        data: paths of text for the recipe.
        measure: time this machine for latencies and training times; takes some seconds.
        law: of latency, where it was measured before.

    Raises:
        RecipeError: a goal that cannot be understood or held; the nearest possible is named.
        ModelError: no such teacher.

    """
    wanted = tuple(g if isinstance(g, Goal) else goals_.parse(g) for g in goals)
    if not wanted:
        raise fail(RecipeError, "goal", "none is given", f"Goals look like {', '.join(goals_.KINDS.values())}.")
    section = recipe.as_teacher(teacher) if isinstance(teacher, str) else teacher
    master = _load(section)
    model = master.model
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
    fast = bool(limits) and all(limit.goal.kind == "latency" for limit in limits)
    order: list[Found] = []
    left_out: dict[str, str] = {}
    for these in alternatives:
        found: list[Found] = []
        for way in search.ways(model):
            plain = search.search(model, way, these)
            small = search.search_trimmed(model, way, these, trimmed)
            found += [f for f in (plain, small) if f is not None]
            if plain is None:
                words = (
                    "its smallest with the whole vocabulary is too large for"
                    if small
                    else "its smallest is too large for"
                )
                left_out[way] = f"{words} {' and '.join(str(limit.goal) for limit in these)}"
        order += sorted(found, key=lambda f: _rank(f, whole, fast, found))
    if not order:
        raise _impossible(limits or alternatives[0], search.smallest(model, trimmed))
    context = _Context(section, master, whole, wanted, tuple(data), law, rate, precision, fast)
    candidates = tuple(_candidate(f, context) for f in order)
    return Plan(
        model.name,
        whole,
        is_encoder(model.config),
        wanted,
        precision,
        law,
        law.seconds(whole) if law else None,
        candidates,
        left_out,
        tuple(_notes(candidates, context, trimmed)),
    )


@dataclass(frozen=True)
class _Context:
    """What all candidates of a plan share."""

    section: recipe.Teacher
    master: Teacher
    whole: Tally
    goals: tuple[Goal, ...]
    data: tuple[str, ...]
    law: Law | None
    rate: float | None  # FLOP/s of a float32 matrix product here
    precision: str
    fast: bool

    def budget(self, kind: str) -> float | None:
        """The tightest budget of a kind; None if there is none."""
        return min((g.value for g in self.goals if g.kind == kind), default=None)


def _load(section: recipe.Teacher) -> Teacher:
    """The teacher's shapes; an encoder as a classifier of two classes, which is what it will be taught as."""
    master = teachers.load(section, empty=True)
    if is_encoder(master.model.config) and section.name == "local":
        return Teacher(models.load(**section.options, classes=2, empty=True, where="teacher.model"))
    return master


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
        elif limit.holds(teacher) and len(limits) == 1:
            what = f"the teacher itself holds '{limit.goal}': {_said(limit, teacher)}"
            problems.append(Problem("goal", what, "Use the teacher, or ask for less."))
    if problems:
        raise RecipeError(*problems)


def _impossible(limits: Sequence[Limit], smallest: Sequence[Found]) -> RecipeError:
    """The refusal of a goal that no student holds, with the nearest possible of each limit."""
    problems = []
    for limit in limits:
        nearest = min(smallest, key=lambda f: limit.of(f.tally))
        if not limit.holds(nearest.tally):
            what = f"no student of this teacher holds '{limit.goal}'; the nearest possible is {_said(limit, nearest.tally)}"
            what += f" ({nearest.way}, {nearest.tally.parameters:,} parameters"
            what += f", {nearest.vocabulary:,} tokens)" if nearest.vocabulary else ")"
            problems.append(Problem("goal", what, "Ask for no less than that, or take a smaller teacher."))
    if not problems:
        words = "', '".join(str(limit.goal) for limit in limits)
        problems.append(Problem("goal", f"no student holds '{words}' together, though each can be held", "Drop one."))
    return RecipeError(*problems)


def _said(limit: Limit, found: Tally) -> str:
    """A limit's value of a model, in its unit."""
    value = limit.of(found)
    if limit.goal.kind in ("ratio", "parameters"):
        return f"{value:,.0f} parameters"
    if limit.goal.kind == "latency":
        return f"{1e3 * value:.2f} ms"
    return f"{bytes_of(value)} as {limit.goal.precision}"


def _rank(found: Found, teacher: Tally, fast: bool, others: Sequence[Found]) -> tuple[float, ...]:
    """Order of recommendation: the way, then the vocabulary."""
    ratio = teacher.parameters / found.tally.parameters
    order, _ = strategy.preferred(strategy.prescribe(ratio).name, fast)
    # rows of tokens that nobody looks up teach nothing: more than half of a student is too much for them
    crowded = found.vocabulary is None and found.tally.lookup > 0.5
    needless = found.vocabulary is not None and not any(
        o.way == found.way and o.vocabulary is None and o.tally.lookup > 0.5 for o in others
    )
    return order.index(found.way), crowded + needless, found.tally.parameters


def _candidate(found: Found, context: _Context) -> Candidate:
    """All that is known of a student before it exists."""
    master, whole = context.master, context.whole
    pupil = student.build(recipe.Student(**found.section), master.model, empty=True)
    exact = tally(pupil)
    ratio = whole.parameters / exact.parameters
    way = strategy.prescribe(ratio)
    why = _why(found, exact, way, context.fast)
    seconds = context.law.seconds(exact) if context.law else None
    encoder = is_encoder(master.model.config)
    known = Candidate(
        way=found.way,
        vocabulary=found.vocabulary,
        section=found.section,
        tally=exact,
        ratio=ratio,
        flops=2.0 * exact.used * (latency.TEXT if encoder else 1),
        seconds=seconds,
        serving=memory.serving(exact, context.precision),
        training=None,
        tokens=0,
        training_flops=None,
        training_seconds=None,
        full_seconds=None,
        retention=strategy.expected(ratio),
        prescription=way,
        why=why,
        recipe=None,
    )
    if encoder:
        return known
    draft = _draft(known, context)
    one_step = _costs(replace(draft, steps=1), context, pupil)
    per_step = 2.0 * one_step.operations
    steps = _steps(context, per_step * OVERHEAD / context.rate if context.rate else None)
    tokens = steps * TOKENS_PER_STEP
    flops = steps * per_step
    spent = flops * OVERHEAD / context.rate if context.rate else None
    whole_training = TOKENS_PER_PARAMETER * exact.parameters
    full = spent * whole_training / tokens if spent is not None else None
    why_steps = f"{tokens:,} tokens, {_spoken(spent)} here with the control that learns without the teacher."
    why_steps += f" A full training reads {whole_training:,} ({TOKENS_PER_PARAMETER} a parameter): {_spoken(full)}."
    text = write(replace(draft, steps=steps, why_steps=why_steps))
    check(recipe.parse(yaml.safe_load(text)))
    return replace(
        known,
        training=memory.training(one_step),
        tokens=tokens,
        training_flops=flops,
        training_seconds=spent,
        full_seconds=full,
        recipe=text,
    )


def _costs(draft: Draft, context: _Context, pupil: models.Model) -> Costs:
    """What the recipe of a draft costs by the arithmetic of ``stillhouse check``."""
    settings = recipe.parse(yaml.safe_load(write(draft)))
    return costs(settings, measure=False, made=(context.master, pupil))


def _steps(context: _Context, seconds: float | None) -> int:
    """Steps of training that the budgets allow.

    Args:
        context: for the budgets.
        seconds: of a step here, the control's too; None if nothing was measured.

    """
    tokens, spend = context.budget("tokens"), context.budget("time")
    allowed = [] if tokens is None else [math.floor(tokens / TOKENS_PER_STEP)]
    if spend is not None and seconds is None:
        what = "a time budget cannot be planned without measuring this machine"
        raise fail(RecipeError, "goal", what, "Leave --no-measure out, or give a budget of tokens.")
    if spend is not None and seconds is not None:
        allowed.append(math.floor(spend / seconds))
    if allowed and min(allowed) < 1:
        nearest = f"{TOKENS_PER_STEP:,} tokens" + (f", {duration(seconds)} here" if seconds else "")
        raise fail(RecipeError, "goal", f"the budget is less than one step: {nearest}", "Give a larger budget.")
    return min(allowed) if allowed else STEPS


def _draft(candidate: Candidate, context: _Context) -> Draft:
    """What the recipe is written from, its steps not known yet."""
    named = context.section.model_dump(mode="json", exclude_defaults=True)
    teacher = recipe.as_teacher(context.section.options.get("model", "")) == context.section
    words = context.section.options["model"] if teacher else named
    command = shlex.join(["stillhouse", "plan", str(words if teacher else context.master.name)])
    command += "".join(f" --goal {shlex.quote(g.text)}" for g in context.goals)
    band = candidate.retention
    about = [
        f"Written by: {command}",
        f"Teacher {context.master.name}, {context.whole.parameters:,} parameters; this student {candidate.tally.parameters:,}, "
        f"{candidate.ratio:.1f} times fewer, {bytes_of(candidate.tally.file[context.precision])} as {context.precision}.",
        f"Expected to keep {_share(band)} of the teacher's quality: {band.source}.",
    ]
    return Draft(
        name=f"{re.sub(r'[^a-z0-9.]+', '-', context.master.name.lower()).strip('-.') or 'student'}-{candidate.ratio:.0f}x",
        teacher=words,
        section=candidate.section,
        prescription=candidate.prescription,
        features="hidden" in context.master.shows,
        data=context.data,
        steps=STEPS,
        about=about,
        why_student=candidate.why,
        why_steps="",
        advice=_advice(candidate, str(words) if teacher else context.master.name),
    )


def _why(found: Found, exact: Tally, way: Prescription, fast: bool) -> str:
    """Why a student has its shape."""
    order, reason = strategy.preferred(way.name, fast)
    words = {
        "depth": "Whole layers of the teacher",
        "width": "All layers of the teacher, each with its most active channels and heads",
        "balanced": "Fewer and narrower layers, the teacher's proportions kept",
    }[found.way]
    text = (
        f"{words}: {reason}."
        if found.way == order[0]
        else f"{words}; first choice at this compression would be {order[0]}: {reason}."
    )
    if found.vocabulary is not None:
        text += f" The {found.vocabulary:,} tokens that your text uses most, {100 * exact.lookup:.0f} % of the student; any text can still be said, in more tokens."
    elif exact.lookup > 0.5:
        text += f" The vocabulary's rows are {100 * exact.lookup:.0f} % of the student: a trimmed one leaves more to think with."
    return text


def _advice(candidate: Candidate, teacher: str) -> list[str]:
    """What the strategy asks for that a recipe cannot say yet."""
    way = candidate.prescription
    advice = []
    if way.stages > 1:
        step = candidate.ratio ** (1.0 / way.stages)
        advice.append(
            f"Stages: {way.stages} students one after another, each about {step:.1f}x smaller than its teacher (teacher-assistants, "
            f"5–7x a step). Plan and run the first with --goal {step:.1f}x, then plan again with its folder as the teacher: "
            f"stillhouse plan {shlex.quote(teacher)} --goal {step:.1f}x --write stage1.yaml, stillhouse run stage1.yaml, "
            f"stillhouse plan runs/NAME/student --goal {step:.1f}x. Compare with this direct recipe at the same total budget."
        )
    if way.quantise:
        advice.append("Last stage: train with quantisation in the loop, so that int8 or int4 weights cost less.")
    return advice


def _notes(candidates: Sequence[Candidate], context: _Context, trimmed: Sequence[int]) -> list[str]:
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
    if not trimmed:
        notes.append("No candidate has a trimmed vocabulary: this tokenizer's cannot be made smaller.")
    if not any(g.kind in ("ratio", "parameters", "file", "memory", "latency") for g in context.goals):
        notes.append("Only a budget was given: one compression of each of the guide's bands is shown.")
    return notes


BUSY = 0.3
"""Relative error of the law of latency above which it is not to be trusted."""


def _share(band: Band) -> str:
    """A band in words."""
    return (
        f"{100 * band.low:.0f}–{100 * band.high:.0f} %"
        if band.low is not None
        else f"less than {100 * band.high:.0f} %"
    )


def _spoken(seconds: float | None) -> str:
    if seconds is None:
        return "time not measured"
    days = seconds / 86400
    return f"about {days:,.0f} days" if days >= 3 else f"about {duration(seconds)}"
