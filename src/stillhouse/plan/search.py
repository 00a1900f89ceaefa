"""The largest student of each way that holds all limits, with the builders that make it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stillhouse import recipe, student
from stillhouse.errors import ModelError
from stillhouse.models import Model
from stillhouse.plan.goal import Goal
from stillhouse.plan.sizes import Tally, tally, with_vocabulary
from stillhouse.student import shapes
from stillhouse.student.families import FAMILIES
from stillhouse.student.trim import Vocabulary, named_ids

VOCABULARIES = tuple(2**power for power in range(16, 8, -1))
"""Sizes that a vocabulary is trimmed to, largest first."""

PASSED = 0.95
"""The step in which sizes are tried again that a larger one may have passed by."""

LOOKUP = 1 / 3
"""The share of a student that a trimmed vocabulary's rows may take; the largest vocabulary that keeps to it is taken."""


@dataclass(frozen=True)
class Limit:
    """What a goal does not allow to be exceeded.

    Args:
        goal: whose.
        most: the highest value.
        of: the value of a student.

    """

    goal: Goal
    most: float
    of: Callable[[Tally], float]

    def holds(self, found: Tally) -> bool:
        """Whether a student keeps to it."""
        return self.of(found) <= self.most


@dataclass(frozen=True)
class Found:
    """A student as shapes.

    Args:
        way: depth, width or balanced.
        vocabulary: tokens it was trimmed to; None if it keeps the teacher's.
        section: the recipe's section that makes it.
        model: its shapes, on the meta device; its tokenizer is still the teacher's.
        tally: its sizes.
        stages: students in between, largest first; the first is made from the teacher, each other from the one before, and the
            section makes this one from the last.

    """

    way: str
    vocabulary: int | None
    section: dict[str, Any]
    model: Model
    tally: Tally
    stages: tuple[Found, ...] = ()


def ways(teacher: Model) -> tuple[str, ...]:
    """In what ways a teacher can be cut: layers can be dropped of any model, a width only where the family is known."""
    return shapes.WAYS if teacher.config.model_type in FAMILIES else ("depth",)


def vocabularies(teacher: Model) -> list[int]:
    """Sizes that the teacher's vocabulary can be trimmed to, largest first; none where no token can be taken from it."""
    rows = teacher.network.get_input_embeddings().weight.shape[0]
    try:
        found = Vocabulary.of(teacher.tokenizer, rows, named_ids(teacher.network))
    except ModelError:
        return []
    return [size for size in VOCABULARIES if len(found.always) <= size < len(found.ids)]


def search(teacher: Model, way: str, limits: Sequence[Limit]) -> Found | None:
    """The largest student of a way with the teacher's vocabulary; None if the smallest is too large.

    Shrinks by as much as the worst limit is exceeded until all hold. A student of half the size costs about half, but where
    time or a cache is limited one with a layer less can cost less than its share; what the last step passed by is tried too.

    Args:
        teacher: may be on the meta device.
        way: one of ``ways``.
        limits: all must hold.

    """

    def attempt(most: int) -> tuple[Found | None, float]:
        section = _section(teacher, way, most)
        if section is None:
            return None, 0.0
        pupil = student.build(recipe.Student(**section), teacher, empty=True)
        found = Found(way, None, section, pupil, tally(pupil))
        return found, max(limit.of(found.tally) / limit.most for limit in limits)

    least, over = attempt(_least(teacher, way))
    if over > 1.0:
        return None
    counts = [limit.most for limit in limits if limit.goal.kind in ("ratio", "parameters")]
    most = before = math.floor(min([teacher.parameters_count, *counts]))
    found, over = attempt(most)
    while found is not None and over > 1.0:
        before = found.tally.parameters - 1
        most = min(before, math.floor(found.tally.parameters / over))
        found, over = attempt(most)
    if not all(limit.goal.kind in ("ratio", "parameters", "file") for limit in limits):
        while before > most:
            passed, over = attempt(before)
            if passed is None:
                break
            if over <= 1.0:
                return passed
            before = min(passed.tally.parameters - 1, math.floor(PASSED * before))
    return found or least


def search_trimmed(teacher: Model, way: str, limits: Sequence[Limit], sizes: Sequence[int]) -> Found | None:
    """The same with a trimmed vocabulary: the largest whose rows take at most ``LOOKUP`` of the student, else the smallest.

    Args:
        teacher: may be on the meta device.
        way: one of ``ways``.
        limits: all must hold.
        sizes: of the vocabulary, largest first.

    """
    best = None
    for size in sizes:
        base = with_vocabulary(teacher, size)
        found = search(base, way, limits)
        if found is not None:
            further = [] if found.tally.parameters == base.parameters_count else [found.section]
            best = Found(way, size, _trimmed(size, further), found.model, found.tally)
            if found.tally.lookup <= LOOKUP:
                break
    return best


def staged(teacher: Model, found: Found, limits: Sequence[Limit], count: int) -> Found:
    """The same student by way of others in between, each smaller than the one before by about the same factor.

    Args:
        teacher: may be on the meta device.
        found: the student straight from the teacher.
        limits: that it holds.
        count: of students, itself included; fewer where a size in between would be no step.

    """
    base = teacher if found.vocabulary is None else with_vocabulary(teacher, found.vocabulary)
    step = (teacher.parameters_count / found.tally.parameters) ** (1.0 / count)
    stages: list[Found] = []
    for index in range(1, count):
        last = stages[-1].model if stages else base
        section = _section(last, found.way, math.floor(teacher.parameters_count / step**index))
        if section is None:
            continue
        pupil = student.build(recipe.Student(**section), last, empty=True)
        counted = tally(pupil)
        if found.tally.parameters < counted.parameters < last.parameters_count:
            if found.vocabulary is not None and not stages:
                section = _trimmed(found.vocabulary, [section])
            stages.append(Found(found.way, found.vocabulary, section, pupil, counted))
    end = search(stages[-1].model, found.way, limits) if stages else None
    if end is None or end.tally.parameters >= stages[-1].tally.parameters:
        return found
    return replace(end, vocabulary=found.vocabulary, stages=tuple(stages))


def smallest(teacher: Model, sizes: Sequence[int]) -> list[Found]:
    """The smallest student of each way, its vocabulary trimmed as far as it goes."""
    base = with_vocabulary(teacher, sizes[-1]) if sizes else teacher
    found = []
    for way in ways(teacher):
        section = _section(base, way, _least(base, way))
        assert section is not None
        pupil = student.build(recipe.Student(**section), base, empty=True)
        whole = _trimmed(sizes[-1], [section]) if sizes else section
        found.append(Found(way, sizes[-1] if sizes else None, whole, pupil, tally(pupil)))
    return found


def _trimmed(size: int, further: list[dict[str, Any]]) -> dict[str, Any]:
    return {"name": "trim_vocabulary", "size": size} | ({"then": further} if further else {})


def _least(teacher: Model, way: str) -> int:
    if way != "depth":
        return shapes.smallest(teacher.network, way)
    outside, per_layer = _outside(teacher)
    return outside + per_layer


def _section(teacher: Model, way: str, most: int) -> dict[str, Any] | None:
    """The builder that makes a student of at most so many parameters; None if there is none so small."""
    if way == "depth":
        outside, per_layer = _outside(teacher)
        keep = min((most - outside) // per_layer, len(teacher.layers))
        return {"name": "drop_layers", "keep": keep} if keep >= 1 else None
    found = shapes.choose(teacher.network, most, way)
    if found is None:
        return None
    if way == "balanced":
        return {"name": "balanced", "parameters": most}
    size = found.size
    return {"name": "shrink_width", "hidden": size.hidden, "heads": size.heads, "intermediate": size.intermediate}


def _outside(teacher: Model) -> tuple[int, int]:
    """Parameters outside the layers, and those of the largest layer."""
    layers = [sum(p.numel() for p in layer.parameters()) for layer in teacher.layers]
    return teacher.parameters_count - sum(layers), max(layers)
