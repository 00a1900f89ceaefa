"""Compare: quality against size, latency and energy, over all files of a run and over several runs, from their files alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stillhouse.quantiles import Quantile, quantile
from stillhouse.report.measured import Measured, measured
from stillhouse.report.page import estimate, teacher_name
from stillhouse.report.read import Run, mapping, read
from stillhouse.report.words import finite


@dataclass(frozen=True)
class Kept:
    """Per cent of the teacher's skill above the floor that is kept, with its 95 % interval.

    Args:
        value: best guess.
        low: lower end.
        high: upper end.
        how: ``measured``, or what it was reckoned from.
    """

    value: float
    low: float
    high: float
    how: str


@dataclass(frozen=True)
class Entry:
    """A model or file of a run; what is None was not measured.

    Args:
        run: the run's name.
        name: ``teacher``, ``student`` or the artefact's.
        kept: quality.
        size: bytes on disk.
        first: seconds to the first token, the median.
        answer: seconds of a further token (of a classifier: of an answer), the median.
        slow: the same, 95th percentile.
        peak: bytes of memory at most.
        joules: energy of a token (of a classifier: of an answer).
        energy: where ``joules`` comes from: a counter, or an assumed power.
        missing: what was not measured and why, a sentence each.
    """

    run: str
    name: str
    kept: Kept | None
    size: float | None
    first: Quantile | None
    answer: Quantile | None
    slow: Quantile | None
    peak: float | None
    joules: float | None
    energy: str
    missing: tuple[str, ...]

    @property
    def label(self) -> str:
        """Its name, with the run's before it."""
        return f"{self.run} {self.name}"


@dataclass(frozen=True)
class Cost:
    """Something of which less is better.

    Args:
        name: of one word.
        unit: in which it is drawn.
        of: an entry → its value in that unit; None if it was not measured.
    """

    name: str
    unit: str
    of: Callable[[Entry], float | None]


COSTS = (
    Cost("size", "MB on disk", lambda e: None if e.size is None else e.size / 1e6),
    Cost("latency", "ms a token", lambda e: None if e.answer is None else 1e3 * e.answer.value),
    Cost("energy", "joules a token", lambda e: e.joules),
)
"""What quality is held against; of a classifier an answer stands for a token."""


@dataclass(frozen=True)
class Comparison:
    """All entries of all runs, and what keeps them from being compared.

    Args:
        entries: in the order of the runs.
        notes: what to know before comparing, a sentence each.
    """

    entries: tuple[Entry, ...]
    notes: tuple[str, ...]

    def front(self, cost: Cost) -> list[Entry]:
        """The Pareto front: entries that no other beats in quality and cost together, the cheapest first."""
        known = [(value, e.kept.value, e) for e in self.entries if e.kept and (value := cost.of(e)) is not None]
        known.sort(key=lambda one: (one[0], -one[1]))
        found: list[Entry] = []
        best = -math.inf
        for _, quality, entry in known:
            if quality > best:
                best = quality
                found.append(entry)
        return found

    def to_dict(self) -> dict[str, Any]:
        """As plain values; ``front`` says on which costs' fronts an entry lies."""
        fronts = {cost.name: [id(e) for e in self.front(cost)] for cost in COSTS}
        return {
            "entries": [
                asdict(e) | {"front": [name for name, ids in fronts.items() if id(e) in ids]} for e in self.entries
            ],
            "notes": list(self.notes),
        }


def compare(folders: Sequence[str | Path]) -> Comparison:
    """Read what each run has measured; loads no model.

    Args:
        folders: of runs.

    Raises:
        RunError: one of them is no folder.
    """
    runs = [read(Path(folder)) for folder in folders]
    names = _names(runs)
    entries = [_entry(run, name, row) for run, name in zip(runs, names, strict=True) for row in measured(run)]
    return Comparison(tuple(entries), tuple(_notes(runs, names)))


def _names(runs: Sequence[Run]) -> list[str]:
    """The runs' names; where two are the same, their folders' names, and where these are too, numbered."""
    found = [run.name for run in runs]
    if len(set(found)) < len(found):
        found = [run.folder.resolve().name for run in runs]
    return [f"{name} ({i})" if found.count(name) > 1 else name for i, name in enumerate(found, 1)]


def _entry(run: Run, name: str, row: Measured) -> Entry:
    kept, why = kept_by(run, row)
    energy = mapping(row.profile.get("energy"))
    missing = [f"quality: {why}"] if kept is None else []
    missing += [] if row.size is not None else ["size: not known"]
    missing += [] if row.first else [f"latency: {row.why}"]
    joules = finite(energy.get("joules"))
    if joules is None:
        missing.append(f"energy: {energy.get('source') or row.why or 'no counter, and no --watts given'}")
    return Entry(
        run=name,
        name=row.name,
        kept=kept,
        size=row.size,
        first=quantile(row.first, 0.5) if row.first else None,
        answer=quantile(row.answers, 0.5) if row.answers else None,
        slow=quantile(row.answers, 0.95) if row.answers else None,
        peak=row.peak,
        joules=joules,
        energy=str(energy.get("source") or ""),
        missing=tuple(missing),
    )


def kept_by(run: Run, row: Measured) -> tuple[Kept | None, str]:
    """Quality of a model or file, or why it is not known.

    A file was tested against the student, in nats a token or, of a classifier, in right answers. What it loses lowers the share kept
    by as much of the way from floor to teacher; the two errors are taken as those of different texts and add in squares.
    """
    finding, unit = ("accuracy", r"^accuracy$") if run.classes else ("performance", r"nats per token")
    student = estimate(run, finding, r"kept|retention")
    if student is None or student.value is None or student.low is None or student.high is None:
        return None, f"not evaluated: stillhouse evaluate {run.shown_folder}"
    if row.name == "teacher":
        return Kept(100.0, 100.0, 100.0, "by definition"), ""
    if row.name == "student":
        return Kept(student.value, student.low, student.high, "measured"), ""
    floor, teacher = (estimate(run, finding, unit, role) for role in ("floor", "teacher"))
    if row.lost is None or floor is None or teacher is None or floor.value is None or teacher.value is None:
        return None, "this file did not answer the evaluation's questions"
    way = (teacher.value - floor.value) / 100 if run.classes else floor.value - teacher.value
    if way <= 0:
        return None, "the teacher does not rise above the floor"
    lost, least, most = (100.0 * each / way for each in row.lost)
    value = student.value - lost
    low = value - math.hypot(student.value - student.low, most - lost)
    high = value + math.hypot(student.high - student.value, lost - least)
    return Kept(value, low, high, "the student's, less what the file was found to lose"), ""


def _notes(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """Why numbers of different runs may not be comparable."""
    notes = []
    teachers = dict.fromkeys(teacher_name(run) for run in runs)
    if len(teachers) > 1:
        notes.append(
            f"What is kept is a share of each run's own teacher, and these are {len(teachers)}: {', '.join(teachers)}."
        )
    data = {str(mapping(run.recipe.get("data")).get("sources")) for run in runs}
    if len(data) > 1:
        notes.append("What is kept was measured on each run's own held-out text, and these differ.")
    timed = [(name, run.profile) for run, name in zip(runs, names, strict=True) if run.profile]
    for key, what in (("machine", "on different machines"), ("prompt", "with prompts of different lengths")):
        values = [_machine(profile.get(key)) for _, profile in timed]
        if len(set(values)) > 1:
            notes.append(f"Times were taken {what}: compare them within a run only.")
    if len(timed) > 1:
        told = "Each run was timed by itself: what else the machine did then differs; a run's own files took turns."
        notes.append(told)
    notes += [f"{name}: {note}" for run, name in zip(runs, names, strict=True) for note in run.notes]
    return notes


def _machine(value: Any) -> str:
    found = mapping(value)
    return str([found.get(key) for key in ("cpu", "threads", "system")]) if found else str(value)
