"""Whether the files of a run fit the target that its recipe names: a gate for each budget and each file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from stillhouse.quantiles import quantile
from stillhouse.recipe import Deploy, targets
from stillhouse.report.measured import Measured, measured
from stillhouse.report.read import Run
from stillhouse.report.words import NOTHING, bytes_of, number

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE", "NOT MEASURED"]
"""Of those of an evaluation, the ones that a budget can have."""

TAIL = 0.95
"""The share of answers that a budget of time speaks of."""


@dataclass(frozen=True)
class Gate:
    """One budget asked of one file.

    Args:
        artefact: its name.
        budget: the recipe's key.
        limit: as the recipe has it.
        value: what was measured, in the budget's unit; None if nothing was.
        low: lower end of its 95 % interval; None where it is exact or unknown.
        high: upper end.
        verdict: PASS, FAIL, INCONCLUSIVE or NOT MEASURED.
        sentence: the same in words.
    """

    artefact: str
    budget: str
    limit: float
    value: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    sentence: str


@dataclass(frozen=True)
class Fit:
    """Whether any file fits, and the gates that say so."""

    verdict: Verdict
    sentence: str
    gates: tuple[Gate, ...]


def fit(run: Run) -> Fit | None:
    """Judge a run's files by its recipe's section ``deploy``; None where it asks for nothing."""
    section = run.recipe.get("deploy")
    try:
        deploy = Deploy.model_validate(section or {})
    except ValidationError:
        return None
    if deploy == Deploy(runtime=deploy.runtime):
        return None
    export = run.recipe.get("export")
    listed = export.get("formats") if isinstance(export, dict) else None
    formats = [str(f.get("name") if isinstance(f, dict) else f) for f in listed] if isinstance(listed, list) else []
    wanted = targets(formats, deploy.runtime)
    rows = [row for row in measured(run) if row.form in wanted]
    gates = [gate for row in rows for gate in gates_of(row, deploy)]
    return combine(gates, wanted)


def gates_of(row: Measured, deploy: Deploy) -> list[Gate]:
    """One gate for each budget that is given."""
    found = []
    for budget, limit, exact, seconds, what in (
        ("max_file_mb", deploy.max_file_mb, row.size, None, "MB on disk"),
        ("max_memory_mb", deploy.max_memory_mb, row.peak, None, "MB of memory at most"),
        ("max_first_token_ms", deploy.max_first_token_ms, None, row.first, "ms to the first token (p95)"),
        ("max_p95_ms", deploy.max_p95_ms, None, row.answers, f"ms {'a token' if row.tokens else 'an answer'} (p95)"),
    ):
        if limit is None:
            continue
        if seconds:
            found.append(_timed(row.name, budget, limit, seconds, what))
        elif exact is not None:
            value = exact / 1e6
            verdict: Verdict = "PASS" if value <= limit else "FAIL"
            sentence = f"{number(value)} {what}; {limit:g} allowed."
            found.append(Gate(row.name, budget, limit, value, None, None, verdict, sentence))
        else:
            sentence = f"{limit:g} {what} allowed; {row.why or 'nothing was measured'}."
            found.append(Gate(row.name, budget, limit, None, None, None, "NOT MEASURED", sentence))
    return found


def _timed(name: str, budget: str, limit: float, seconds: Sequence[float], what: str) -> Gate:
    """A budget of time holds where the whole interval of the quantile is below it, and fails where the whole is above."""
    found = quantile(seconds, TAIL)
    sentence = f"{found.words(1e3)} {what}, {len(seconds)} timed; {limit:g} allowed."
    value = 1e3 * found.value
    if found.low is None or found.high is None:
        return Gate(name, budget, limit, value, None, None, "INCONCLUSIVE", f"{sentence} Profile with more --blocks.")
    low, high = 1e3 * found.low, 1e3 * found.high
    verdict: Verdict = "PASS" if high <= limit else "FAIL" if low > limit else "INCONCLUSIVE"
    return Gate(name, budget, limit, value, low, high, verdict, sentence)


def combine(gates: Sequence[Gate], wanted: Sequence[str]) -> Fit:
    """One file that holds every budget is enough."""
    by_file: dict[str, list[Gate]] = {}
    for gate in gates:
        by_file.setdefault(gate.artefact, []).append(gate)
    worst = {name: _worst([gate.verdict for gate in own]) for name, own in by_file.items()}
    for verdict, words in _WORDS.items():
        names = [name for name, found in worst.items() if found == verdict]
        if names:
            return Fit(verdict, words.format(", ".join(names)), tuple(gates))
    return Fit("NOT MEASURED", f"There is no file of the format {' or '.join(wanted)} yet.", ())


TIMES = ("", "on disk", "first token, ms: p50", "each further, ms: p50", "p95", "most memory")


def times(run: Run) -> list[tuple[str, ...]]:
    """A row each model and file that was timed; intervals are of 95 %."""
    rows = []
    for row in measured(run):
        if row.first:
            steps = [quantile(row.tokens, share).words(1e3) for share in (0.5, TAIL)] if row.tokens else [NOTHING] * 2
            first = quantile(row.first, 0.5).words(1e3)
            rows.append((row.name, bytes_of(row.size), first, *steps, bytes_of(row.peak)))
    return rows


_WORDS: dict[Verdict, str] = {
    "PASS": "Fits the target: {}.",
    "INCONCLUSIVE": "Not shown to fit the target, nor not to: {}.",
    "NOT MEASURED": "Not known yet whether it fits the target: {}.",
    "FAIL": "Does not fit the target: {}.",
}
"""Verdict of a file → what is said of it, the best first."""


def _worst(verdicts: Sequence[Verdict]) -> Verdict:
    order: tuple[Verdict, ...] = ("FAIL", "NOT MEASURED", "INCONCLUSIVE", "PASS")
    return next(verdict for verdict in order if verdict in verdicts)
