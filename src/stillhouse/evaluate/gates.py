"""One verdict from all findings: a claim that the student may replace the teacher holds only if every gate holds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from stillhouse.evaluate.records import Finding, Verdict

EXIT_CODES: dict[Verdict, int] = {
    "PASS": 0,
    "FAIL": 1,
    "INCONCLUSIVE": 2,
    "UNINFORMATIVE": 2,
    "NOT MEASURED": 2,
    "DESCRIPTIVE": 2,
}
"""What a script can go by. 3 is left for an evaluation that could not be carried out."""


@dataclass(frozen=True)
class Overall:
    """The verdict on a run and the sentence that heads its report."""

    verdict: Verdict
    sentence: str


def combine(findings: Sequence[Finding], optional: Collection[str] = ()) -> Overall:
    """The conjunction of all findings that judge: FAIL if one fails, PASS if all pass, else INCONCLUSIVE.

    A finding that is UNINFORMATIVE or NOT MEASURED never passes. DESCRIPTIVE ones do not judge; if there are no others, the
    verdict is NOT MEASURED. Each gate is tested at 5 %, and so is their conjunction (an intersection–union test): a student
    that must not pass passes with at most 5 %, without a correction for the number of gates.

    Args:
        findings: of all measures, in the order of their importance.
        optional: names of those that hold nothing back, whatever they found.
    """
    gates = [f for f in findings if f.verdict != "DESCRIPTIVE" and f.name not in optional]
    if not gates:
        return Overall("NOT MEASURED", "Nothing was judged: no measure gave a verdict.")
    failed = [f for f in gates if f.verdict == "FAIL"]
    undecided = [f for f in gates if f.verdict not in ("PASS", "FAIL")]
    passed = len(gates) - len(failed) - len(undecided)
    tally = f"{passed} of {len(gates)} gates hold"
    first = f" {gates[0].sentence}" if gates[0].verdict == "PASS" else ""
    if failed:
        told = " ".join(f.sentence for f in failed)
        also = f" Undecided: {_names(undecided)}." if undecided else ""
        return Overall(
            "FAIL", f"Not a replacement for the teacher ({tally}; failed: {_names(failed)}).{first} {told}{also}"
        )
    if undecided:
        told = " ".join(f"{f.sentence} {f.reason}".strip() for f in undecided if f.verdict != "NOT MEASURED")
        head = f"Not shown to be a replacement for the teacher ({tally}, none failed; undecided: {_names(undecided)})."
        return Overall("INCONCLUSIVE", f"{head}{first} {told}".strip())
    return Overall("PASS", f"Every gate holds ({len(gates)} of {len(gates)}).{first}")


def exit_code(verdict: Verdict) -> int:
    """0 PASS, 1 FAIL, 2 anything that decides neither."""
    return EXIT_CODES[verdict]


def _names(findings: Sequence[Finding]) -> str:
    told = ("FAIL", "INCONCLUSIVE")
    return ", ".join(f.name if f.verdict in told else f"{f.name} ({f.verdict.lower()})" for f in findings)
