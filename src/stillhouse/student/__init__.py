"""Student: what is taught."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from stillhouse import recipe
from stillhouse.errors import ModelError, StillhouseError, fail
from stillhouse.find import check_options, find
from stillhouse.student import quantize

if TYPE_CHECKING:
    from stillhouse.models import Model


def build(
    section: recipe.Student,
    teacher: Model,
    seed: int = 0,
    *,
    empty: bool = False,
    sample: Callable[[], list[str]] | None = None,
    classes: tuple[str, ...] = (),
) -> Model:
    """Make the student that a recipe names, from the teacher where it can be; each further builder from what the last made.

    Args:
        section: the recipe's.
        teacher: what it is made from.
        seed: of fresh weights: the same seed, the same student.
        empty: only its shapes.
        sample: some texts of the training data, for builders that measure on them; asked for only then.
        classes: of the data, in their order, for builders of classifiers.

    Raises:
        ModelError: it cannot be made of this teacher.
        RecipeError: no such builder, or options it does not take.

    """
    student = teacher
    wrong: list[StillhouseError] = []
    for strategy, where in chain(section):
        builder = find("builder", strategy.name, where)
        options = check_options(builder, strategy.options, where)
        possible = {"sample": sample or _no_sample, "classes": classes}
        if student is not teacher and student.adapter is not None:  # a teacher's is merged by the time it teaches
            what = "comes after adapters, which are for what is left at the end"
            raise fail(ModelError, where, what, "Put lora last in student.then.")
        given = {name: possible[name] for name in inspect.signature(builder).parameters if name in possible}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            with torch.device("meta" if empty else "cpu"):
                try:
                    student = builder(student, **given, **options)
                except StillhouseError as error:
                    if not empty:
                        raise
                    wrong.append(error)  # the builders behind it are tried on what it was given: all mistakes at once
    if wrong:
        raise type(wrong[0])(*dict.fromkeys(problem for error in wrong for problem in error.problems))
    if not empty and any(p.is_meta for p in student.parameters()):
        what = f"is made of the weights of {teacher.name}, which are not here"
        raise fail(ModelError, "student", what, "Take a student with weights of its own: random or pretrained.")
    quantize.strip(student)  # what it is made from may lie on a grid: what is trained leaves it
    student.grids = {}
    return student.requires_grad_(True)


def chain(section: recipe.Student) -> list[tuple[recipe.Strategy, str]]:
    """The builders of a student in their order, each with its place in the recipe."""
    return [(section, "student"), *((each, f"student.then.{i}") for i, each in enumerate(section.then))]


def _no_sample() -> list[str]:
    raise fail(ModelError, "student", "needs some text of the training data to measure on, and there is none here")
