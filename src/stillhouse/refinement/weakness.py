"""Where the student is weak: the stored tables by part, the slices from which most can be recovered, and what was lost there."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stillhouse import recipe
from stillhouse.evaluate import slices, statistics, tables_of
from stillhouse.evaluate.answers import Answers
from stillhouse.evaluate.declared import AND, Slice, scores, slices_of
from stillhouse.evaluate.records import Items
from stillhouse.evaluate.splits import Part, part_of
from stillhouse.refinement.draft import Weak

MOST_LOST = 400
"""Texts that new ones are looked for near."""


def tables_in(folder: Path, settings: recipe.Recipe, parts: tuple[Part, ...]) -> dict[str, Any]:
    """The tables of a run, of the documents and clusters of some parts alone.

    Args:
        folder: the run's.
        settings: its recipe.
        parts: of ``splits``.

    Raises:
        RunError: there is no item table, or one is damaged.
    """
    tables = tables_of(folder, settings.data.classes)
    items: Items = tables["items"]
    in_it = {key: part_of(key) in parts for key in set(items.key.tolist())}
    kept = items.taken(np.array([in_it[key] for key in items.key.tolist()], dtype=np.bool_))
    # rounds have other tasks, by which held-out texts take turns: pair them whatever their order
    tables["items"] = kept.taken(np.lexsort((kept.position, kept.key.astype(str))))
    if tables["answers"].tasks:
        cluster_of = _clusters(folder / "evaluation" / "answers.parquet")
        taken = []
        for task in tables["answers"].tasks:
            names = [cluster_of[task.task, question] for question in task.question.tolist()]
            rows = np.array([part_of(name) in parts for name in names], dtype=np.bool_)
            if rows.any():
                taken.append(task.taken(rows))
        tables["answers"] = Answers(tuple(taken))
    return tables


def _clusters(path: Path) -> dict[tuple[str, str], str]:
    """Task and question → the name of the cluster, by which it was decided who answers it."""
    rows = pq.ParquetFile(path).read(columns=["task", "question", "cluster"]).to_pydict()
    return {(t, q): c for t, q, c in zip(rows["task"], rows["question"], rows["cluster"], strict=True)}


def slices_in(tables: Mapping[str, Any], section: recipe.Evaluate, smallest: int) -> list[Slice]:
    """All declared slices of the held-out text in some parts, whole text first."""
    return slices_of(tables["items"], tables["tags"], threshold=section.retention, smallest=smallest)


def found_in(tables: Mapping[str, Any], section: recipe.Evaluate, seed: int = 0) -> list[Slice]:
    """Where two declared tags meet and the student loses more than elsewhere: searched for on one half, confirmed on the other.

    Only what the other half confirms (Holm, 5 %) is returned, and what is kept there is that half's, which did not choose it.

    Args:
        tables: of the part that may be looked at.
        section: the recipe's ``evaluate``, for what is asked.
        seed: of the choice of halves.
    """
    items: Items = tables["items"]
    tags = tables["tags"]
    (teacher_N, size_N), (student_N, _), (floor_N, _) = (scores(items, r) for r in ("teacher", "student", "floor"))
    names = sorted({name for each in tags.values() for name in each})
    if len(names) < 2:
        return []
    features = {
        name: np.array([tags.get(key, {}).get(name, "") for key in items.key.tolist()], dtype=np.object_)
        for name in names
    }
    side_N = slices.halves("refine", items.key.tolist(), seed)
    view = slices.View("text", teacher_N - student_N, items.document, side_N, features, "points")
    found = []
    for one in slices.discover([view]):
        met = sorted((each.feature, each.word) for each in one.conditions if each.word is not None)
        if not one.confirmed or len(met) < 2:
            continue  # a single tag's value is declared, and judged as such
        rows_N = one.rows_N & (side_N == 1)
        parts = (teacher_N[rows_N], student_N[rows_N], floor_N[rows_N], items.document[rows_N])
        kept = statistics.retention(*parts, size_N=size_N[rows_N], threshold=section.retention)
        tag, value = (AND.join(each) for each in zip(*met, strict=True))
        share = float(size_N[one.rows_N].sum() / size_N.sum())
        found.append(Slice(tag, value, one.rows_N, share, kept, kept.value))
    return found


def weakest(slices: list[Slice], section: recipe.Evaluate, refine: recipe.Refine) -> tuple[Weak, ...]:
    """The slices from which most can be recovered; all text where no slice is below what is asked for.

    priority = share · max(0, asked − kept, shrunken) · (teacher − floor, against that of all text) · how critical it is: the part of
    all of the teacher's skill that closing the gap would bring back. Slices in which the teacher shows no skill do not count.

    Args:
        slices: of the part that may be looked at.
        section: the recipe's ``evaluate``, for what is asked.
        refine: the recipe's.
    """
    whole = slices[0]
    scale = whole.kept.gap.value if math.isfinite(whole.kept.value) else math.nan
    found = []
    for one in slices[1:]:
        gap = section.retention - one.shrunk
        if math.isfinite(one.kept.value) and math.isfinite(scale) and gap > 0.0:
            skill = one.kept.gap.value / scale
            priority = one.share * gap * skill * refine.critical.get(one.name, 1.0)
            found.append(Weak(one.tag, one.value, round(gap, 6), round(priority, 6)))
    found.sort(key=lambda weak: -weak.priority)
    if not found:
        gap = max(0.0, section.retention - whole.kept.value) if math.isfinite(whole.kept.value) else 0.0
        return (Weak("", "", round(gap, 6), round(gap, 6)),)
    return tuple(found[: refine.weakest])


def lost_keys(tables: Mapping[str, Any], weak: Collection[Weak]) -> list[str]:
    """Documents of weak slices where the student loses most against the teacher, the worst first.

    Args:
        tables: of the part that may be looked at.
        weak: the slices.
    """
    items: Items = tables["items"]
    tags = tables["tags"]
    lost_N = scores(items, "teacher")[0] - scores(items, "student")[0]
    keys, index_N = np.unique(items.key.astype(str), return_inverse=True)
    lost_G = np.bincount(index_N, lost_N, len(keys)) / np.bincount(index_N, minlength=len(keys))
    if items.bytes is not None:  # of running text every document loses something: the worse half
        lost_G = lost_G - np.median(lost_G)
    order = np.argsort(-lost_G, kind="stable").tolist()
    found = [
        str(keys[g]) for g in order if lost_G[g] > 0 and any(one.holds(tags.get(str(keys[g]), {})) for one in weak)
    ]
    return found[:MOST_LOST]


def of_slice(items: Items, tags: Mapping[str, Mapping[str, str]], weak: Weak) -> NDArray[np.bool_]:
    """Which items are of a slice."""
    return np.array([weak.holds(tags.get(key, {})) for key in items.key.tolist()], dtype=np.bool_)
