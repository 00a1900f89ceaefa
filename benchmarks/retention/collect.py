"""Rows of the retention tables from finished runs, and the tables, the summary and the picture themselves."""

from __future__ import annotations

import json
import math
import re
import statistics as plain
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

import language
from cells import DOCS, RESULTS, put

from recipes import FOLDER, SIZES, TASKS, TEXTS
from stillhouse import recipe
from stillhouse.evaluate import records, statistics
from stillhouse.files import read_json, write_text

ROWS = RESULTS / "retention.jsonl"
PAGE = DOCS / "retention.md"
NAME = re.compile(
    r"(?P<recipe>(?P<task>[a-z0-9]+)-(?P<size>[a-z0-9]+)(-(?P<way>[a-z]+?))?)(-seed(?P<seed>\d+))?(-budget(?P<budget>[\d.]+))?"
)
"""Of a run's folder: TASK-SIZE, TASK-SIZE-WAY, with -seedN and -budgetX where these are not 0 and 1."""

TARGETS = {"3x": 0.98, "10x": 0.95, "50x": 0.90}
"""Raw retention that is asked for."""

INFORMATIVE = 3.0
"""Points by which a teacher must surely be above the floor for its students to be worth training, as the evaluation asks."""


def collect(runs: Path) -> None:
    """Rewrite the rows of the runs in a folder; rows of runs that are elsewhere stay."""
    rows = {row["run"]: row for row in _rows()}
    for folder in sorted(runs.glob("*")):
        if folder.name.endswith("-dev") or not (folder / "evaluation.json").is_file():
            continue
        rows[folder.name] = row_of(folder)
    text = "".join(json.dumps(rows[name], ensure_ascii=False) + "\n" for name in sorted(rows))
    ROWS.parent.mkdir(exist_ok=True)
    write_text(ROWS, text)


def row_of(folder: Path) -> dict[str, Any]:
    """What a run found, from its item table."""
    settings = recipe.load(folder / "recipe.yaml")
    evaluation = read_json(folder / "evaluation.json", {})
    found = NAME.fullmatch(folder.name)
    assert found is not None, folder
    name, task, seed, budget = found["recipe"], found["task"], int(found["seed"] or 0), float(found["budget"] or 1)
    row: dict[str, Any] = {
        "run": folder.name,
        "task": task,
        "size": found["size"],
        "way": found["way"] or "direct",
        "seed": seed,
        "budget": budget,
        "parameters": {role: model["parameters"] for role, model in evaluation["models"].items()},
        "seconds": evaluation["seconds"] | _stages_seconds(folder),
        "environment": evaluation["environment"],
        "recipe": f"recipes/retention/{name}.yaml",
        "command": f"python benchmarks/retention/run.py --data ../shared/data --task {task} --seeds {seed + 1} --budget {budget:g}",
        "tokens": sum(
            part.trainer.steps * part.trainer.tokens_per_step
            for part in (settings, *(settings.stage(i) for i in range(len(settings.stages))))
        ),
    }
    assert (FOLDER / f"{name}.yaml").is_file(), name
    if task in TEXTS:
        return row | language.found(folder, settings, evaluation)
    items = records.read(folder / "evaluation" / "items.parquet")
    right = {role: items.roles[role].correct for role in items.roles if items.has(role, "correct")}
    row |= {
        "texts": items.size,
        "accuracy": {role: float(x_N.mean()) for role, x_N in right.items() if x_N is not None},
        "kept": {},
        "measures": {
            finding["name"]: [e for e in finding["estimates"] if e["role"] in ("student", "teacher", "control")]
            for finding in evaluation["findings"]
            if finding["name"] in ("macro_f1", "mcc", "out_of_scope")
        },
    }
    teacher_N, floor_N = right.get("teacher"), right["floor"]
    if floor_N is not None and row["size"] == "teacher":
        gap = statistics.mean(right["student"] - floor_N, items.document)
        row["above_floor"] = [gap.value, gap.low, gap.high]
    if teacher_N is None or floor_N is None or row["size"] not in TARGETS:
        return row
    target = TARGETS[row["size"]]
    for role in ("student", "control", "before"):
        role_N = right.get(role)
        if role_N is not None:
            raw = statistics.retention(teacher_N, role_N, 0.0, items.document, threshold=target)
            above = statistics.retention(teacher_N, role_N, floor_N, items.document, threshold=target)
            row["kept"][role] = {
                "raw": [raw.value, raw.low, raw.high],
                "raw_verdict": raw.verdict,
                "above_floor": None if math.isnan(above.value) else [above.value, above.low, above.high],
                "verdict": above.verdict,
            }
    return row


def _stages_seconds(folder: Path) -> dict[str, float]:
    found = {}
    for path in sorted(folder.glob("stages/*/seconds.json")):
        found[f"stage {path.parent.name}"] = round(sum(read_json(path, {}).values()), 1)
    return found


def _rows() -> list[dict[str, Any]]:
    if not ROWS.is_file():
        return []
    return [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines() if line.strip()]


def write_table() -> None:
    """Put tables and picture where the page has them."""
    rows = _rows()
    whole = [row for row in rows if row.get("budget", 1.0) == 1.0]
    put(PAGE, "retention", table(whole))
    put(PAGE, "language", language.table(rows))
    put(PAGE, "summary", summary(whole))
    if any(row["task"] in TEXTS for row in rows):
        write_text(DOCS / "images" / "retention_budget.svg", language.draw(rows))


def summary(rows: list[dict[str, Any]]) -> str:
    """Of each compression what was asked and what came of it, in a line of Markdown."""
    lines = [
        "| fewer parameters | tasks measured | raw retention, lowest to highest | asked | reached by the number | surely | "
        "kept above the floor | texts measured | skill of the language model kept |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for size in SIZES:
        mine = [row for row in rows if row["size"] == size and row["way"] == "direct"]
        kept = [
            [row["kept"]["student"] for row in mine if row["task"] == task and "student" in row["kept"]]
            for task in TASKS
        ]
        kept = [each for each in kept if each and all(k["verdict"] != "UNINFORMATIVE" for k in each)]
        verdicts = [_verdict(each, TARGETS[size]) for each in kept]
        said = [row for row in mine if row["task"] in TEXTS]
        reached, surely = (sum(word in v for v in verdicts) for word in ("(reached)", "PASS"))
        lines.append(
            f"| {size} | {len(kept)} of {len(TASKS)} | {_span([plain.fmean(k['raw'][0] for k in each) for each in kept])} "
            f"| ≥ {100 * TARGETS[size]:.0f} % | {reached} of {len(kept)} | {surely} of {len(kept)} "
            f"| {_span([plain.fmean(k['above_floor'][0] for k in each) for each in kept])} "
            f"| {len({row['task'] for row in said})} of {len(TEXTS)} | {_span([row['skill']['student'][0] / 100 for row in said])} |"
        )
    return "\n".join(lines)


def _span(shares: list[float]) -> str:
    """From the lowest to the highest."""
    found = [f"{100 * share:.1f}" for share in (min(shares), max(shares))] if shares else []
    return f"{' to '.join(dict.fromkeys(found))} %" if found else "–"


def table(rows: list[dict[str, Any]]) -> str:
    """All rows as Markdown, the seeds of a row together."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["task"], row["size"], row["way"]].append(row)
    lines = [
        "| task | fewer parameters | way | accuracy: floor, teacher | student | raw retention | asked | kept above the floor | "
        "without a teacher | seeds |",
        "| --- | --: | --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for task in TASKS:
        teacher = next((row for row in groups.get((task, "teacher", "direct"), [])), None)
        for size in SIZES:
            for way in ("direct", "stages", "phases"):
                found = groups.get((task, size, way), [])
                if found:
                    lines.append(_line(task, size, way, found))
        if teacher is not None and not any((task, size, "direct") in groups for size in SIZES):
            said, floor = (teacher["accuracy"][role] for role in ("student", "floor"))
            gap, low, high = (100 * each for each in teacher.get("above_floor", [math.nan] * 3))
            words = (
                ""
                if low > INFORMATIVE
                else f"UNINFORMATIVE: {gap:+.1f} points [{low:+.1f}, {high:+.1f}] above the floor"
            )
            lines.append(
                f"| {task} | 1 | teacher | {_percent(floor)}, {_percent(said)} | – | {words or '–'} | – | – | – | 1 |"
            )
    return "\n".join(lines) + "\n"


def _line(task: str, size: str, way: str, rows: list[dict[str, Any]]) -> str:
    def mean(role: str) -> float:
        return plain.fmean(row["accuracy"][role] for row in rows)

    first = rows[0]
    ratio = first["parameters"]["teacher"] / first["parameters"]["student"]
    kept = [row["kept"]["student"] for row in rows]
    uninformative = any(each["verdict"] == "UNINFORMATIVE" for each in kept)
    raw = "UNINFORMATIVE" if uninformative else _over_seeds([each["raw"] for each in kept])
    above = "UNINFORMATIVE" if uninformative else _over_seeds([each["above_floor"] for each in kept])
    control = [row["kept"]["control"]["raw"] for row in rows if "control" in row["kept"]]
    without = _over_seeds(control) if control and not uninformative else "–"
    verdict = "–" if uninformative else _verdict(kept, TARGETS[size])
    return (
        f"| {task} | {ratio:.1f}× | {way} | {_percent(mean('floor'))}, {_percent(mean('teacher'))} | "
        f"{_percent(mean('student'))} | {raw} | ≥ {TARGETS[size]:.0%}: {verdict} | {above} | {without} | {len(rows)} |"
    ).replace("%: ", " %: ")


def _over_seeds(intervals: list[list[float]]) -> str:
    """Mean over seeds; the interval holds the texts (mean of the runs') and the seeds (their spread over their number)."""
    value = plain.fmean(each[0] for each in intervals)
    items = plain.fmean((each[2] - each[1]) / 2 / 1.96 for each in intervals)
    seeds = plain.variance(each[0] for each in intervals) / len(intervals) if len(intervals) > 1 else 0.0
    half = 1.96 * math.sqrt(items**2 + seeds)
    return f"{100 * value:.1f} % [{100 * (value - half):.1f}, {100 * (value + half):.1f}]"


def _verdict(kept: list[dict[str, Any]], target: float) -> str:
    """Of the mean over seeds: one-sided at 5 %, with texts and seeds in the error; met: the mean itself reaches the target."""
    value = plain.fmean(each["raw"][0] for each in kept)
    items = plain.fmean((each["raw"][2] - each["raw"][1]) / 2 / 1.96 for each in kept)
    seeds = plain.variance(each["raw"][0] for each in kept) / len(kept) if len(kept) > 1 else 0.0
    z = (value - target) / max(math.sqrt(items**2 + seeds), 1e-9)
    word = "PASS" if z > 1.645 else "FAIL" if z < -1.645 else "INCONCLUSIVE"
    return f"{word} ({'reached' if value >= target else 'not reached'})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
