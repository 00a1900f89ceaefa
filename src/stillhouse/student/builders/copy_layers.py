"""A student whose every layer starts as a copy of one of its teacher's."""

from __future__ import annotations

from stillhouse.errors import ModelError, fail
from stillhouse.models import Model
from stillhouse.student.depth import with_layers


def copy_layers(teacher: Model, *, layers: list[int]) -> Model:
    """A student of the teacher's layers in any order, also repeated (depth up-scaling, Kim et al. 2023, arXiv:2312.15166, §2).

    Args:
        teacher: what to copy from.
        layers: for each layer of the student, the teacher's that it starts as, counted from 0: [0, 0, 5, 5, 11] reads two
            layers twice, each copy free to become another.

    """
    depth = len(teacher.layers)
    if not layers or min(layers) < 0 or max(layers) >= depth:
        what = f"{layers} cannot be copied of {depth} layers"
        raise fail(ModelError, "student.layers", what, f"Give numbers from 0 to {depth - 1}, one for each layer.")
    return with_layers(teacher, layers)
