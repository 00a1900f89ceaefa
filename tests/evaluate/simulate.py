"""How often intervals cover and verdicts are wrong, by simulation.

``python tests/evaluate/simulate.py --runs 3000`` prints the whole table (about ten minutes on one core); the suite runs a few cells
of it with fewer runs.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import numpy as np

from stillhouse.evaluate import statistics as st


@dataclass(frozen=True)
class Cell:
    """What is drawn: right-or-wrong items of two models with correlated normal variables behind them."""

    items: int
    per_cluster: int
    teacher: float = 0.7
    floor: float = 0.25
    kept: float = 0.9
    latent: float = 0.7
    icc: float = 0.3


@dataclass(frozen=True)
class Rates:
    """What came of it, as shares of the runs."""

    covered: float
    wrong_pass: float
    wrong_fail: float


def drawn(rng: np.random.Generator, cell: Cell) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Teacher, student and cluster of each item."""
    clusters = cell.items // cell.per_cluster
    index = np.repeat(np.arange(clusters), cell.per_cluster)
    share = cell.icc if cell.per_cluster > 1 else 0.0
    a, b = math.sqrt(cell.latent), math.sqrt(1 - cell.latent)
    common, common_g = rng.normal(size=cell.items), rng.normal(size=clusters)
    found = []
    for right in (cell.teacher, cell.floor + cell.kept * (cell.teacher - cell.floor)):
        item = a * common + b * rng.normal(size=cell.items)
        group = a * common_g + b * rng.normal(size=clusters)
        z = math.sqrt(1 - share) * item + math.sqrt(share) * group[index]
        found.append((z > st.normal_quantile(1 - right)).astype(float))
    return found[0], found[1], index


def rates(cell: Cell, runs: int, seed: int = 0) -> Rates:
    """At R = threshold exactly, where a verdict is wrong whatever it says."""
    rng = np.random.default_rng(seed)
    covered = passed = failed = 0
    for _ in range(runs):
        teacher, student, cluster = drawn(rng, cell)
        got = st.retention(teacher, student, cell.floor, cluster, threshold=cell.kept)
        covered += got.low <= cell.kept <= got.high
        passed += got.verdict == "PASS"
        failed += got.verdict == "FAIL"
    return Rates(covered / runs, passed / runs, failed / runs)


def together_rates(cells: tuple[Cell, ...], runs: int, seed: int = 0) -> Rates:
    """The same of several tasks together."""
    rng = np.random.default_rng(seed)
    covered = passed = failed = 0
    kept = cells[0].kept
    for _ in range(runs):
        parts = []
        for cell in cells:
            teacher, student, cluster = drawn(rng, cell)
            parts.append(st.retention(teacher, student, cell.floor, cluster, threshold=kept))
        got = st.together([part for part in parts if part.verdict != "UNINFORMATIVE"])
        covered += got.low <= kept <= got.high
        passed += got.verdict == "PASS"
        failed += got.verdict == "FAIL"
    return Rates(covered / runs, passed / runs, failed / runs)


CELLS = [
    Cell(items, per, teacher, floor)
    for items in (100, 300, 1000)
    for per in (1, 5)
    for teacher, floor in ((0.7, 0.25), (0.9, 0.5), (0.4, 0.0))
]
SEVERAL = (Cell(300, 1), Cell(200, 5, 0.85, 0.5), Cell(500, 1, 0.4, 0.0))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3000)
    runs = parser.parse_args().runs
    print("| items | per cluster | teacher | floor | interval covers | wrong PASS | wrong FAIL |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for cell in CELLS:
        got = rates(cell, runs)
        print(
            f"| {cell.items:,} | {cell.per_cluster} | {cell.teacher:.2f} | {cell.floor:.2f} | {got.covered:.3f} | "
            f"{got.wrong_pass:.3f} | {got.wrong_fail:.3f} |",
            flush=True,
        )
    got = together_rates(SEVERAL, runs)
    print(f"| three tasks | 1, 5, 1 | | | {got.covered:.3f} | {got.wrong_pass:.3f} | {got.wrong_fail:.3f} |")


if __name__ == "__main__":
    main()
