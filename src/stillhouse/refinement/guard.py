"""Whether a round cost anything elsewhere: non-inferiority against the student before it, on the same items."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stillhouse.evaluate import statistics
from stillhouse.evaluate.declared import Slice, scores
from stillhouse.evaluate.records import Finding, FloatArray, Items
from stillhouse.evaluate.skill import floor_of
from stillhouse.evaluate.statistics import Interval
from stillhouse.refinement.draft import Weak
from stillhouse.refinement.weakness import of_slice


@dataclass(frozen=True)
class Kept:
    """What a round did to one part that it must not harm.

    Args:
        name: all text, all that was not targeted, a task, a gate, or a slice.
        change: after − before, as a share of texts or of the teacher's skill; None of a gate.
        held: whether it is shown to cost less than the margin; of a single slice, whether it is not shown to cost more.
    """

    name: str
    change: Interval | None
    held: bool

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        numbers = None if self.change is None else change_of(self.change)
        return {"name": self.name, "change": numbers, "held": self.held}


def change_of(change: Interval) -> dict[str, float]:
    """A difference with its 95 % interval, rounded so that machines agree."""
    return {name: round(_finite(getattr(change, name)), 6) for name in ("value", "low", "high")}


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.copysign(1e9, value)


def guard(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    gates: tuple[Sequence[Finding], Sequence[Finding]],
    slices: Sequence[Slice],
    targets: Sequence[Weak],
    margin: float,
) -> list[Kept]:
    """Compare the student after a round with the one before it.

    All text and each task, and all text that the round did not work on, must be shown to have lost less than the margin (one-sided, 5 %,
    paired, clustered). Of single slices that were not worked on, none may be shown to have lost more (Holm over them). No gate that
    held may fail.

    Args:
        before: tables of the part that confirms, of the student before.
        after: of the student after it.
        gates: what was found of each in these.
        slices: of ``before``.
        targets: what the round worked on.
        margin: what it may cost: share of texts, or of the teacher's skill above the floor.
    """
    one, other = before["items"], after["items"]
    changed_N, size_N = changes(one, other)
    targeted_N = np.zeros(one.size, dtype=np.bool_)
    for weak in targets:
        if weak.tag:
            targeted_N |= of_slice(one, before["tags"], weak)
    found = [_whole("all text", changed_N, size_N, one.document, margin)]
    if targeted_N.any() and not targeted_N.all():
        rows = ~targeted_N
        found.append(_whole("all that was not worked on", changed_N[rows], size_N[rows], one.document[rows], margin))
    for task in before["answers"].having("teacher", "student"):
        again = after["answers"].named(task.task)
        if task.kind == "text" or again is None:
            continue
        skill = max(float((task.score("teacher") - floor_of(task).score_N).mean()), 1e-9)
        gained_N = (again.score("student") - task.score("student")) / skill
        found.append(_whole(task.task, gained_N, np.ones(task.size), task.cluster, margin))
    found += _slices(slices, targets, changed_N, size_N, one, margin)
    failed = {finding.name for finding in gates[1] if finding.verdict == "FAIL"}
    found += [
        Kept(f"gate {finding.name}", None, finding.name not in failed)
        for finding in gates[0]
        if finding.verdict == "PASS"
    ]
    return found


def changes(before: Items, after: Items) -> tuple[FloatArray, FloatArray]:
    """What each item gained, student after − student before, and what it counts: texts, or shares of the teacher's skill.

    Raises:
        AssertionError: they are of other items.
    """
    same = before.size == after.size and bool((before.key == after.key).all())
    assert same and bool((before.position == after.position).all()), "two rounds answered other items"
    (new_N, size_N), (old_N, _) = scores(after, "student"), scores(before, "student")
    if before.bytes is None:
        return new_N - old_N, size_N
    skill = float((scores(before, "teacher")[0] - scores(before, "floor")[0]).sum() / size_N.sum())
    return (new_N - old_N) / max(skill, 1e-9), size_N


def bought(before: Mapping[str, Any], after: Mapping[str, Any], weak: Sequence[Weak]) -> list[dict[str, Any]]:
    """What was gained of all text and of each slice that was worked on: name, value, low and high (95 %), paired.

    Args:
        before: tables with the student before.
        after: of the same items, with the student after.
        weak: what was worked on.
    """
    items, tags = before["items"], before["tags"]
    changed_N, size_N = changes(items, after["items"])
    found = []
    for one in (Weak("", "", 0.0, 0.0), *(each for each in weak if each.tag)):
        rows_N = of_slice(items, tags, one)
        if rows_N.any():
            change = statistics.ratio(changed_N[rows_N], size_N[rows_N], items.document[rows_N])
            found.append({"name": one.name, **change_of(change)})
    return found


def _whole(name: str, changed_N: FloatArray, size_N: FloatArray, cluster_N: np.ndarray, margin: float) -> Kept:
    change = statistics.ratio(changed_N, size_N, cluster_N)
    low = change.bounds(0.90)[0]
    if change.se == 0.0:  # no text changed: what share of others might is bounded by their number (the rule of three)
        low = change.value - (1.0 - 0.05 ** (1.0 / change.clusters))
    return Kept(name, change, low > -margin)


def _slices(
    slices: Sequence[Slice],
    targets: Sequence[Weak],
    changed_N: FloatArray,
    size_N: FloatArray,
    items: Items,
    margin: float,
) -> list[Kept]:
    """Those single slices, of those not worked on, that are shown to have lost more than the margin."""
    aimed = {(weak.tag, weak.value) for weak in targets}
    others = [one for one in slices if one.tag and (one.tag, one.value) not in aimed]
    found = [
        statistics.ratio(changed_N[s.rows_N] + margin * size_N[s.rows_N], size_N[s.rows_N], items.document[s.rows_N])
        for s in others
    ]
    p_values = [1.0 if not math.isfinite(each.se) else statistics.t_tests(each)[1] for each in found]
    lost = [p <= 0.05 for p in statistics.holm(p_values)]
    made = []
    for one, moved, bad in zip(others, found, lost, strict=True):
        if bad:
            change = Interval(
                moved.value - margin, moved.low - margin, moved.high - margin, moved.se, moved.clusters, moved.df
            )
            made.append(Kept(one.name, change, held=False))
    return made
