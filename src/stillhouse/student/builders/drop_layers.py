"""A student with fewer layers than its teacher."""

from __future__ import annotations

from stillhouse.errors import ModelError, fail
from stillhouse.models import Model
from stillhouse.student.depth import By, choose_layers, even, with_layers
from stillhouse.student.importance import Sample

__all__ = ["drop_layers", "even"]


def drop_layers(teacher: Model, sample: Sample, *, keep: int | list[int], by: By = "even") -> Model:
    """The teacher with only some of its layers, all weights its own (DistilBERT, Sanh et al. 2019, arXiv:1910.01108, §3).

    Args:
        teacher: what to cut.
        sample: texts to measure layers on, where ``by`` measures.
        keep: how many layers, spread evenly with the first and the last among them unless ``by`` says otherwise; or which,
            counted from 0.
        by: how to choose them: ``even``; ``block_influence``, those that turn their input most (ShortGPT, Men et al. 2024,
            arXiv:2403.03853); ``perplexity``, those whose absence costs most (Minitron, Muralidharan et al. 2024,
            arXiv:2407.14679).

    """
    depth = len(teacher.layers)
    if isinstance(keep, list) and by != "even":
        what = f"the layers are listed, so that none are left to choose by {by}"
        raise fail(ModelError, "student.by", what, "Give keep as a number, or leave by out.")
    chosen = choose_layers(teacher, sample, keep, by) if isinstance(keep, int) else list(keep)
    if not chosen or chosen != sorted(set(chosen)) or chosen[0] < 0 or chosen[-1] >= depth:
        raise fail(
            ModelError,
            "student.keep",
            f"{keep} cannot be kept of {depth} layers",
            f"Give a number from 1 to {depth}, or layers in rising order from 0 to {depth - 1}.",
        )
    return with_layers(teacher, chosen)
