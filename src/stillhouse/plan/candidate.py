"""A student that holds a goal: everything that can be known of it before it exists, and the recipe that makes it."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import yaml

from stillhouse import recipe
from stillhouse.check import OVERHEAD, Costs, costs
from stillhouse.errors import ModelError, RecipeError, fail
from stillhouse.models import Model
from stillhouse.plan import latency, memory, strategy
from stillhouse.plan.adapt import Adaptation
from stillhouse.plan.goal import Goal
from stillhouse.plan.latency import Law
from stillhouse.plan.memory import Serving, Training
from stillhouse.plan.search import Found
from stillhouse.plan.sizes import Tally
from stillhouse.plan.strategy import Band, Prescription
from stillhouse.plan.write import TOKENS_PER_STEP, Draft, flow, write
from stillhouse.progress import duration
from stillhouse.report.words import bytes_of
from stillhouse.student.quantize import foresee
from stillhouse.teacher import Teacher
from stillhouse.teacher.quality import Quality

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
        section: the recipe's section that makes it, from the last stage's student where there are stages.
        stages: parameters of the students in between, largest first.
        tally: exact sizes, counted on what the builders make.
        ratio: how many times fewer parameters than the teacher.
        flops: of an answer (a token of a language model, a text of a classifier): two a used weight.
        seconds: predicted of an answer on this machine, float32; None if nothing was measured.
        serving: memory of answering.
        training: memory at the peak of training; None where there is no recipe.
        tokens: that the recipe reads.
        training_flops: of the recipe, with its control; None where there is no recipe.
        training_seconds: likewise on this machine, about; None if it was not measured.
        full_seconds: of ``TOKENS_PER_PARAMETER`` tokens a parameter instead; None for a classifier.
        retention: what the guide expects.
        prescription: its strategy.
        why: the reasons for its shape.
        recipe: the recipe as YAML; None for a classifier without labelled texts.

    """

    way: str
    vocabulary: int | None
    section: dict[str, Any]
    stages: tuple[int, ...]
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
    """What all candidates of a plan share.

    Args:
        section: the recipe's teacher.
        teacher: its shapes.
        master: of whom students are made: the teacher, or what it becomes in a first stage.
        adaptation: that stage, where a recipe is written with one.
        known: how well the teacher knows the data; None if nobody asked it.
        whole: sizes of the master.
        goals: as understood.
        data: paths of text.
        classes: that texts are sorted into; none where next tokens are said.
        labelled: how they lie in the data; None if there is none.
        law: of latency; None if nothing was measured.
        rate: FLOP/s of a float32 matrix product here; likewise.
        precision: of the weights while answering.

    """

    section: recipe.Teacher
    teacher: Teacher
    master: Teacher
    adaptation: Adaptation | None
    known: Quality | None
    whole: Tally
    goals: tuple[Goal, ...]
    data: tuple[str, ...]
    classes: tuple[str, ...]
    labelled: Mapping[str, Any] | None
    law: Law | None
    rate: float | None
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
    whole = context.whole
    exact = found.tally
    ratio = whole.parameters / exact.parameters
    way = strategy.prescribe(ratio)
    why = _why(found, first)
    seconds = context.law.seconds(exact) if context.law else None
    known = Candidate(
        way=found.way,
        vocabulary=found.vocabulary,
        section=found.section,
        stages=tuple(stage.tally.parameters for stage in found.stages),
        tally=exact,
        ratio=ratio,
        flops=2.0 * exact.used * (latency.TEXT if context.classes else 1),
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
    if context.classes and context.labelled is None:
        return known
    draft = _draft(known, found, context)
    links = _costs(replace(draft, steps=1), context, found)
    per_step = 2.0 * sum(link.operations for link in links)
    steps = _steps(context, len(links), per_step * OVERHEAD / context.rate if context.rate else None)
    tokens = steps * TOKENS_PER_STEP * len(links)
    flops = steps * per_step
    spent = flops * OVERHEAD / context.rate if context.rate else None
    whole_training = TOKENS_PER_PARAMETER * exact.parameters
    full = spent * whole_training / tokens if spent is not None and not context.classes else None
    over = f" over {len(links)} students" if len(links) > 1 else ""
    here = f", {spoken(spent)} here with the control that learns without the teacher" if spent is not None else ""
    why_steps = f"{tokens:,} tokens{over}{here}."
    if not context.classes:
        why_steps += f" A full training reads {whole_training:,} ({TOKENS_PER_PARAMETER} a parameter)"
        why_steps += f": {spoken(full)}." if full is not None else "."
    text = write(replace(draft, steps=steps, why_steps=why_steps))
    return replace(
        known,
        training=memory.training(max(links, key=lambda link: link.memory)),
        tokens=tokens,
        training_flops=flops,
        training_seconds=spent,
        full_seconds=full,
        recipe=text,
    )


def _costs(draft: Draft, context: Context, found: Found) -> list[Costs]:
    """What each stage and the last step of a draft's recipe cost by the arithmetic of ``stillhouse check``."""
    settings = recipe.parse(yaml.safe_load(write(draft)))
    parts = [*(settings.stage(i) for i in range(len(settings.stages))), settings]
    first = [] if context.adaptation is None else [context.adaptation.model]
    pupils = [*first, *(stage.model for stage in found.stages), found.model]
    masters = [context.teacher, *(Teacher(pupil) for pupil in pupils[:-1])]
    links = zip(parts, masters, pupils, strict=True)
    return [costs(part, measure=False, made=(master, pupil)) for part, master, pupil in links]


def _steps(context: Context, links: int, seconds: float | None) -> int:
    """Steps of each student's training that the budgets allow.

    Args:
        context: for the budgets.
        links: students to train one after another.
        seconds: of a step of each here, the control's too; None if nothing was measured.

    """
    tokens, spend = context.budget("tokens"), context.budget("time")
    step = TOKENS_PER_STEP * links
    allowed = [] if tokens is None else [math.floor(tokens / step)]
    if spend is not None and seconds is None:
        what = "a time budget cannot be planned without measuring this machine"
        raise fail(RecipeError, "goal", what, "Leave --no-measure out, or give a budget of tokens.")
    if spend is not None and seconds is not None:
        allowed.append(math.floor(spend / seconds))
    if allowed and min(allowed) < 1:
        nearest = f"{step:,} tokens" + (f", {duration(seconds)} here" if seconds else "")
        raise fail(RecipeError, "goal", f"the budget is less than one step: {nearest}", "Give a larger budget.")
    return min(allowed) if allowed else STEPS


def _draft(candidate: Candidate, found: Found, context: Context) -> Draft:
    """What the recipe is written from, its steps not known yet."""
    named = context.section.model_dump(mode="json", exclude_defaults=True)
    teacher = recipe.as_teacher(context.section.options.get("model", "")) == context.section
    words = context.section.options["model"] if teacher else named
    command = shlex.join(["stillhouse", "plan", str(words if teacher else context.master.name)])
    command += "".join(f" --goal {shlex.quote(g.text)}" for g in context.goals)
    command += "".join(f" --data {shlex.quote(path)}" for path in context.data)
    command += f" --labelled {shlex.quote(flow(dict(context.labelled)))}" if context.labelled is not None else ""
    band = candidate.retention
    asked = candidate.prescription.quantise or any(
        goal.kind in ("file", "memory") and goal.precision == "int4" for goal in context.goals
    )
    rounding = quantised(found, context) if asked else {}
    about = [
        f"Written by: {command}",
        f"Teacher {context.master.name}, {context.whole.parameters:,} parameters; this student {candidate.tally.parameters:,}, "
        f"{candidate.ratio:.1f} times fewer, {bytes_of(candidate.tally.file[context.precision])} as {context.precision}.",
        f"Expected to keep {share(band)} of the teacher's quality: {band.source}.",
    ]
    return Draft(
        name=f"{re.sub(r'[^a-z0-9.]+', '-', context.master.name.lower()).strip('-.') or 'student'}-{candidate.ratio:.{1 if candidate.ratio < 3 else 0}f}x",
        teacher=words,
        section=candidate.section | ({"quantize": rounding} if rounding else {}),
        adaptation=context.adaptation,
        stages=[(f"assistant-{number}", stage.section) for number, stage in enumerate(found.stages, 1)],
        why_stages=_why_stages(candidate, context.whole) if found.stages else "",
        prescription=candidate.prescription,
        features="hidden" in context.teacher.shows,
        data=context.data,
        labelled=context.labelled,
        block=min(latency.TEXT, _positions(context.master.model)),
        steps=STEPS,
        about=about,
        why_student=f"{candidate.why} {QUANTISE}" if rounding else candidate.why,
        why_steps="",
        advice=[NOT_QUANTISED] if asked and not rounding else [],
    )


def _positions(model: Model) -> int:
    """Tokens that a text may have."""
    most: int = getattr(model.config, "max_position_embeddings", latency.TEXT)
    return most - model.first_position


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


def _why_stages(candidate: Candidate, teacher: Tally) -> str:
    """The sizes on the way, and by how much each step shrinks."""
    sizes = [teacher.parameters, *candidate.stages, candidate.tally.parameters]
    told = " → ".join(f"{size:,}" for size in sizes)
    steps = ", ".join(f"{a / b:.1f}x" for a, b in pairwise(sizes))
    return f"Teacher-assistants, about 5–7x a step: {told} parameters ({steps}); each is made from the one before and taught by it."


QUANTISE = (
    "For the second half of its steps it sees its weights rounded to few bits, and ends on them (docs/quantize.md): so the guide ends "
    "such a compression."
)
"""Why a student learns with quantisation in the loop."""

NOT_QUANTISED = (
    "The guide ends such a compression with quantisation in the loop, which this family of models cannot have here: sizes as int8 or "
    "int4 are of weights rounded after training, and what that costs is not predicted."
)
"""What to know where it cannot."""


def quantised(found: Found, context: Context) -> dict[str, Any]:
    """The recipe's ``student.quantize`` for a student, by the largest group that divides its rows; empty where it cannot be.

    Args:
        found: its shapes.
        context: for the precision that was asked for; int4 where none was.

    """
    sized = any(goal.kind in ("file", "memory") for goal in context.goals)
    bits = context.precision if sized and context.precision in ("int8", "int4") else "int4"
    for group in (32, 16, "row"):
        section = {"weights": bits, "embedding": bits, "group": group, "after": 0.5}
        try:
            foresee(recipe.Quantize.model_validate(section), found.model)
        except ModelError:
            continue
        finally:
            found.model.grids = {}
        return section
    return {}


def share(band: Band) -> str:
    """A band in words."""
    return (
        f"{100 * band.low:.0f}–{100 * band.high:.0f} %"
        if band.low is not None
        else f"less than {100 * band.high:.0f} %"
    )


def spoken(seconds: float) -> str:
    """A training time in words."""
    days = seconds / 86400
    return f"about {days:,.0f} days" if days >= 3 else f"about {duration(seconds)}"
