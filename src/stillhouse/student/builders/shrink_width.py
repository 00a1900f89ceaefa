"""A student narrower than its teacher."""

from __future__ import annotations

from dataclasses import replace

from stillhouse.errors import ModelError, fail
from stillhouse.models import Model
from stillhouse.student.families import family_of
from stillhouse.student.importance import Sample
from stillhouse.student.width import narrow


def shrink_width(
    teacher: Model,
    sample: Sample,
    *,
    hidden: int | None = None,
    heads: int | None = None,
    intermediate: int | None = None,
) -> Model:
    """The teacher with only its most active channels and heads (Minitron, Muralidharan et al. 2024, arXiv:2407.14679).

    Embedding, head, norms and projections are cut together. Where the width of a head is not the configuration's own
    (GPT-2, GPT-NeoX, BERT, RoBERTa), hidden is heads × that width, so that giving one of the two gives the other.

    Args:
        teacher: what to cut; of a known family.
        sample: texts to measure activity on.
        hidden: channels of the hidden states to keep.
        heads: query heads to keep, in whole groups that share a key-value head.
        intermediate: channels of each feed-forward layer to keep.

    """
    family = family_of(teacher.network)
    old = family.size(teacher.config)
    if not family.own_head_width:
        if hidden is not None and hidden % old.head_width:
            what = f"in a {family.name} the hidden width is made of heads of {old.head_width} channels, and {hidden} is no multiple"
            raise fail(ModelError, "student.hidden", what, f"Take a multiple of {old.head_width}.")
        heads = hidden // old.head_width if heads is None and hidden is not None else heads
        hidden = heads * old.head_width if hidden is None and heads is not None else hidden
    together = old.heads // old.groups
    if heads is not None and heads % together:
        what = f"{heads} heads are not whole groups: {together} query heads share a key-value head"
        raise fail(ModelError, "student.heads", what, f"Take a multiple of {together}, up to {old.heads}.")
    heads = old.heads if heads is None else heads
    size = replace(
        old,
        hidden=old.hidden if hidden is None else hidden,
        heads=heads,
        groups=heads // together,
        intermediate=old.intermediate if intermediate is None else intermediate,
    )
    return narrow(teacher, sample, size)
