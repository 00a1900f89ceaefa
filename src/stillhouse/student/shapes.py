"""Which shape a smaller student should have: exact parameter counts by formula, and the shapes that fit a target.

Nothing here needs weights: a teacher on the meta device will do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from transformers import PreTrainedModel

from stillhouse.errors import ModelError, fail
from stillhouse.student.families import Size, family_of, parts_of

WAYS = ("depth", "width", "balanced")
"""Fewer layers; narrower ones; both by about the same factor."""

TILE = 32
"""Widths are multiples of this where the teacher is wide enough: quantised formats store blocks of 32 weights of a row, and
matrix products are tiled in such steps."""

SLACK = 0.03
"""Of the target's parameters, that a shape may leave unused for better proportions."""


@dataclass(frozen=True)
class Candidate:
    """A student that fits.

    Args:
        way: one of ``WAYS``.
        size: its shape.
        parameters: exactly, tied ones once; what the saved file holds.

    """

    way: str
    size: Size
    parameters: int


class Counter:
    """Parameters of a teacher's family in any size, without making the model.

    The formula is read off the teacher: every parameter is a product of the lengths of its axes, and all layers are alike.

    Args:
        network: of a known family; may be on the meta device.
        where: the recipe key to name in errors.

    Raises:
        ModelError: the family is not known.

    """

    def __init__(self, network: PreTrainedModel, where: str = "student") -> None:
        self.family = family_of(network, where)
        self.size = self.family.size(network.config)
        parts = parts_of(network, where)
        shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
        self._terms: dict[
            tuple[str, bool], int
        ] = {}  # letters of a product, in a layer or not → how often, times fixed axes
        for name, part in parts.items():
            if part.layer not in (None, 0):
                continue
            fixed = math.prod(n for n, axis in zip(shapes[name], part.axes, strict=True) if axis == ".")
            key = ("".join(sorted(part.axes.replace(".", ""))), part.layer is not None)
            self._terms[key] = self._terms.get(key, 0) + fixed

    def __call__(self, size: Size) -> int:
        """How many parameters a model of this size has, tied ones counted once."""
        length = size.letters
        return sum(
            often * math.prod(length[axis] for axis in axes) * (size.layers if in_layer else 1)
            for (axes, in_layer), often in self._terms.items()
        )


def candidates(network: PreTrainedModel, parameters: int, *, where: str = "student") -> dict[str, Candidate]:
    """Students of at most so many parameters, as near to it as their way allows.

    Args:
        network: the teacher's; may be on the meta device.
        parameters: the most that a student may have.
        where: the recipe key to name in errors.

    Returns:
        by way; a way that cannot get there (a head and an embedding alone are larger) is left out. Give the teacher after
        its vocabulary is trimmed to plan with a smaller one.

    Raises:
        ModelError: the family is not known.

    """
    found = {way: choose(network, parameters, way, where=where) for way in WAYS}
    return {way: candidate for way, candidate in found.items() if candidate is not None}


def choose(network: PreTrainedModel, parameters: int, way: str, *, where: str = "student") -> Candidate | None:
    """The best shape of one way.

    Of all shapes with at most ``parameters`` and at least ``1 − SLACK`` of them (or else of the largest that fit), the one
    whose proportions are nearest to the teacher's: with the factors by which layers, hidden width, heads and feed-forward
    width shrink, the smallest variance of their logarithms. For depth and width the factors of what stays are left out.

    Args:
        network: the teacher's; may be on the meta device.
        parameters: the most that the student may have.
        way: one of ``WAYS``.
        where: the recipe key to name in errors.

    Returns:
        None if the smallest shape of this way is still too large.

    Raises:
        ModelError: the family is not known.

    """
    counter = Counter(network, where)
    fitting = [
        Candidate(way, size, count)
        for size in _sizes(counter, parameters, way)
        if (count := counter(size)) <= parameters and counter.family.problem(size) is None
    ]
    if not fitting:
        return None
    most = max(c.parameters for c in fitting)
    near = [c for c in fitting if c.parameters >= min(most, (1.0 - SLACK) * parameters)]
    return min(near, key=lambda c: (_spread(c.size, counter.size, way), -c.parameters))


def smallest(network: PreTrainedModel, way: str, *, where: str = "student") -> int:
    """Parameters of the smallest student of a way: the nearest that is possible where a goal is too small.

    Args:
        network: the teacher's; may be on the meta device.
        way: one of ``WAYS``.
        where: the recipe key to name in errors.

    Raises:
        ModelError: the family is not known.

    """
    counter = Counter(network, where)
    old = counter.size
    one_layer = replace(old, layers=1) if way != "width" else old
    if way == "depth":
        return counter(one_layer)
    heads = old.heads // old.groups
    fits = (
        replace(one_layer, groups=1, heads=heads, hidden=hidden, intermediate=step_of(old.intermediate))
        for hidden in ([heads * old.head_width] if not counter.family.own_head_width else _hidden_widths(old))
    )
    return min(counter(size) for size in fits if counter.family.problem(size) is None)


def target(network: PreTrainedModel, *, ratio: float | None, parameters: int | None, where: str = "student") -> int:
    """The most parameters that a goal allows.

    Args:
        network: the teacher's.
        ratio: how many times fewer parameters than the teacher.
        parameters: how many.
        where: the recipe key to name in errors.

    Raises:
        ModelError: both or none given, or a goal that is no reduction.

    """
    whole = Counter(network, where)
    full = whole(whole.size)
    if (ratio is None) == (parameters is None):
        raise fail(ModelError, where, "give ratio or parameters, one of the two", "Write ratio: 4, for a quarter.")
    if ratio is not None and ratio < 1:
        raise fail(
            ModelError, f"{where}.ratio", f"{ratio} would make a student larger than its teacher", "Give at least 1."
        )
    if parameters is not None and not 1 <= parameters <= full:
        what = f"{parameters:,} parameters are not between 1 and the teacher's {full:,}"
        raise fail(ModelError, f"{where}.parameters", what, "Give fewer than the teacher has.")
    return parameters if parameters is not None else math.floor(full / (ratio or 1.0))


def step_of(width: int) -> int:
    """What a width shrinks in: ``TILE``, or a smaller power of two for narrow models, so that there are at least 8 steps."""
    step = TILE
    while step > 1 and (width % step or width // step < 8):
        step //= 2
    return step


def _sizes(counter: Counter, parameters: int, way: str) -> Iterator[Size]:
    """Shapes worth counting; the feed-forward width is the finest knob and fills what the others leave."""
    old = counter.size
    if way == "depth":
        yield from (replace(old, layers=n) for n in range(old.layers, 0, -1))
        return
    if counter(old) <= parameters:
        yield old
        return
    depths = [old.layers] if way == "width" else range(1, old.layers + 1)
    per_group, step = old.heads // old.groups, step_of(old.intermediate)
    for layers, groups in product(depths, range(1, old.groups + 1)):
        narrow = replace(old, layers=layers, groups=groups, heads=groups * per_group)
        if counter.family.own_head_width:
            widths = _hidden_widths(old)
        else:
            widths = range(narrow.heads * old.head_width, narrow.heads * old.head_width + 1)
        for hidden in widths:
            empty = replace(narrow, hidden=hidden, intermediate=0)
            one = counter(replace(empty, intermediate=step)) - counter(empty)
            steps = min((parameters - counter(empty)) // one, old.intermediate // step)
            if steps >= 1:
                yield replace(empty, intermediate=steps * step)


def _hidden_widths(old: Size) -> range:
    return range(step_of(old.hidden), old.hidden + 1, step_of(old.hidden))


def _spread(size: Size, old: Size, way: str) -> float:
    """Variance of the logarithms of the factors by which the parts shrank."""
    logs = [
        math.log(size.hidden / old.hidden),
        math.log(size.heads / old.heads),
        math.log(size.intermediate / old.intermediate),
    ]
    if way == "balanced":  # depth against the mean of the widths: neither should pay for the other
        logs += [math.log(size.layers / old.layers)] * len(logs)
    mean = sum(logs) / len(logs)
    return sum((x - mean) ** 2 for x in logs) / len(logs)
