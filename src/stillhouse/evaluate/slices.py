"""Slices that nobody declared: where the student loses more than elsewhere, found on half of the items, confirmed on the rest.

Whoever looks for the worst of many parts finds one, whether or not it is there. So one half of the clusters points parts out and
the other half, which was not looked at, says which of them are real::

    views = [of_task(task) for task in answers.having("teacher", "student")]  # or [of_text(items)]
    for found in discover(views):  # confirmed ones first
        if found.confirmed:  # Holm over all that were pointed out, 5 %
            found.view  # name of the task
            found.conditions  # (Condition("steps", low=3.0), Condition("length", high=80.0))
            found.rows_N  # which items are in it, [N] bool, of both halves
            found.first, found.second  # Interval: lost inside − lost outside, on each half

``View.side_N`` says which half an item is of: 0 discovers, 1 confirms, −1 is not looked at. It is drawn by a hash of the cluster;
whoever has splits of their own puts them there: ``dataclasses.replace(view, side_N=mine_N)``. A ``Condition`` also tells of other
items whether they are in the slice, ``condition.holds(feature_N)``; the features are the strategies of the kind ``feature``, one a
file in ``features/``, and the tags of the task.

Slices are one condition or two (Chung et al. 2019, "Slice Finder"; here on the difference of two models, paired).
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillhouse.evaluate import statistics
from stillhouse.evaluate.answers import Answered
from stillhouse.evaluate.records import FloatArray, IntArray, Items
from stillhouse.evaluate.statistics import Interval
from stillhouse.find import find, names

Feature = FloatArray | NDArray[np.object_]
"""Of each item a number, or a word ("" where it has none)."""

SMALLEST = 25
"""Items that a slice must have in each half."""

FEWEST = 6
"""Clusters that it must have in each half: with fewer nothing can be shown."""

WORDS = 200
"""Different words of a feature beyond which it says who an item is and not what."""

_FALSE = 0.10  # share of false ones among those that are pointed out
_BEAM = 12  # parts by one condition that are tried with a second
_GAIN = 0.5  # standard errors by which two conditions must be surer than each alone
_SAME = 1 / 3  # share of common items above which two slices are one


@dataclass(frozen=True)
class View:
    """What is searched: one task, or the held-out text.

    Args:
        name: of the task.
        lost_N: what the student loses at each item: points of score, or nats.
        cluster_N: the cluster of each item.
        side_N: 0 for items that discover, 1 for those that confirm, −1 for those that must not be looked at.
        features: what slices are made of.
        unit: of ``lost_N``.
    """

    name: str
    lost_N: FloatArray
    cluster_N: IntArray
    side_N: IntArray
    features: Mapping[str, Feature]
    unit: str


@dataclass(frozen=True)
class Condition:
    """A word, or a range of numbers, low ≤ x < high."""

    feature: str
    word: str | None = None
    low: float = -math.inf
    high: float = math.inf

    def holds(self, feature_N: Feature) -> NDArray[np.bool_]:
        """Which items it is true of, [N]."""
        if self.word is not None:
            return np.asarray(feature_N == self.word)
        number_N = numbers(feature_N)
        assert number_N is not None, f"{self.feature} has no numbers"
        return np.asarray((number_N >= self.low) & (number_N < self.high))

    def __str__(self) -> str:
        if self.word is not None:
            return f"{self.feature} {self.word}"
        if self.low == -math.inf:
            return f"{self.feature} below {self.high:.4g}"
        return f"{self.feature} from {self.low:.4g}"


@dataclass(frozen=True)
class Found:
    """A slice that one half pointed out.

    Args:
        view: name of what it is of.
        conditions: one or two; all hold.
        rows_N: which items are in it.
        first: lost inside less lost outside, on the half that discovered it: larger than it is, since it was chosen for that.
        second: the same on the other half.
        p: that it is not more than elsewhere, on the other half, adjusted for all that were pointed out (Holm).
        unit: of the two.
    """

    view: str
    conditions: tuple[Condition, ...]
    rows_N: NDArray[np.bool_]
    first: Interval
    second: Interval
    p: float
    unit: str

    @property
    def confirmed(self) -> bool:
        """Whether the other half says so too."""
        return self.p <= 0.05

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.view}: {' and '.join(map(str, self.conditions))}"


def of_task(task: Answered, *, features: Sequence[str] | None = None, seed: int = 0) -> View:
    """A task, sliced by its tags and by features of its questions.

    Args:
        task: of teacher and student.
        features: names of strategies of the kind ``feature``; all if None.
        seed: of the choice of halves.
    """
    lost_N = task.score("teacher") - task.score("student")
    parts: dict[str, Feature] = {**task.tags, **_features(task, features)}
    return _view(task.task, lost_N, task.cluster, parts, "points", seed)


def of_text(items: Items, *, features: Sequence[str] | None = None, seed: int = 0) -> View:
    """Held-out text, or the examples of a classifier.

    Args:
        items: of teacher and student.
        features: names of strategies of the kind ``feature``; all if None.
        seed: of the choice of halves.
    """
    lost_N = items.roles["student"].nll - items.roles["teacher"].nll
    return _view("text", lost_N, items.document, _features(items, features), "nats", seed)


def _view(
    name: str, lost_N: FloatArray, cluster_N: IntArray, features: Mapping[str, Feature], unit: str, seed: int
) -> View:
    return View(name, lost_N, cluster_N, halves(name, cluster_N.tolist(), seed), features, unit)


def halves(name: str, clusters: Sequence[int | str], seed: int) -> IntArray:
    """0 or 1 of each item, by a hash of its cluster: which half of a view it is of."""
    side_of = {c: hashlib.sha256(f"{seed}/{name}/{c}".encode()).digest()[0] % 2 for c in set(clusters)}
    return np.array([side_of[c] for c in clusters], dtype=np.int64)


def _features(table: Answered | Items, asked: Sequence[str] | None) -> dict[str, Feature]:
    made = {name: find("feature", name)(table) for name in (names("feature") if asked is None else asked)}
    return {name: feature for name, feature in made.items() if feature is not None}


def numbers(feature_N: Feature) -> FloatArray | None:
    """A feature as numbers; None if any of it is none. Tags are words even where they count steps."""
    try:
        return np.asarray(feature_N, dtype=np.float64)
    except (TypeError, ValueError):
        return None


def discover(views: Sequence[View], *, smallest: int = SMALLEST, most: int = 8) -> list[Found]:
    """The slices in which the student loses more than in the rest of a view, confirmed ones first, the surest to be found first.

    Args:
        views: what is searched.
        smallest: items that a slice must have in each half.
        most: slices that are pointed out in a view.
    """
    pointed = [(view, *one) for view in views for one in _pointed_out(view, smallest, most)]
    seconds = [_excess(view, np.stack([rows_N]), 1)[0] for view, _, rows_N, _ in pointed]
    adjusted = statistics.holm([_above(second) for second in seconds])
    found = [
        Found(view.name, conditions, rows_N, first, second, p, view.unit)
        for (view, conditions, rows_N, first), second, p in zip(pointed, seconds, adjusted, strict=True)
    ]
    return sorted(found, key=lambda one: (not one.confirmed, -_sureness(one.first)))


def _pointed_out(
    view: View, smallest: int, most: int
) -> Iterator[tuple[tuple[Condition, ...], NDArray[np.bool_], Interval]]:
    """Slices that the discovering half points out."""
    singles = [((condition,), condition.holds(view.features[condition.feature])) for condition in _conditions(view)]
    singles = [(conditions, rows_N) for conditions, rows_N in singles if _fits(view, rows_N, smallest)]
    if not singles:
        return
    single_excess = _excess(view, np.stack([rows_N for _, rows_N in singles]), 0)
    sure = {conditions: _sureness(one) for (conditions, _), one in zip(singles, single_excess, strict=True)}
    best = sorted(singles, key=lambda one: -sure[one[0]])[:_BEAM]
    pairs: dict[frozenset[Condition], tuple[tuple[Condition, ...], NDArray[np.bool_]]] = {}
    for (one, rows_N), (other, others_N) in itertools.product(best, singles):
        if one[0].feature != other[0].feature and _fits(view, rows_N & others_N, smallest):
            pairs.setdefault(frozenset(one + other), (one + other, rows_N & others_N))
    tried = [*singles, *pairs.values()]
    pair_excess = _excess(view, np.stack([rows_N for _, rows_N in pairs.values()]), 0) if pairs else []
    excess = [*single_excess, *pair_excess]
    listed = statistics.benjamini_hochberg([_above(one) for one in excess])
    taken: list[NDArray[np.bool_]] = []
    for i in sorted(range(len(tried)), key=lambda i: -_sureness(excess[i])):
        conditions, rows_N = tried[i]
        alone = max((sure[(one,)] for one in conditions), default=0.0) if len(conditions) > 1 else -math.inf
        looked_N = rows_N & (view.side_N == 0)
        if (
            listed[i] > _FALSE
            or _sureness(excess[i]) < alone + (_GAIN if len(conditions) > 1 else 0.0)
            or any(int((looked_N & other).sum()) > _SAME * int((looked_N | other).sum()) for other in taken)
        ):
            continue
        taken.append(looked_N)
        yield conditions, rows_N, excess[i]
        if len(taken) == most:
            return


def _conditions(view: View) -> Iterator[Condition]:
    """What can be true of an item: each word, and numbers above and below the quartiles of the discovering half."""
    for name, feature_N in view.features.items():
        seen_N = feature_N[view.side_N == 0]
        if feature_N.dtype == np.object_:
            words = sorted(set(seen_N.tolist()) - {""})
            if 1 < len(words) <= WORDS:
                yield from (Condition(name, word=word) for word in words)
        number_N = numbers(seen_N)
        if number_N is not None and len(number_N):
            for edge in sorted(set(np.quantile(number_N, [0.25, 0.5, 0.75], method="nearest").tolist())):
                if number_N.min() < edge:
                    yield Condition(name, high=edge)
                    yield Condition(name, low=edge)


def _fits(view: View, rows_N: NDArray[np.bool_], smallest: int) -> bool:
    """Whether a slice and its rest are large enough in both halves."""
    for side in (0, 1):
        here_N = view.side_N == side
        for part_N in (here_N & rows_N, here_N & ~rows_N):
            if int(part_N.sum()) < smallest or len(np.unique(view.cluster_N[part_N])) < FEWEST:
                return False
    return True


def _excess(view: View, rows_CN: NDArray[np.bool_], side: int) -> list[Interval]:
    here_N = view.side_N == side
    return statistics.contrasts(view.lost_N[here_N], rows_CN[:, here_N], view.cluster_N[here_N])


def _above(excess: Interval) -> float:
    """One-sided p value that no more is lost inside than outside."""
    return statistics.t_tests(excess)[0]


def _sureness(excess: Interval) -> float:
    """The excess in standard errors."""
    return (
        excess.value / excess.se if excess.se > 0.0 else math.copysign(math.inf, excess.value) if excess.value else 0.0
    )
