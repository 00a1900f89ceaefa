"""Student: what is taught."""

from __future__ import annotations

from stillhouse import recipe
from stillhouse.errors import ModelError, fail
from stillhouse.find import check_options, find
from stillhouse.models import Model


def build(section: recipe.Student, teacher: Model) -> Model:
    """Make the student that a recipe names, from the teacher where it can be. An empty teacher gives an empty student.

    Raises:
        ModelError: it cannot be made of this teacher.
        RecipeError: no such builder, or options it does not take.

    """
    builder = find("builder", section.name, "student")
    student: Model = builder(teacher, **check_options(builder, section.options, "student"))
    if student.outcomes != teacher.outcomes and student.tokenizer.get_vocab() != teacher.tokenizer.get_vocab():
        raise fail(
            ModelError,
            "student",
            f"its vocabulary ({student.outcomes:,}) is not the teacher's ({teacher.outcomes:,})",
            "Take a student with the teacher's tokenizer.",
        )
    return student
