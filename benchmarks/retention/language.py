"""The rows of the language model: what its students keep on a text, and of grammar; their table, and budget against retention."""

from __future__ import annotations

import json
import statistics as plain
from collections import defaultdict
from pathlib import Path
from typing import Any

from cells import standing

from recipes import LANGUAGE_SIZES, TEXTS
from stillhouse import recipe
from stillhouse.evaluate import records
from stillhouse.report import charts

Row = dict[str, Any]
FIGURES = {
    "bits": ("performance", "bits per byte"),
    "nats": ("performance", "nats per token"),
    "skill": ("performance", "skill kept above the floor"),
    "saved": ("benefit", "bits per byte saved against control"),
    "kl": ("fidelity", "KL from the teacher, mean"),
    "grammar": ("tasks", "blimp: right"),
    "grammar_kept": ("tasks", "blimp: skill kept above the floor"),
}
"""Figure of a row → the finding and the estimate of an evaluation that it is; each by role, with its interval by document."""


def found(folder: Path, settings: recipe.Recipe, evaluation: Row) -> Row:
    """What an evaluation found, and how the loss fell on the way."""
    findings = {finding["name"]: finding["estimates"] for finding in evaluation["findings"]}
    row: Row = {
        figure: {
            each["role"]: [each["value"], each["low"], each["high"]]
            for each in findings.get(name, ())
            if each["label"] == label
        }
        for figure, (name, label) in FIGURES.items()
    }
    items = records.read(folder / "evaluation" / "items.parquet")
    asked = [task.limit for task in settings.evaluate.tasks if task.name == "blimp"]
    row |= {"documents": len(set(items.document.tolist())), "pairs": asked[0] if asked else 0}
    row["on_the_way"] = {
        role: _validations(path, settings.trainer.tokens_per_step)
        for role, path in (("student", folder), ("control", folder / "control"))
        if (path / "metrics.jsonl").is_file()
    }
    return row


def _validations(folder: Path, tokens: int) -> list[list[float]]:
    """Tokens read, and nats a held-out token then."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [
        [line["step"] * tokens, round(line["validation"]["cross_entropy"], 4)] for line in lines if "validation" in line
    ]


def table(rows: list[Row]) -> str:
    """All rows as Markdown, the seeds of a row together."""
    groups: dict[tuple[str, str, str, float], list[Row]] = defaultdict(list)
    for row in rows:
        if row["task"] in TEXTS:
            groups[row["task"], row["size"], row["way"], row["budget"]].append(row)
    lines = [
        "| text | fewer parameters | way | tokens read | bits per byte: floor, teacher | student | without a teacher | "
        "skill kept above the floor | without a teacher | BLiMP: teacher | student | without a teacher | seeds |",
        "| --- | --: | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for text in TEXTS:
        for size in LANGUAGE_SIZES:
            mine = {key: found for key, found in groups.items() if key[:2] == (text, size)}
            if not mine:
                lines.append(f"| {text} | {size} | | | | | | not measured yet | | | | | |")
            lines += [_line(text, way, found) for (_, _, way, _), found in sorted(mine.items())]
    return "\n".join(lines)


def _line(text: str, way: str, rows: list[Row]) -> str:
    first = rows[0]
    ratio = first["parameters"]["teacher"] / first["parameters"]["student"]
    floor, teacher = (plain.fmean(row["bits"][role][0] for row in rows) for role in ("floor", "teacher"))
    cells = [_shown(rows, figure, role, digits) for figure, role, digits in (
        ("bits", "student", 3), ("bits", "control", 3), ("skill", "student", 1), ("skill", "control", 1),
        ("grammar", "teacher", 1), ("grammar", "student", 1), ("grammar", "control", 1),
    )]  # fmt: skip
    return (
        f"| {text} | {ratio:.1f}× | {way} | {first['tokens']:,} | {floor:.3f}, {teacher:.3f} | {' | '.join(cells)} "
        f"| {len(rows)} |"
    )


def _shown(rows: list[Row], figure: str, role: str, digits: int) -> str:
    """A mean over seeds, with the mean of their intervals by document."""
    values = [row[figure][role] for row in rows if role in row[figure]]
    if not values:
        return "–"
    value, low, high = (plain.fmean(each[i] for each in values) for i in range(3))
    unit = "" if figure == "bits" else " %"
    return f"{value:.{digits}f}{unit} [{low:.{digits}f}, {high:.{digits}f}]"


def draw(rows: list[Row]) -> str:
    """Budget against retention: a point for each finished run, and how the student of each came there."""
    series = []
    mine = [row for row in rows if row["task"] in TEXTS and row["seed"] == 0]
    for task, size, way in dict.fromkeys((row["task"], row["size"], row["way"]) for row in mine):
        same = sorted(
            (r for r in mine if (r["task"], r["size"], r["way"]) == (task, size, way)), key=lambda r: r["tokens"]
        )
        for role, name in (("student", way), ("control", "without a teacher")):
            points = tuple(
                charts.Point(row["tokens"] / 1000, *row["skill"][role]) for row in same if role in row["skill"]
            )
            if points:
                series.append(charts.Series(f"{task}, {size}, {name}", points, role))
            longest = same[-1]
            floor, teacher = (longest["nats"][of][0] for of in ("floor", "teacher"))
            way_points = tuple(
                charts.Point(tokens / 1000, 100 * (floor - nats) / (floor - teacher))
                for tokens, nats in longest["on_the_way"].get(role, [])
            )
            if way_points and way == "direct":
                series.append(charts.Series(f"{task}, {size}, {name}: on the way", way_points, role))
    chart = charts.Chart(
        "line", "Skill kept above the unigram floor", "tokens read, thousands", "% of the teacher’s", tuple(series)
    )
    return standing(str(charts.line(chart, "retention_budget", charts.WIDE)))
