"""What is known of each model and file of a run: its size, what it loses, how fast it was; from the run's files alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stillhouse.report.read import Run
from stillhouse.report.words import finite


@dataclass(frozen=True)
class Measured:
    """A model or file. What is not known is None or empty, and ``why`` says why no time was taken.

    Args:
        name: ``teacher``, ``student`` or the artefact's, such as ``gguf-q8_0``.
        form: the export format; ``hf`` of the student, "" of the teacher.
        size: bytes of the file or folder.
        lost: what it loses against the student: value, low, high; nats a token, or of a classifier the share of right answers.
        agreement: share of positions where it chooses as the student does.
        first: seconds to the first token, one a block.
        tokens: seconds of each further token.
        peak: the most memory its process held, bytes.
        profile: all that ``profile.json`` says of it.
        why: it was not timed.
    """

    name: str
    form: str
    size: float | None = None
    lost: tuple[float, float, float] | None = None
    agreement: float | None = None
    first: tuple[float, ...] = ()
    tokens: tuple[float, ...] = ()
    peak: float | None = None
    profile: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""

    @property
    def answers(self) -> tuple[float, ...]:
        """Seconds that a user waits again and again: those of a further token, or of a classifier's answer."""
        return self.tokens or self.first


def measured(run: Run) -> list[Measured]:
    """Teacher, student and artefacts of a run, those that were refused left out."""
    timed = {str(row.get("name")): row for row in _maps(run.profile.get("models"))}
    rows = [_row("teacher", "", timed, _of_model(run, "teacher"), {}, run)]
    student = sum(size for name, size in run.files if name.startswith("student/")) or _of_model(run, "student")
    rows.append(_row("student", "hf", timed, student, {}, run))
    for record in run.exports:
        if record.get("name") != "hf" and "refused" not in record:
            name, form = str(record.get("name")), str(record.get("format") or "")
            rows.append(_row(name, form, timed, finite(record.get("bytes")), record, run))
    return rows


def _row(
    name: str,
    form: str,
    timed: Mapping[str, Mapping[str, Any]],
    size: float | None,
    record: Mapping[str, Any],
    run: Run,
) -> Measured:
    row = timed.get(name, {})
    found = record.get("difference")
    found = found if isinstance(found, Mapping) else {}
    lost = [finite(found.get(key)) for key in ("loss", "low", "high")]
    if run.classes:
        right = found.get("right")
        more = [finite(right.get(key)) for key in ("value", "high", "low")] if isinstance(right, Mapping) else [None]
        lost = [None if each is None else -each for each in more]
    why = ""
    if not row:
        why = str(record.get("untested") or "") or (
            f"not timed yet: stillhouse profile {run.shown_folder}" if not timed else "left out when it was profiled"
        )
    return Measured(
        name=name,
        form=form,
        size=size,
        lost=(lost[0], lost[1], lost[2]) if None not in lost else None,  # type: ignore[arg-type]
        agreement=finite(found.get("agreement")),
        first=_seconds(row.get("prefill")),
        tokens=_seconds(row.get("steps")),
        peak=finite(row.get("peak")),
        profile=row,
        why=why,
    )


def _of_model(run: Run, role: str) -> float | None:
    models = run.evaluation.get("models")
    model = models.get(role) if isinstance(models, Mapping) else None
    return finite(model.get("bytes")) if isinstance(model, Mapping) else None


def _maps(value: Any) -> list[Mapping[str, Any]]:
    return [v for v in value if isinstance(v, Mapping)] if isinstance(value, list) else []


def _seconds(values: Any) -> tuple[float, ...]:
    found = [finite(v) for v in values] if isinstance(values, list) else []
    return tuple(v for v in found if v is not None)
