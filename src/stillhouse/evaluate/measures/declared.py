"""Declared slices: parts of held-out text, named beforehand, of which too little is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from stillhouse.evaluate import statistics, wording
from stillhouse.evaluate.declared import Slice, slices_of
from stillhouse.evaluate.records import Chart, Estimate, Finding, Items, Mark, Point, Series, Verdict
from stillhouse.evaluate.wording import count, plain

_QUESTION = "Is enough kept of every declared slice?"
_MOST_SHOWN = 20


def declared(
    items: Items,
    tags: Mapping[str, Mapping[str, str]],
    *,
    least: float = 0.6,
    smallest: int = 50,
    margin: float = 0.03,
) -> Finding:
    """Is enough kept of every declared slice?

    Slices are what ``evaluate.slices`` names: columns of the held-out records, class, length, rarity, task. Of each, the skill kept
    above the floor. FAIL if a slice is shown to keep less than ``least`` (Holm at 5 % over all); PASS if each is shown to keep
    more, each tested at 5 %; slices that are too small, or in which the teacher shows no skill, do not count.

    Args:
        items: the table; of teacher, student and floor.
        tags: document → tag → value.
        least: the share of the teacher's skill that every slice must keep.
        smallest: texts of a slice, at least; of a language model documents are counted by their tokens, 40 to a text.
        margin: by how much the teacher must surely be above the floor: share of texts, or bits per byte.
    """
    if not tags or not items.has("teacher") or not items.has("student") or not items.has("floor"):
        return wording.not_measured("declared", _QUESTION, "no slices are declared (evaluate.slices)")
    slices = slices_of(items, tags, threshold=least, margin=margin, smallest=smallest)
    slices = [one for one in slices if one.tag and math.isfinite(one.kept.value)]
    if not slices:
        return wording.not_measured(
            "declared", _QUESTION, f"no slice has {smallest} texts in which the teacher shows skill"
        )
    order = [slices[i] for i in np.argsort([one.shrunk for one in slices], kind="stable")]
    adjusted = statistics.holm([one.kept.p_below for one in order])
    lost = [one for one, p in zip(order, adjusted, strict=True) if p <= 0.05]
    open_ones = [one for one in order if one.kept.verdict != "PASS"]
    worst, asked = order[0], f"{plain(least * 100)} %"
    share = wording.with_interval(worst.kept.value * 100, worst.kept.low * 100, worst.kept.high * 100, "%")
    verdict: Verdict
    if lost:
        verdict = "FAIL"
        sentence = f"Too little is kept of {count(len(lost), 'declared slice')}: {', '.join(map(_name, lost))}."
        reason = f"It is shown to be less than {asked} there (Holm over {len(order)} slices, 5 %)."
    elif not open_ones:
        verdict = "PASS"
        sentence = f"Enough is kept of all {count(len(order), 'declared slice')}; the least of {_name(worst)}, {share}."
        reason = f"Every slice keeps {asked} or more, each tested at 5 %."
    else:
        verdict = "INCONCLUSIVE"
        sentence = f"No declared slice is shown to keep too little; the least is kept of {_name(worst)}, {share}."
        needed = [one.kept.needed for one in open_ones if one.kept.needed is not None]
        more = f" The hardest to decide takes about {max(needed):,} texts of it." if needed else ""
        reason = f"Of {count(len(open_ones), 'slice')} it cannot be shown that {asked} is kept.{more}"
    estimates: list[Estimate] = []
    for one in order:
        value, low, high = (x * 100 for x in (one.kept.value, one.kept.low, one.kept.high))
        estimates.append(Estimate(f"{_name(one)}: skill kept", "student", value, low, high, "%", one.size))
        estimates.append(
            Estimate(f"{_name(one)}: shrunk to the others", "student", one.shrunk * 100, None, None, "%", one.size)
        )
    rows = tuple(
        Point(_name(one), one.kept.value * 100, one.kept.low * 100, one.kept.high * 100, one.size)
        for one in order[:_MOST_SHOWN]
    )
    chart = Chart(
        "forest",
        "Skill kept of declared slices, the weakest first",
        "",
        "% of the teacher's",
        (Series("student", rows, "student"),),
        (Mark(least * 100, "asked for"), Mark(100.0, "teacher")),
    )
    limits = (
        "Slices overlap: a text is in one of each tag.",
        "The smallest slices have the widest intervals: the worst one is often the smallest, which shrinking takes into account.",
        wording.ONE_SEED,
    )
    return Finding("declared", _QUESTION, verdict, sentence, reason, tuple(estimates), (chart,), limits)


def _name(one: Slice) -> str:
    return one.name
