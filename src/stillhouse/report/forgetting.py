"""The matrix of forgetting: what the student had right of each task after each stage, and what it has lost since its best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stillhouse.report.read import Run
from stillhouse.report.words import NOTHING, finite, number

_RIGHT = ": right"


@dataclass(frozen=True)
class Forgetting:
    """Stages × tasks.

    Args:
        columns: of the table: the stage, then the tasks.
        rows: shares with their intervals.
        shares: stage → task → share right, in per cent.
        sentence: where the most was lost on the way.
    """

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    shares: dict[str, dict[str, float]]
    sentence: str


def forgetting(run: Run) -> Forgetting | None:
    """The matrix of a run in stages whose tasks were asked after each; None where there are no two stages to compare.

    Args:
        run: what its folder holds.
    """
    told: dict[str, dict[str, Mapping[str, Any]]] = {}
    evaluations = {name.rpartition("/")[2]: found for name, found in run.stages.items() if name != "direct"}
    for name, evaluation in (evaluations | {"the student": run.evaluation}).items():
        if not told and (begun := _right(evaluation, "before")):
            told["before training"] = begun
        if after := _right(evaluation, "student"):
            told[name] = after
    if len(told) < 3:
        return None
    tasks = list(dict.fromkeys(task for row in told.values() for task in row))
    rows = [(stage, *(_cell(row.get(task)) for task in tasks)) for stage, row in told.items()]
    shares = {stage: {task: float(cell["value"]) for task, cell in row.items()} for stage, row in told.items()}
    last = list(shares)[-1]
    lost = {}
    for task in tasks:
        most, best = max((row[task], stage) for stage, row in shares.items() if task in row)
        if task in shares[last]:
            lost[task] = (most - shares[last][task], best)
    rows.append(("lost since its best, pp", *(number(lost[task][0]) if task in lost else NOTHING for task in tasks)))
    worst = max(lost, key=lambda task: lost[task][0])
    sentence = f"The most was lost of {worst}: {number(lost[worst][0])} pp since {lost[worst][1]}."
    if lost[worst][0] <= 0:
        sentence = "No task was at its best before the last stage."
    return Forgetting(("after", *tasks), rows, shares, sentence)


def _right(evaluation: Mapping[str, Any], role: str) -> dict[str, Mapping[str, Any]]:
    """Task → the share right of a role, as the measure ``tasks`` found it."""
    findings = evaluation.get("findings")
    estimates = [
        each
        for finding in (findings if isinstance(findings, list) else ())
        if isinstance(finding, Mapping) and finding.get("name") == "tasks"
        for each in (finding.get("estimates") or ())
        if isinstance(each, Mapping) and each.get("role") == role and finite(each.get("value")) is not None
    ]
    return {
        str(each.get("label")).removesuffix(_RIGHT): each
        for each in estimates
        if str(each.get("label")).endswith(_RIGHT)
    }


def _cell(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return NOTHING
    low, high = finite(found.get("low")), finite(found.get("high"))
    interval = "" if low is None or high is None else f" [{number(low)}, {number(high)}]"
    return f"{number(found.get('value'))} %{interval}"
