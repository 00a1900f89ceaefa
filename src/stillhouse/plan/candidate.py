"""A student that holds a goal: everything that can be known of it before it exists, and the recipe that makes it."""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass, replace
from typing import Any

import yaml

from stillhouse import models, recipe
from stillhouse.check import OVERHEAD, Costs, costs
from stillhouse.errors import RecipeError, fail
from stillhouse.plan import latency, memory, strategy
from stillhouse.plan.goal import Goal
from stillhouse.plan.latency import Law
from stillhouse.plan.memory import Serving, Training
from stillhouse.plan.search import Found
from stillhouse.plan.sizes import Tally, is_encoder
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
class Context:
    """What all candidates of a plan share."""

    section: recipe.Teacher
    master: Teacher
    whole: Tally
    goals: tuple[Goal, ...]
    data: tuple[str, ...]
    law: Law | None
    rate: float | None  # FLOP/s of a float32 matrix product here
    precision: str

    def budget(self, kind: str) -> float | None:
        """The tightest budget of a kind; None if there is none."""
        return min((g.value for g in self.goals if g.kind == kind), default=None)


def candidate(found: Found, context: Context, first: tuple[str, str]) -> Candidate:
    """All that is known of a student before it exists.

    Args:
        found: its shapes.
        context: of the plan.
        first: the way that is the first choice for these limits, and why.

    Raises:
        RecipeError: a budget less than a step.

    """
    master, whole = context.master, context.whole
    exact = found.tally
    ratio = whole.parameters / exact.parameters
    way = strategy.prescribe(ratio)
    why = _why(found, first)
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
    one_step = _costs(replace(draft, steps=1), context, found.model)
    per_step = 2.0 * one_step.operations
    steps = _steps(context, per_step * OVERHEAD / context.rate if context.rate else None)
    tokens = steps * TOKENS_PER_STEP
    flops = steps * per_step
    spent = flops * OVERHEAD / context.rate if context.rate else None
    whole_training = TOKENS_PER_PARAMETER * exact.parameters
    full = spent * whole_training / tokens if spent is not None else None
    why_steps = f"{tokens:,} tokens, {spoken(spent)} here with the control that learns without the teacher."
    why_steps += f" A full training reads {whole_training:,} ({TOKENS_PER_PARAMETER} a parameter): {spoken(full)}."
    text = write(replace(draft, steps=steps, why_steps=why_steps))
    return replace(
        known,
        training=memory.training(one_step),
        tokens=tokens,
        training_flops=flops,
        training_seconds=spent,
        full_seconds=full,
        recipe=text,
    )


def _costs(draft: Draft, context: Context, pupil: models.Model) -> Costs:
    """What the recipe of a draft costs by the arithmetic of ``stillhouse check``."""
    settings = recipe.parse(yaml.safe_load(write(draft)))
    return costs(settings, measure=False, made=(context.master, pupil))


def _steps(context: Context, seconds: float | None) -> int:
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


def _draft(candidate: Candidate, context: Context) -> Draft:
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
        f"Expected to keep {share(band)} of the teacher's quality: {band.source}.",
    ]
    return Draft(
        name=f"{re.sub(r'[^a-z0-9.]+', '-', context.master.name.lower()).strip('-.') or 'student'}-{candidate.ratio:.{1 if candidate.ratio < 3 else 0}f}x",
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


def _why(found: Found, first: tuple[str, str]) -> str:
    """Why a student has its shape."""
    text = {
        "depth": "Whole layers of the teacher",
        "width": "All layers of the teacher, each with its most active channels and heads",
        "balanced": "Fewer and narrower layers, the teacher's proportions kept",
    }[found.way]
    way, reason = first
    text += f": {reason}." if found.way == way else f". The first choice at such a compression is {way}: {reason}."
    share_ = f"{100 * found.tally.lookup:.0f} % of the student"
    if found.vocabulary is not None:
        text += f" The {found.vocabulary:,} tokens that your text uses most, {share_}; any text can still be said, in more tokens."
    elif found.tally.lookup > 0.5:
        text += f" The vocabulary's rows are {share_}: a trimmed one leaves more to think with."
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


def share(band: Band) -> str:
    """A band in words."""
    return (
        f"{100 * band.low:.0f}–{100 * band.high:.0f} %"
        if band.low is not None
        else f"less than {100 * band.high:.0f} %"
    )


def spoken(seconds: float | None) -> str:
    """A training time in words."""
    if seconds is None:
        return "time not measured"
    days = seconds / 86400
    return f"about {days:,.0f} days" if days >= 3 else f"about {duration(seconds)}"
