"""Student: what is taught."""

from __future__ import annotations

import torch

from stillhouse import recipe
from stillhouse.errors import ModelError, fail
from stillhouse.find import check_options, find
from stillhouse.models import Model


def build(section: recipe.Student, teacher: Model, seed: int = 0, *, empty: bool = False) -> Model:
    """Make the student that a recipe names, from the teacher where it can be.

    Args:
        section: the recipe's.
        teacher: what it is made from.
        seed: of fresh weights: the same seed, the same student.
        empty: only its shapes.

    Raises:
        ModelError: it cannot be made of this teacher.
        RecipeError: no such builder, or options it does not take.

    """
    builder = find("builder", section.name, "student")
    options = check_options(builder, section.options, "student")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with torch.device("meta" if empty else "cpu"):
            student: Model = builder(teacher, **options)
    if student.tokenizer is not teacher.tokenizer and student.tokenizer.get_vocab() != teacher.tokenizer.get_vocab():
        raise fail(
            ModelError,
            "student",
            f"the tokens of {student.name} are not those of its teacher {teacher.name}",
            "Take a student with the teacher's tokenizer.",
        )
    if not empty and any(p.is_meta for p in student.parameters()):
        what = f"is made of the weights of {teacher.name}, which are not here"
        raise fail(ModelError, "student", what, "Take a student with weights of its own: random or pretrained.")
    return student.requires_grad_(True)
