"""What the benchmarks of many cells share: nothing is measured twice, rows are of one setting, pages hold what rows say."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
OWN = ("cells", "collect", "language", "recipes")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    for folder in (BENCHMARKS, BENCHMARKS / "retention"):
        monkeypatch.syspath_prepend(str(folder))
    yield {name: importlib.import_module(name) for name in OWN}
    for name in OWN:
        sys.modules.pop(name, None)


def run(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str, stop: str = ""
) -> tuple[list[str], list[Any]]:
    """Which cells were measured, and the rows that were told."""
    measured: list[str] = []
    told: list[Any] = []

    def measure(cell: str, seed: int, material: str, _: Any) -> dict[str, Any]:
        assert material == "ready"
        if cell == stop:
            raise KeyboardInterrupt
        measured.append(f"{cell}{seed}")
        return {"cpu_seconds": 1.0, "value": len(cell) + seed}

    monkeypatch.setattr(sys, "argv", ["x", "--data", ".", *arguments])
    try:
        benchmark.main(lambda _: "ready", measure, told.extend)
    except KeyboardInterrupt:
        told.append("killed")
    return measured, told


def test_a_cell_is_measured_once_for_a_seed_and_a_setting(
    modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    benchmark = modules["cells"].Benchmark(
        "b", "about", ["one", "two", "three"], {"steps": (5, "x"), "rate": (0.5, "y")}, (0, 1), tmp_path
    )
    assert run(benchmark, monkeypatch, stop="three") == (["one0", "two0"], ["killed"])
    measured, told = run(benchmark, monkeypatch, "--seeds", "0", "1")
    assert measured == ["three0", "one1", "two1", "three1"]
    assert [(row["cell"], row["seed"]) for row in told] == [
        (cell, seed) for cell in ("one", "two", "three") for seed in (0, 1)
    ]
    assert run(benchmark, monkeypatch)[0] == []
    measured, told = run(benchmark, monkeypatch, "--steps", "9", "--only", "two", "--seeds", "0")
    assert measured == ["two0"] and [row["settings"] for row in told] == [{"steps": 9, "rate": 0.5}]
    assert run(benchmark, monkeypatch, "--steps", "7", "--table") == ([], [])
    assert len(benchmark.rows()) == 6 and all("machine" in row for row in benchmark.rows())


def test_text_is_put_between_its_marks_and_nowhere_else(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- t: begin -->\nold\n<!-- t: end -->\nb\n<!-- u: begin -->\nstays\n<!-- u: end -->\n")
    modules["cells"].put(page, "t", "new\nlines\n")
    assert page.read_text() == (
        "a\n<!-- t: begin -->\nnew\nlines\n<!-- t: end -->\nb\n<!-- u: begin -->\nstays\n<!-- u: end -->\n"
    )
    with pytest.raises(AssertionError, match="no place"):
        modules["cells"].put(page, "v", "x")


@pytest.mark.parametrize(
    ("folder", "parts"),
    [
        ("sst2-10x", ("sst2-10x", "sst2", "10x", None, None, None)),
        ("sst2-10x-seed2", ("sst2-10x", "sst2", "10x", None, "2", None)),
        ("books-50x-stages-seed1-budget0.1", ("books-50x-stages", "books", "50x", "stages", "1", "0.1")),
        ("books-10x-budget0.25", ("books-10x", "books", "10x", None, None, "0.25")),
        ("clinc150-teacher", ("clinc150-teacher", "clinc150", "teacher", None, None, None)),
    ],
)
def test_names_of_runs(modules: dict[str, ModuleType], folder: str, parts: tuple[str | None, ...]) -> None:
    found = modules["collect"].NAME.fullmatch(folder)
    assert tuple(found[name] for name in ("recipe", "task", "size", "way", "seed", "budget")) == parts


def test_the_pages_hold_what_the_rows_say(modules: dict[str, ModuleType]) -> None:
    """The tables on the pages are made of the committed rows: nobody has written in them, and no row was forgotten."""
    collect = modules["collect"]
    rows = collect._rows()
    whole = [row for row in rows if row.get("budget", 1.0) == 1.0]
    page = collect.PAGE.read_text(encoding="utf-8")
    for made in (collect.table(whole), collect.summary(whole), modules["language"].table(rows)):
        assert made.strip() in page
