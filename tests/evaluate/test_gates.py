"""One verdict from many: a conjunction in which what was not shown does not count as shown."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest

from stillhouse.evaluate.gates import combine, exit_code
from stillhouse.evaluate.records import Finding, Verdict


def finding(name: str, verdict: Verdict) -> Finding:
    return Finding(name, f"{name}?", verdict, f"The {name} is 3 [2, 4].", f"Because of {name}.")


def test_all_combinations_of_three() -> None:
    for verdicts in itertools.product(get_args(Verdict), repeat=3):
        got = combine([finding(f"m{i}", v) for i, v in enumerate(verdicts)]).verdict
        judging = [v for v in verdicts if v != "DESCRIPTIVE"]
        if not judging:
            assert got == "NOT MEASURED"
        elif "FAIL" in judging:
            assert got == "FAIL"
        elif all(v == "PASS" for v in judging):
            assert got == "PASS"
        else:
            assert got == "INCONCLUSIVE"


def test_sentences_name_what_decides() -> None:
    good, bad = finding("performance", "PASS"), finding("calibration", "FAIL")
    open_ = finding("benefit", "NOT MEASURED")
    failed = combine([good, bad, open_])
    assert "1 of 3 gates hold; failed: calibration" in failed.sentence
    assert bad.sentence in failed.sentence
    assert "Undecided: benefit (not measured)." in failed.sentence
    undecided = combine([good, open_])
    assert "1 of 2 gates hold, none failed; undecided: benefit (not measured)" in undecided.sentence
    assert combine([good]).sentence == f"Every gate holds (1 of 1). {good.sentence}"
    assert combine([]).verdict == "NOT MEASURED"


@pytest.mark.parametrize("verdict", get_args(Verdict))
def test_exit_codes(verdict: Verdict) -> None:
    assert exit_code(verdict) == {"PASS": 0, "FAIL": 1}.get(verdict, 2)
