"""Declared slices of held-out text: which items are in each, and what is kept of the teacher's skill there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stillhouse.evaluate import statistics
from stillhouse.evaluate.records import FloatArray, Items
from stillhouse.evaluate.statistics import Retention

AND = "\x1f"
"""Between the tags of a slice of several, and between their values: what no column's name and no value holds (ASCII's unit separator)."""

TOKENS = 40
"""Positions of a language model that count as one text of a classifier: 50 texts, 2,000 tokens."""

FEWEST = 6
"""Clusters that a slice must have: with fewer nothing can be shown of it."""


def inside(tags: Mapping[str, str], tag: str, value: str) -> bool:
    """Whether a text with these tags is in a slice; all are in that of no tag."""
    return all(tags.get(t) == v for t, v in _pairs(tag, value))


def name_of(tag: str, value: str) -> str:
    """A slice in words: ``domain travel``, ``domain travel and length 5–8 words``, ``all``."""
    return " and ".join(f"{t} {v}" for t, v in _pairs(tag, value)) or "all"


def _pairs(tag: str, value: str) -> list[tuple[str, str]]:
    return list(zip(tag.split(AND), value.split(AND, tag.count(AND)), strict=True)) if tag else []


@dataclass(frozen=True)
class Slice:
    """Items that share the value of a tag; all of them where there is no tag.

    Args:
        tag: such as ``domain``; "" of all items.
        value: such as ``travel``.
        rows_N: which items are in it.
        share: of all items, by what each counts.
        kept: of the teacher's skill there.
        shrunk: the same moved towards the other slices' by how little is known of it.
    """

    tag: str
    value: str
    rows_N: NDArray[np.bool_]
    share: float
    kept: Retention
    shrunk: float

    @property
    def name(self) -> str:
        """In words."""
        return name_of(self.tag, self.value)

    @property
    def size(self) -> int:
        """How many items."""
        return int(self.rows_N.sum())


def scores(items: Items, role: str) -> tuple[FloatArray, FloatArray]:
    """A role's score of each item, higher is better, and what each counts: right or wrong of classes, else −bits and bytes."""
    if items.bytes is None and items.has(role, "correct"):
        return items.roles[role].column("correct"), np.ones(items.size)
    loss_N, size_N, _ = items.loss(role)
    return -loss_N, size_N


def slices_of(
    items: Items,
    tags: Mapping[str, Mapping[str, str]],
    *,
    threshold: float,
    smallest: int,
    margin: float = 0.03,
) -> list[Slice]:
    """All items, and each value of each tag that has enough of them.

    Args:
        items: of teacher, student and floor.
        tags: document → tag → value.
        threshold: of the verdict of each.
        smallest: texts that a slice must have.
        margin: by which the teacher must surely be above the floor.
    """
    least = smallest if items.bytes is None else smallest * TOKENS
    (teacher_N, size_N), (student_N, _), (floor_N, _) = (scores(items, r) for r in ("teacher", "student", "floor"))
    found: list[Slice] = []
    parts: list[tuple[str, str, NDArray[np.bool_]]] = [("", "", np.ones(items.size, dtype=bool))]
    for tag in sorted({name for each in tags.values() for name in each}):
        value_N = np.array([tags.get(key, {}).get(tag, "") for key in items.key.tolist()], dtype=np.object_)
        values = sorted(set(value_N.tolist()) - {""})
        parts += [(tag, value, np.asarray(value_N == value)) for value in values]
    for tag, value, rows_N in parts:
        if tag and (int(rows_N.sum()) < least or len(np.unique(items.document[rows_N])) < FEWEST):
            continue
        kept = statistics.retention(
            teacher_N[rows_N], student_N[rows_N], floor_N[rows_N], items.document[rows_N],
            size_N=size_N[rows_N], threshold=threshold, margin=margin,
        )  # fmt: skip
        share = float(size_N[rows_N].sum() / size_N.sum())
        found.append(Slice(tag, value, rows_N, share, kept, kept.value))
    return _shrunk(found)


def _shrunk(slices: Sequence[Slice]) -> list[Slice]:
    """Each tag's slices, shrunk towards each other; those of which nothing is known stay."""
    made = []
    for one in slices:
        others = [s for s in slices if s.tag == one.tag and math.isfinite(s.kept.value)]
        if not math.isfinite(one.kept.value) or len(others) < 2:
            made.append(one)
            continue
        ses = [max(1e-6, (s.kept.high - s.kept.low) / 3.92) for s in others]
        moved = statistics.shrunk([s.kept.value for s in others], ses)
        place = next(i for i, s in enumerate(others) if s is one)
        made.append(replace(one, shrunk=moved[place]))
    return made
