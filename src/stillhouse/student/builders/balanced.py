"""A student of a wanted size, shallower and narrower than its teacher by about the same factor."""

from __future__ import annotations

from stillhouse.errors import ModelError, fail
from stillhouse.models import Model
from stillhouse.student.depth import By, choose_layers, with_layers
from stillhouse.student.importance import Sample
from stillhouse.student.shapes import choose, smallest, target
from stillhouse.student.width import narrow


def balanced(
    teacher: Model,
    sample: Sample,
    *,
    ratio: float | None = None,
    parameters: int | None = None,
    by: By = "even",
) -> Model:
    """The teacher cut in depth and width to a size, its proportions kept as nearly as whole heads and layers allow.

    Args:
        teacher: what to cut; of a known family.
        sample: texts to measure importance on.
        ratio: how many times fewer parameters than the teacher, at least; embeddings count too.
        parameters: the most parameters; instead of ratio.
        by: how layers are chosen, as in drop_layers.

    """
    most = target(teacher.network, ratio=ratio, parameters=parameters)
    found = choose(teacher.network, most, "balanced")
    if found is None:
        least = smallest(teacher.network, "balanced")
        what = f"no student of this teacher has at most {most:,} parameters: the smallest has {least:,}"
        way_out = f"Ask for {least:,} or more, or make the vocabulary smaller first: trim_vocabulary, then balanced."
        raise fail(ModelError, "student", what, way_out)
    shallow = with_layers(teacher, choose_layers(teacher, sample, found.size.layers, by))
    return narrow(shallow, sample, found.size)
