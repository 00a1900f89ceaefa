"""What benchmarks of many cells share: their command line, and results that lie a line a cell, so that a killed command goes on.

A cell is measured once for a seed and a setting of the numbers (steps, tokens, …) and then never again: a row is written when it is
done. Tables are of the rows of one setting.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stillhouse import machine
from stillhouse.evaluate import statistics
from stillhouse.files import write_text
from stillhouse.report import charts

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs"

Row = dict[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """Cells by name, and where their rows lie.

    Args:
        name: of the file of results, and of the folder under runs/ where text and models lie meanwhile.
        about: what ``--help`` says: the module's docstring.
        cells: names of all cells, in the order in which they are measured.
        numbers: option → its default and what it is; a row is of the setting of all of them.
        seeds: which seeds are measured unless others are asked for.
        folder: of the results.
        needs_data: whether ``--data`` must be given.
    """

    name: str
    about: str
    cells: Collection[str]
    numbers: dict[str, tuple[float, str]]
    seeds: Sequence[int] = (0,)
    folder: Path = field(default=RESULTS)
    needs_data: bool = True

    @property
    def file(self) -> Path:
        """The rows, as JSON lines."""
        return self.folder / f"{self.name}.jsonl"

    def rows(self, settings: dict[str, float] | None = None) -> list[Row]:
        """What was measured so far with a setting of the numbers: the defaults if none is given; cells in their order."""
        asked = settings or {name: default for name, (default, _) in self.numbers.items()}
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        found = [row for row in map(json.loads, lines) if row["settings"] == asked]
        return [row for cell in self.cells for row in found if row["cell"] == cell]

    def main(
        self,
        prepare: Callable[[argparse.Namespace], Any],
        measure: Callable[[str, int, Any, argparse.Namespace], Row],
        tell: Callable[[list[Row]], None],
    ) -> None:
        """Measure what is missing, then tell what is there.

        Args:
            prepare: what the command line asks for → what all cells need; not called if none is missing.
            measure: a cell, a seed, what was prepared, what was asked for → what is to be kept of it.
            tell: the rows of the asked setting → a table for people.
        """
        given = self._parsed()
        settings = {name: getattr(given, name) for name in self.numbers}
        done = {(row["cell"], row["seed"]) for row in self.rows(settings)}
        missing = [
            (cell, seed) for seed in given.seeds for cell in given.only or self.cells if (cell, seed) not in done
        ]
        if missing and not given.table:
            material = prepare(given)
            self.folder.mkdir(exist_ok=True)
            for cell, seed in missing:
                row = {"cell": cell, "seed": seed, **measure(cell, seed, material, given)}
                row |= {"settings": settings, "machine": machine.describe()}
                with self.file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                print(f"{cell}, seed {seed}: {row['cpu_seconds']:.0f} CPU seconds", flush=True)
        tell(self.rows(settings))

    def _parsed(self) -> argparse.Namespace:
        parser = argparse.ArgumentParser(description=self.about, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--data", type=Path, help="the text, or a folder of it: see above")
        parser.add_argument("--only", nargs="*", choices=list(self.cells), metavar="CELL", help="of all that there are")
        parser.add_argument("--seeds", nargs="*", type=int, default=list(self.seeds))
        parser.add_argument(
            "--work", type=Path, default=Path("runs") / self.name, help="for what lies on disk meanwhile"
        )
        parser.add_argument("--table", action="store_true", help="measure nothing: only tell what is there")
        for name, (default, about) in self.numbers.items():
            parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, help=about)
        given = parser.parse_args()
        if self.needs_data and given.data is None and not given.table:
            parser.error("--data is needed")
        return given


def put(page: Path, mark: str, text: str) -> None:
    """Put text between the marks ``<!-- MARK: begin -->`` and ``<!-- MARK: end -->`` of a page."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(f"<!-- {mark}: begin -->\n")
    _, end, after = rest.partition(f"<!-- {mark}: end -->")
    assert begin and end, f"{page} has no place for {mark}"
    write_text(page, f"{before}{begin}{text.rstrip()}\n{end}{after}")


def over_seeds(values: Sequence[float], digits: int) -> str:
    """A mean over seeds with its 95 % interval (Student's t) where there are several; of one seed the number alone."""
    found = statistics.mean(np.array(values), np.arange(len(values)))
    if len(values) < 2:
        return f"{found.value:.{digits}f}"
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def standing(drawing: str) -> str:
    """A chart of the report as a picture of its own, for light and dark pages."""
    look = (
        "svg{font:12px system-ui,sans-serif;background:var(--card)}text{fill:var(--ink)}.grid{stroke:var(--line)}"
        ".band{stroke:currentColor;stroke-width:7;opacity:.3}.cap{stroke:currentColor}.ref{stroke:var(--muted);stroke-dasharray:4 3}"
        ".plate{fill:none}path,circle,rect{fill:currentColor}"
    )
    svg = drawing.replace(" The table below has all numbers.", "")
    start = svg.index(">") + 1
    return f"{svg[:start]}<style>{charts.style()}{look}</style>{svg[start:]}\n"
