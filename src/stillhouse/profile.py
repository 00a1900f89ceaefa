"""How fast a run's models and files are, how much memory they take, and why the student is as much faster as it is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from stillhouse import machine, models, recipe
from stillhouse.errors import RunError, fail
from stillhouse.files import read_json, write_json
from stillhouse.packages import PREFIX
from stillhouse.progress import bar
from stillhouse.quantiles import quantile
from stillhouse.report.deploy import Fit, fit
from stillhouse.report.read import read
from stillhouse.worker import Worker

SHARES = (0.5, 0.9, 0.95, 0.99)
TIERS = (
    (1e6, "a microcontroller"),
    (200e6, "a phone application"),
    (1e9, "less than 1 GB"),
    (10e9, "1 to 10 GB"),
    (50e9, "10 to 50 GB"),
    (float("inf"), "more than 50 GB"),
)
"""Bytes of memory that a kind of device gives one application, and the device."""


@dataclass
class Timed:
    """One model or file, and what was measured of it.

    Args:
        name: ``teacher``, ``student`` or the artefact's.
        runtime: what ran it.
        path: what was loaded.
        loaded: seconds and bytes of importing and loading, in a fresh process.
        cold: seconds from the start of the import to the first token.
        prefill: seconds of reading the prompt, one a block: the time to the first token.
        steps: seconds of each further token, of all blocks.
        peak: the most memory its process held, bytes.
        parts: median seconds of a token by part, where the runtime can tell.

    """

    name: str
    runtime: str
    path: str
    loaded: dict[str, float] = field(default_factory=dict)
    cold: float = 0.0
    prefill: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    peak: int = 0
    parts: dict[str, float] | None = None


@dataclass(frozen=True)
class Profile:
    """What ``stillhouse profile`` found.

    Args:
        models: teacher, student, artefacts.
        prompt: tokens of the prompt.
        explained: why the student is as much faster as it is, a sentence each.
        notes: what was left out, and why.
        fit: whether a file fits the recipe's target; None if it names none.

    """

    models: list[Timed]
    prompt: int
    explained: list[str]
    notes: list[str]
    fit: Fit | None = None


def profile(
    folder: str | Path,
    *,
    prompt: int = 64,
    tokens: int = 32,
    blocks: int = 8,
    threads: int | None = None,
    console: Console | None = None,
) -> Profile:
    """Time a run's teacher, student and artefacts, each in a process of its own, and write ``profile.json``.

    They take turns, a block each, in an order that rotates: what else the machine does hits all alike.

    Args:
        folder: a run's, with a finished student.
        prompt: tokens that are read first.
        tokens: tokens written after them, a block.
        blocks: how often each has its turn.
        threads: of each; as many as PyTorch takes if not given.
        console: where to show progress.

    Raises:
        RunError: there is no finished student, or a process died.

    """
    folder = Path(folder)
    if not (folder / "student" / "config.json").is_file():
        raise fail(RunError, str(folder), "holds no finished student", "Finish it: stillhouse run <its recipe>.")
    threads = machine.set_threads(threads)
    settings = recipe.load(folder / "recipe.yaml")
    rows, notes = entries(folder, settings)
    classifies = models.load(str(folder / "student"), empty=True).classifies
    tokens = 0 if classifies else tokens
    text = " ".join(settings.report.prompts) * prompt
    with ExitStack() as stack:
        workers = []
        advance = stack.enter_context(bar(console, "Timing", len(rows) * (blocks + 1), "turns"))
        for row in rows:
            worker = stack.enter_context(Worker(row.runtime, Path(row.path), threads))
            ids = worker.ask("encode", text=text)["ids"][:prompt]
            row.loaded = worker.loaded
            first = worker.ask("time", ids=ids, tokens=min(tokens, 2))  # also warms caches and compiles
            row.cold = row.loaded["import_seconds"] + row.loaded["load_seconds"] + first["prefill"]
            workers.append((row, worker, ids))
            advance(1)
        for block in range(blocks):
            for turn in range(len(workers)):
                row, worker, ids = workers[(turn + block) % len(workers)]
                times = worker.ask("time", ids=ids, tokens=tokens)
                row.prefill.append(times["prefill"])
                row.steps += times["steps"]
                row.peak = times["peak"]
                advance(1)
        for row, worker, ids in workers:
            row.parts = worker.ask("parts", ids=ids, tokens=tokens)["parts"] if tokens else None
    found = Profile(rows, prompt, explain(rows), notes)
    kept = {"prompt": prompt, "tokens": tokens, "blocks": blocks, "explained": found.explained, "notes": notes}
    write_json(folder / "profile.json", kept | {"machine": machine.describe(), "models": [asdict(row) for row in rows]})
    return replace(found, fit=fit(read(folder)))


def entries(folder: Path, settings: recipe.Recipe) -> tuple[list[Timed], list[str]]:
    """What there is to time in a run's folder, and notes about what is not."""
    rows, notes = [], []
    teacher = _teacher(settings.reference)
    if teacher is None:
        notes.append(f"The teacher is not timed: '{settings.reference.name}' has no weights here.")
    else:
        rows.append(Timed("teacher", "pytorch", teacher))
    rows.append(Timed("student", "pytorch", str(folder / "student")))
    for record in read_json(folder / "exports.json", []):
        if record["name"] == "hf" or "refused" in record:
            continue
        if "untested" in record:
            notes.append(f"{record['name']} is not timed: {record['untested']}.")
            continue
        rows.append(Timed(record["name"], record["runtime"], str(folder / record["path"])))
    return rows, notes


def _teacher(section: recipe.Teacher) -> str | None:
    """What PyTorch loads as the teacher; None if it does not run here."""
    model = section.options.get("model")
    if section.name == "gguf" and isinstance(model, str):
        from stillhouse.teacher.sources.gguf import read_into

        kept = read_into(model)
        return str(kept) if (kept / "config.json").is_file() else None
    if isinstance(model, str) and (section.name == "local" or model.startswith(PREFIX)):
        return model
    return None


def explain(rows: Sequence[Timed]) -> list[str]:
    """Why the student is as much faster than the teacher as it is: by part, and by what memory can deliver."""
    by_name = {row.name: row for row in rows}
    teacher, student = by_name.get("teacher"), by_name.get("student")
    if teacher is None or student is None or not teacher.parts or not student.parts:
        return []
    sizes = {row.name: _sizes(row.path) for row in (teacher, student)}
    all_of = {row.name: sum(sizes[row.name].values()) for row in (teacher, student)}
    slow, fast = teacher.parts, student.parts
    ratio, speed = all_of["teacher"] / all_of["student"], slow["all"] / fast["all"]
    told = [
        f"{ratio:.1f} times fewer parameters, {speed:.1f} times faster a token "
        f"({1e3 * slow['all']:.3g} ms → {1e3 * fast['all']:.3g} ms)."
    ]
    for name, parts in (("teacher", slow), ("student", fast)):
        rest = parts["all"] - parts["head"] - parts["matrices"]
        told.append(
            f"The {name}'s time goes to the layers' matrices by {parts['matrices'] / parts['all']:.0%}, to the head by "
            f"{parts['head'] / parts['all']:.0%}, to all else (attention, norms, Python, starting each operation) by {rest / parts['all']:.0%}."
        )
    pairs = (
        ("layers", "matrices", "the layers' matrices"),
        ("head", "head", "the head"),
    )
    for size, part, what in pairs:
        smaller = sizes["teacher"][size] / max(1, sizes["student"][size])
        told.append(f"{what.capitalize()}: {smaller:.1f} times fewer, {slow[part] / fast[part]:.1f} times faster.")
    others = [parts["all"] - parts["head"] - parts["matrices"] for parts in (slow, fast)]
    told.append(
        f"All else: {others[0] / others[1]:.1f} times faster; its time follows the number of layers, not their width."
    )
    peak = machine.measure_bandwidth()
    reached = {
        row.name: 4e-9 * (sizes[row.name]["layers"] + sizes[row.name]["head"]) / (parts["matrices"] + parts["head"])
        for row, parts in ((teacher, slow), (student, fast))
    }
    told.append(
        f"A token reads every weight once: {reached['teacher']:.1f} GB/s in the teacher, {reached['student']:.1f} in the student; "
        f"this machine copies {peak:.1f} GB/s. Near it, only fewer bytes help (fewer bits); far below, it is arithmetic or overhead."
    )
    return told


def _sizes(path: str) -> dict[str, int]:
    """Weights by part: matrices of the layers, head, the rest."""
    model = models.load(path, empty=True)
    layers = sum(m.weight.numel() for m in model.layers.modules() if isinstance(m, torch.nn.Linear))
    head = model.head_layer.weight.numel()
    return {"layers": layers, "head": head, "rest": model.parameters_count - layers - head}


def tier(peak: float) -> str:
    """Where so much memory fits, and what the next smaller place would need."""
    index = next(i for i, (limit, _) in enumerate(TIERS) if peak <= limit)
    if index == 0:
        return TIERS[0][1]
    limit, smaller = TIERS[index - 1]
    return f"{TIERS[index][1]}; {smaller}: {peak / limit:.1f} times less"


def show(found: Profile, console: Console) -> None:
    """Print what was found."""
    table = Table(box=None, pad_edge=False)
    for column in ("", "first token, ms: p50", "a token, ms: p50", "p90", "p95", "p99", "tokens/s", "cold start, s"):
        table.add_column(column)
    for row in found.models:
        first = quantile(row.prefill, 0.5).words(1e3)
        steps = [quantile(row.steps, share).words(1e3) for share in SHARES] if row.steps else ["–"] * 4
        rate = f"{len(row.steps) / sum(row.steps):.1f}" if row.steps else "–"
        table.add_row(row.name, first, *steps, rate, f"{row.cold:.2f}")
    console.print(table)
    memory = Table(box=None, pad_edge=False)
    for column in ("", "memory when loaded, MB", "most, MB", "fits"):
        memory.add_column(column)
    for row in found.models:
        memory.add_row(row.name, f"{row.loaded['load_bytes'] / 1e6:,.0f}", f"{row.peak / 1e6:,.0f}", tier(row.peak))
    console.print(memory)
    for line in (*found.explained, *found.notes):
        console.print(f"• {line}", highlight=False, markup=False)
    if found.fit is not None:
        console.print(f"{found.fit.verdict} {found.fit.sentence}", highlight=False, markup=False, style="bold")
        for gate in found.fit.gates:
            told = f"  {gate.verdict} {gate.artefact}, {gate.budget}: {gate.sentence}"
            console.print(told, highlight=False, markup=False)
