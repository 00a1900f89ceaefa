"""What the student was exported to, as rows of a table: for the page and for the model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stillhouse.report.read import Run
from stillhouse.report.words import finite, number, quantity

COLUMNS = (
    "file",
    "size",
    "loads in",
    "most memory",
    "loses, nats a token",
    "right, pp",
    "confidence − accuracy, pp",
    "same choice",
    "run by",
)


def rows(run: Run) -> list[tuple[str, ...]]:
    """One row an artefact: those that were tested again in a fresh process, those that were not, those refused."""
    return [_row(record) for record in run.exports]


def _row(record: Mapping[str, Any]) -> tuple[str, ...]:
    name = str(record.get("path") or record.get("name"))
    if "refused" in record:
        return (name, "refused", *[""] * 6, str(record["refused"]))
    size = _megabytes(record.get("bytes"))
    if "untested" in record:
        return (name, size, *[""] * 6, f"not tested: {record['untested']}")
    found = record.get("difference")
    found = found if isinstance(found, Mapping) else {}
    lost = ""
    if finite(found.get("loss")) is not None:
        lost = f"{_small(found['loss'])} [{_small(found.get('low'))}, {_small(found.get('high'))}]"
    elif finite(found.get("kl")) is not None:
        lost = f"KL {_small(found['kl'])}"
    return (
        name,
        size,
        quantity(record.get("load_seconds"), "s"),
        _megabytes(record.get("peak_bytes")),
        lost,
        _points(found.get("right")),
        _points(found.get("calibration")),
        quantity(found.get("agreement"), "share"),
        str(record.get("runtime", "")),
    )


def _megabytes(size: Any) -> str:
    known = finite(size)
    return "" if known is None else f"{number(known / 1e6)} MB"


def _small(value: Any) -> str:
    known = finite(value)
    if known is None:
        return "–"
    return "0" if abs(known) < 5e-5 else f"{known:.4f}".replace("-", "−")


def _points(change: Any) -> str:
    """A change of a share in percentage points, with its interval."""
    known = [finite(change.get(key)) for key in ("value", "low", "high")] if isinstance(change, Mapping) else []
    if not known or None in known:
        return ""
    value, low, high = (f"{100 * (each or 0.0):+.2f}".replace("-", "−").replace("+0.00", "0") for each in known)
    return f"{value} [{low}, {high}]"


def note(run: Run) -> str:
    """How the rows were measured; empty where there are none."""
    found = next((r["difference"] for r in run.exports if isinstance(r.get("difference"), Mapping)), None)
    if found is None:
        return ""
    return (
        f"Each file was loaded in a process of its own by its own runtime and read {found.get('texts')} held-out texts "
        f"({found.get('positions')} positions) as the student in PyTorch did: what it loses, how much less often its first choice is right and how "
        "its confidence moves are differences from the student, with a bootstrap over texts. One that is shown to lose more than "
        f"{number(found.get('margin'))} nats, to be sure of other things by more than "
        f"{number(100 * (finite(found.get('calibration_margin')) or 0.03))} pp, or that does not compute what its weights say, is refused."
    )
