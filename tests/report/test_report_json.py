"""report.json: it holds what its schema says, of a whole run, of an empty one, and of imported logs; the same bytes each time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import ValidationError

from stillhouse.report import report
from stillhouse.told import ADAPTER, schema

LOGS = Path(__file__).parents[1] / "evaluate" / "lm_eval_logs"


def held(folder: Path) -> dict[str, Any]:
    """What the file holds, if it is what its types say."""
    text = (folder / "report.json").read_text(encoding="utf-8")
    ADAPTER.validate_json(text)
    told: dict[str, Any] = json.loads(text)
    return told


def test_a_run_holds_what_the_schema_says(run: Path, example: ModuleType) -> None:
    report(run)
    told = held(run)
    assert told["evaluation"] == example.evaluation()
    assert told["verdict"] == example.evaluation()["verdict"]
    assert {"change", "asked", "teacher", "student"} <= set(told["changed"][0]["shown"][0])
    assert told["not_measured"] and all(row["why"] for row in told["not_measured"])


def test_an_empty_folder_holds_it_too(tmp_path: Path) -> None:
    report(tmp_path)
    told = held(tmp_path)
    assert (told["verdict"], told["evaluation"], told["refinement"]) == ("NOT MEASURED", None, None)


def test_the_types_refuse_what_is_no_report(run: Path) -> None:
    report(run)
    told = held(run)
    for change in ({"schema": 2}, {"verdict": "GOOD"}, {"more": 1}, {"commands": [1]}):
        with pytest.raises(ValidationError):
            ADAPTER.validate_python(told | change)
    told["evaluation"]["findings"][0]["estimates"][0]["value"] = "much"
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(told)


def test_the_schema_names_what_can_be_gated_on() -> None:
    found = schema()
    assert set(found["properties"]) >= {"schema", "verdict", "evaluation", "not_measured"}
    assert set(found["$defs"]["Finding"]["properties"]) >= {"verdict", "estimates", "reason", "limits"}
    assert found["$defs"]["Estimate"]["properties"]["low"]["anyOf"] == [{"type": "number"}, {"type": "null"}]


def test_same_logs_same_seed_same_bytes_in_every_process(tmp_path: Path) -> None:
    """evaluation.json, report.json, the page and the table, from two processes whose hashes are seeded differently."""
    written = []
    for seed in ("1", "2"):
        out = tmp_path / seed / "out"
        arguments = ["evaluate", "--import", "lm-eval", str(LOGS / "teacher"), str(LOGS / "student"), "--out", str(out)]
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-m", "stillhouse", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        held(out)
        names = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
        written.append({name: (out / name).read_bytes() for name in names})
    assert written[0].keys() == written[1].keys() >= {"evaluation.json", "report.json", "report.html"}
    for name, content in written[0].items():
        assert content == written[1][name], name
