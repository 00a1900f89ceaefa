"""Budgets of a recipe against what was measured: verdicts from intervals between observed times, and nothing claimed without any."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from stillhouse.report import report
from stillhouse.report.deploy import fit
from stillhouse.report.read import read


def run_of(folder: Path, deploy: dict, *, steps: list[float] | None = None, peak: float = 50e6, formats=("hf", "gguf")):
    (folder / "student").mkdir(parents=True)
    (folder / "student" / "model.safetensors").write_bytes(bytes(3000))
    recipe = {"name": "small", "export": {"formats": [{"name": f} for f in formats]}, "deploy": deploy}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    exports = [{"name": f, "format": f, "path": f, "bytes": 40_000_000} for f in formats if f != "hf"]
    (folder / "exports.json").write_text(json.dumps(exports), encoding="utf-8")
    if steps is not None:
        rows = [{"name": n, "prefill": [0.2] * 100, "steps": steps, "peak": peak} for n in ("student", "gguf")]
        (folder / "profile.json").write_text(json.dumps({"models": rows}), encoding="utf-8")
    return fit(read(folder))


def verdicts(found) -> dict[str, str]:
    return {f"{gate.artefact} {gate.budget}": gate.verdict for gate in found.gates}


def test_without_budgets_there_is_nothing_to_judge(tmp_path: Path):
    assert run_of(tmp_path / "none", {}) is None
    assert run_of(tmp_path / "runtime", {"runtime": "gguf"}) is None


@pytest.mark.parametrize(("limit", "verdict"), [(41, "PASS"), (40, "PASS"), (39.9, "FAIL")])
def test_a_file_is_judged_without_a_profile(tmp_path: Path, limit: float, verdict: str):
    found = run_of(tmp_path, {"max_file_mb": limit, "max_p95_ms": 10})
    assert verdicts(found) == {"gguf max_file_mb": verdict, "gguf max_p95_ms": "NOT MEASURED"}
    assert found.verdict == ("NOT MEASURED" if verdict == "PASS" else "FAIL")
    assert "stillhouse profile" in found.gates[1].sentence


def test_a_time_passes_with_its_whole_interval_only(tmp_path: Path):
    """Of 1 to 1,000 ms, the p95 lies between the 936th and the 963rd or so: binomial(1000, 0.95) ± 1.96 σ, σ = 6.9."""
    steps = [i / 1000 for i in range(1, 1001)]
    for limit, verdict in ((970, "PASS"), (955, "INCONCLUSIVE"), (945, "INCONCLUSIVE"), (930, "FAIL")):
        found = run_of(tmp_path / str(limit), {"max_p95_ms": limit}, steps=steps)
        assert verdicts(found) == {"gguf max_p95_ms": verdict}, limit
        gate = found.gates[0]
        assert gate.value == pytest.approx(950, abs=1) and 934 < gate.low < 940 and 960 < gate.high < 966


def test_too_few_times_decide_nothing(tmp_path: Path):
    found = run_of(tmp_path, {"max_p95_ms": 1000}, steps=[0.001] * 20)
    assert found.verdict == "INCONCLUSIVE" and "n too small" in found.sentence + found.gates[0].sentence


def test_one_file_that_fits_is_enough_and_the_runtime_chooses(tmp_path: Path):
    both = {"max_file_mb": 1}
    assert run_of(tmp_path / "all", both).verdict == "FAIL"  # the student's own folder is none of the target's
    found = run_of(tmp_path / "hf", both | {"runtime": "hf", "max_memory_mb": 60}, steps=[0.01] * 100)
    assert found.verdict == "PASS" and {gate.artefact for gate in found.gates} == {"student"}
    alone = run_of(tmp_path / "alone", both, formats=("hf",))
    assert alone.verdict == "PASS" and "student" in alone.sentence
    assert run_of(tmp_path / "memory", {"max_memory_mb": 49}, steps=[0.01] * 100).verdict == "FAIL"


def test_a_classifiers_answers_are_its_first(tmp_path: Path):
    found = run_of(tmp_path, {"max_p95_ms": 300, "max_first_token_ms": 100}, steps=[])
    assert verdicts(found) == {"gguf max_first_token_ms": "FAIL", "gguf max_p95_ms": "PASS"}


def test_the_gates_stand_on_the_page(tmp_path: Path):
    run_of(tmp_path, {"max_file_mb": 41, "max_p95_ms": 5}, steps=[0.01] * 100)
    page = report(tmp_path).read_text(encoding="utf-8")
    for words in (
        "On the target",
        "Does not fit the target: gguf",
        "max_p95_ms",
        "40.0 MB on disk; 41 allowed",
        "FAIL",
    ):
        assert words in page, words
    assert "Speed and memory on the machine" not in page


def test_a_file_that_was_not_written_is_not_judged(tmp_path: Path):
    found = run_of(tmp_path, {"runtime": "onnx", "max_file_mb": 10})
    assert found.verdict == "NOT MEASURED" and "no file of the format onnx" in found.sentence
