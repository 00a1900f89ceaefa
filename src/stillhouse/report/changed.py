"""What stands behind the numbers: questions lost and gained with both answers, and what these items could have shown at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stillhouse.report import words
from stillhouse.report.words import NOTHING, finite, number

POWER = ("gate", "of", "must hold", "items", "decides from", "a PASS takes", "possible here")
"""Columns of the table of what this run could have detected."""

_SHOWN = 1200


@dataclass(frozen=True)
class Changed:
    """A question that one of the two has right.

    Args:
        lost: whether the student is the one who has it wrong.
        task: what it is of.
        question: which it is.
        asked: its text; the end of a long one.
        right: the right answer.
        teacher: what the teacher answered.
        student: what the student answered.
    """

    lost: bool
    task: str
    question: str
    asked: str
    right: str
    teacher: str
    student: str


@dataclass(frozen=True)
class Capability:
    """What changed in one.

    Args:
        name: of the capability.
        counts: how many were lost and gained, in words.
        shown: some of both.
    """

    name: str
    counts: str
    shown: list[Changed]


def capabilities(examples: Sequence[Mapping[str, Any]]) -> list[Capability]:
    """What ``evaluation/examples.json`` holds, ready to print. Texts are foreign: the template escapes them, and what cannot be seen is shown.

    Args:
        examples: one mapping a capability.
    """
    found = []
    for each in examples:
        rows = each.get("shown")
        shown = [_changed(row) for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
        counts = f"{_count(each, 'lost')} lost and {_count(each, 'gained')} gained of {_count(each, 'of')} questions"
        if shown:
            found.append(Capability(str(each.get("capability") or ""), counts, shown))
    return found


def power_rows(evaluation: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What this run could have detected, gate by gate.

    Args:
        evaluation: what evaluation.json holds.
    """
    rows = evaluation.get("power")
    return [_power(row) for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _power(row: Mapping[str, Any]) -> tuple[str, ...]:
    seen, needed = finite(row.get("seen")), finite(row.get("needed"))
    one = str(row.get("one") or "item")
    why = str(row.get("why") or "")
    return (
        str(row.get("gate") or ""),
        str(row.get("of") or ""),
        str(row.get("rule") or ""),
        f"{_count(row, 'items')} in {_count(row, 'clusters')} {one}s",
        NOTHING if seen is None else f"± {number(seen)} {row.get('unit') or ''}".strip(),
        NOTHING if needed is None else f"{needed:,.0f} {one}s",
        "✓ yes" if row.get("possible") else f"✗ no: {why}" if why else "✗ no: too few",
    )


def _count(row: Mapping[str, Any], key: str) -> str:
    value = finite(row.get(key))
    return NOTHING if value is None else f"{value:,.0f}"


def _changed(row: Mapping[str, Any]) -> Changed:
    def said(key: str) -> str:
        return words.shorten(str(row.get(key) or ""), _SHOWN)[0]

    texts = {key: said(key) for key in ("task", "question", "asked", "right", "teacher", "student")}
    return Changed(row.get("change") == "lost", **texts)
