"""A narrower model made of a wider one: which channels and heads stay, and the cut itself.

One place for all that shrink a width; what a family keeps where comes from ``families``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stillhouse.errors import ModelError, fail
from stillhouse.models import Model
from stillhouse.student.families import Size, family_of, parts_of
from stillhouse.student.importance import Sample, norm_gains, widths


@dataclass(frozen=True)
class Kept:
    """What stays of each part; indices ascending.

    Args:
        hidden: channels of the hidden states, for all layers.
        groups: key-value heads with their query heads, in each layer.
        intermediate: feed-forward channels, in each layer.
        gains: what each norm is multiplied by, by its name; 1 where not named.

    """

    hidden: Tensor
    groups: list[Tensor]
    intermediate: list[Tensor]
    gains: dict[str, float] = field(default_factory=dict)


def narrow(teacher: Model, sample: Sample, size: Size, *, where: str = "student") -> Model:
    """The teacher with the widths of ``size``, its most active channels and heads kept.

    Args:
        teacher: of a known family; on the meta device nothing is measured and the first of everything are kept.
        sample: gives texts to measure on; only called if something is cut.
        size: the student's; layers and vocabulary are the teacher's.
        where: the recipe key to name in errors.

    Raises:
        ModelError: the family is not known, or it cannot have this size.

    """
    old = check_size(teacher, size, where=where)
    if size == old or next(teacher.parameters()).is_meta:
        return cut(teacher, size, first(old, size))
    texts = sample()
    scores = widths(teacher, texts)
    hidden = _best(scores.hidden_H, size.hidden)
    return cut(
        teacher,
        size,
        Kept(
            hidden,
            [_best(scores_G, size.groups) for scores_G in scores.groups_LG],
            [_best(scores_F, size.intermediate) for scores_F in scores.intermediate_LF],
            norm_gains(teacher, texts, hidden) if size.hidden < old.hidden else {},
        ),
    )


def check_size(teacher: Model, size: Size, *, where: str = "student") -> Size:
    """The teacher's own size, after checking that it can be narrowed to another.

    Raises:
        ModelError: the family is not known, or it cannot have this size.

    """
    family = family_of(teacher.network, where)
    old = family.size(teacher.config)
    for key in ("hidden", "heads", "intermediate"):
        new, most = getattr(size, key), getattr(old, key)
        if not 1 <= new <= most:
            what = f"{new} is not between 1 and the teacher's {most}"
            raise fail(ModelError, f"{where}.{key}", what, f"Give at most {most}: a cut only makes narrower.")
    if found := family.problem(size):
        raise fail(ModelError, where, *found)
    return old


def first(old: Size, size: Size) -> Kept:
    """The first of everything: what stays where nothing is measured."""
    return Kept(
        torch.arange(size.hidden, device="cpu"),
        [torch.arange(size.groups, device="cpu")] * old.layers,
        [torch.arange(size.intermediate, device="cpu")] * old.layers,
    )


def cut(teacher: Model, size: Size, kept: Kept) -> Model:
    """The teacher with only what is kept, all weights its own.

    What is computed is the teacher's formula with the sums over hidden channels, heads and feed-forward channels running
    over the kept ones; norms are taken over the kept channels and multiplied by their gains. Where a family multiplies
    embeddings by √hidden (Gemma), they are made larger by the factor that this shrinks by, and if the head shares them the
    last norm smaller, so that neither the stream nor the logits notice.

    Args:
        teacher: of a known family.
        size: the widths; as many as are kept.
        kept: what stays.

    """
    network, family = teacher.network, family_of(teacher.network)
    old = family.size(network.config)
    device = next(network.parameters()).device
    with torch.device(device):
        student = type(network)._from_config(family.resized(network.config, size))
    if network.can_generate():
        student.generation_config = copy.deepcopy(network.generation_config)
    trunk = f"{network.base_model_prefix}." if network.base_model is not network else ""
    louder = math.sqrt(old.hidden / size.hidden) if family.scales_embedding else 1.0
    embedding = network.get_input_embeddings().weight
    head = network.get_output_embeddings()
    tied = head is not None and head.weight is embedding
    theirs = dict(network.named_parameters())
    parts = parts_of(network)
    with torch.no_grad():
        for name, mine in student.named_parameters():
            value, part = theirs[name], parts[name]
            if device.type == "meta":
                continue
            for axis, letter in enumerate(part.axes):
                index = _indices(letter, old, kept, part.layer)
                value = value if index is None else value.index_select(axis, index.to(device))
            gain = kept.gains.get(name.removesuffix(".weight"), 1.0) if part.norm else 1.0
            if part.norm and name == f"{trunk}{family.final_norm}.weight" and tied:
                gain /= louder
            if theirs[name] is embedding:
                value = value * louder if louder != 1.0 else value
            if gain != 1.0:
                value = (value + family.norm_offset) * gain - family.norm_offset
            mine.copy_(value)
    name = f"{teacher.name}-{size.hidden}x{size.heads}x{size.intermediate}"
    return Model(student, teacher.tokenizer, name).requires_grad_(True)


def _best(scores: Tensor, keep: int) -> Tensor:
    """Which score highest, in their old order."""
    return scores.topk(keep).indices.sort().values


def _indices(letter: str, old: Size, kept: Kept, layer: int | None) -> Tensor | None:
    """Which entries of an axis stay; None for all."""
    if letter == "H":
        return kept.hidden
    if layer is None or letter == ".":
        return None
    if letter == "F":
        return kept.intermediate[layer]
    groups, head = kept.groups[layer], old.head_width
    queries, keys = _blocks(groups, old.heads // old.groups * head), _blocks(groups, head)
    joined: dict[str, Callable[[], Tensor]] = {
        "Q": lambda: queries,
        "K": lambda: keys,
        "A": lambda: torch.cat([queries, old.heads * head + keys, (old.heads + old.groups) * head + keys]),
        "B": lambda: _blocks(groups, 3 * head),
    }
    return joined[letter]()


def _blocks(chosen: Tensor, width: int) -> Tensor:
    """Entries of the chosen blocks of an axis that is made of blocks of a width."""
    return (chosen[:, None] * width + torch.arange(width, device=chosen.device)).flatten()
