"""The list of traps that can be put back fits the source: see ``put_back.py``, which does it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from put_back import PATCHES, SOURCE, TRAPS, Patch

FOLDER = Path(__file__).parent
TESTS = {
    f"{file.name}::{node.name}"
    for file in FOLDER.glob("test_traps_*.py")
    for node in ast.parse(file.read_text(encoding="utf-8")).body
    if isinstance(node, ast.FunctionDef)
}


def test_every_trap_has_a_test_and_can_be_put_back():
    assert sorted(TRAPS) == list(range(1, 27))
    assert {patch.trap for patch in PATCHES} == set(TRAPS)
    assert {int(number) for number in re.findall(r"::test_trap_(\d\d)_", "\n".join(TESTS))} == set(TRAPS)


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: f"{patch.trap}-{patch.file}")
def test_a_patch_fits(patch: Patch):
    """Its text stands in the source once, what comes out is a program, and the test it names is of its trap."""
    whole = (SOURCE / "stillhouse" / patch.file).read_text(encoding="utf-8")
    assert whole.count(patch.old) == 1
    assert patch.new != patch.old
    if patch.file.endswith(".py"):
        ast.parse(whole.replace(patch.old, patch.new))
    name = patch.test.partition("[")[0]
    assert name in TESTS and f"::test_trap_{patch.trap:02}_" in name
