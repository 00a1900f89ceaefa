"""Rows that survive a kill at any byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stillhouse.data.ledger import Ledger
from stillhouse.errors import RunError

BATCHES = [
    ("a", [{"text": "one\nwith a line end"}, {"text": "zwei – ü"}]),
    ("b", []),
    ("c", [{"text": "\u2028three"}]),
]


def fill(folder: Path) -> list[list[dict]]:
    """Read what is there, write what is not; as who uses a ledger does."""
    ledger = Ledger(folder)
    found = []
    for key, rows in BATCHES:
        there = ledger.next(key)
        if there is None:
            ledger.add(key, rows, {"rows": len(rows)})
            there = rows
        found.append(there)
    return found


def contents(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "rows.jsonl").read_bytes(), (folder / "batches.jsonl").read_bytes()


def test_what_was_added_is_read_again(tmp_path: Path):
    assert fill(tmp_path) == fill(tmp_path) == [rows for _, rows in BATCHES]
    assert Ledger(tmp_path).counts == {"rows": 3}
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().split("\n")[:-1]] == [
        row for _, rows in BATCHES for row in rows
    ]


def test_cut_off_at_any_byte_of_either_file_it_ends_the_same(tmp_path: Path):
    fill(tmp_path / "whole")
    rows, told = contents(tmp_path / "whole")
    ends = [0, *(json.loads(line)["stop"] for line in told.splitlines())]
    starts = [0, *(i + 1 for i, byte in enumerate(told) if byte == ord("\n"))]
    broken = tmp_path / "broken"
    broken.mkdir()
    states = [(r, t) for t in range(len(told) + 1) for r in {ends[sum(s <= t for s in starts) - 1], len(rows)}]
    # a killed process leaves the rows of the batch under way, or all of them and a part of the line that tells of them
    states += [(r, t) for r in range(len(rows) + 1) for e, t in zip(ends, starts, strict=True) if e <= r]
    states += [(r, len(told)) for r in range(len(rows))]  # and a disk may lose what it had promised to hold
    for r, t in states:
        (broken / "rows.jsonl").write_bytes(rows[:r])
        (broken / "batches.jsonl").write_bytes(told[:t])
        assert fill(broken) == [rows for _, rows in BATCHES]
        assert contents(broken) == (rows, told), (r, t)


def test_a_byte_that_changed_is_found(tmp_path: Path):
    fill(tmp_path)
    rows, told = contents(tmp_path)
    for place in range(len(rows)):
        damaged = bytearray(rows)
        damaged[place] ^= 1
        (tmp_path / "rows.jsonl").write_bytes(damaged)
        assert fill(tmp_path) == [rows for _, rows in BATCHES]
        assert contents(tmp_path) == (rows, told)


def test_rows_of_other_prompts_are_not_taken_for_these(tmp_path: Path):
    fill(tmp_path)
    with pytest.raises(RunError, match="other prompts"):
        Ledger(tmp_path).next("z")


def test_a_folder_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be used"):
        Ledger(tmp_path / "file" / "rows")
