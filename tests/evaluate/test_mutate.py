"""The list of faults in the statistics fits the source: see ``mutate.py``, which puts each in and sees its test fail."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from mutate import FAULTS, PATCHES, Patch

from stillhouse.evaluate import statistics

FOLDER = Path(__file__).parent
STATISTICS = Path(str(statistics.__file__)).parent


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: f"{patch.trap}-{Path(patch.file).name}")
def test_a_fault_fits(patch: Patch) -> None:
    """Its text stands in the source once, what comes out is a program, and the test that must notice is there."""
    whole = (STATISTICS / Path(patch.file).name).read_text(encoding="utf-8")
    assert whole.count(patch.old) == 1
    ast.parse(whole.replace(patch.old, patch.new))
    file, _, test = patch.test.partition("::")
    body = ast.parse((FOLDER / file).read_text(encoding="utf-8")).body
    assert test.partition("[")[0] in {node.name for node in body if isinstance(node, ast.FunctionDef)}


def test_every_file_of_the_statistics_is_broken_somewhere() -> None:
    broken = {file for _, file, *_ in FAULTS}
    assert broken == {path.name for path in STATISTICS.glob("*.py")} - {"__init__.py"}
