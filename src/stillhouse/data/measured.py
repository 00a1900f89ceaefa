"""What was measured of the student to choose text by: taken once at its step, kept on disk, read ever after.

What is read at later steps follows from these files, so a run that is killed goes on with the same text, and the control, which
has no teacher to measure with, reads the text that the student read.
"""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stillhouse.data.choosing import Floats, Ints
from stillhouse.data.pieces import Pieces
from stillhouse.errors import RunError, fail
from stillhouse.files import write_bytes
from stillhouse.types import Batch

GAPS = "gaps"
"""Name of the tasks' gaps on held-out text; all other names are measures of difficulty of each piece."""
_HELD_OUT_TOKENS = 2048

Measure = Callable[[Any, Sequence[str], Iterator[Batch], int], tuple[Floats, Ints]]
"""``measure(student, names, batches, tokens)``: of each document of the batches the sum over its positions that carry loss of each
measure of difficulty, [D, names], and how many these positions are, [D]."""


class Measured:
    """What was measured of the student, by name and step.

    Args:
        pieces: what there is to choose from.
        held_out: held-out pieces, of which the tasks' gaps are measured.
        measure: how; None where another run measures and this one reads.
        folder: where the files lie; ``sampling`` in the run's folder if not given.
    """

    def __init__(
        self, pieces: Pieces, held_out: Pieces | None = None, measure: Measure | None = None, folder: Path | None = None
    ) -> None:
        self.pieces, self.held_out, self.measure, self.folder = pieces, held_out, measure, folder
        self._student: Any = None
        self._known: dict[tuple[str, int], Floats] = {}

    def bind(self, student: Any, folder: Path) -> None:
        """Say who is measured, and where the run lies."""
        self._student, self.folder = student, self.folder or folder / "sampling"
        self._known = {}
        for leftover in self.folder.glob(".*.tmp"):  # of a process that was killed
            leftover.unlink(missing_ok=True)

    def value(self, name: str, due: int, step: int, together: Sequence[str], micro_tokens: int) -> Floats:
        """What was measured at a step, or is measured now.

        Args:
            name: a measure of difficulty, or ``GAPS``.
            due: the step of the measurement.
            step: the step that is to be taken with the student's weights of now.
            together: all that is due at that step: it is measured in one reading.
            micro_tokens: positions that are read at a time.

        Returns:
            of each piece the mean over its positions that carry loss, [n]; of ``GAPS`` each task's mean, [T].

        Raises:
            RunError: it is gone, and the weights have moved on since; or it cannot be written.
        """
        if (name, due) in self._known:
            return self._known[name, due]
        found = self._read(name, due)
        if found is None and due == step and self.measure is not None:
            self._take(due, together, micro_tokens)
            found = self._read(name, due)
        if found is None:
            raise fail(
                RunError,
                str(self._path(name, due)),
                f"is missing or damaged: it held what was measured of the student at step {due}, and its weights are those of "
                f"step {step} now",
                f"Delete the folders in {self._path(name, due).parents[1] / 'checkpoints'} of steps after {due}: the run then goes "
                "on from the one before, or starts anew if there is none.",
            )
        self._known[name, due] = found[0]
        return found[0]

    def cost(self, names: Sequence[str], step: int) -> dict[str, float]:
        """What the measurements of a step took, for its line in the metrics; the same however often the run was interrupted."""
        costs = [found[1] for name in names if (found := self._read(name, step)) is not None]
        if not costs or self.measure is None:
            return {}
        return {
            "measured_tokens": float(sum(tokens for tokens, _ in costs)),
            "measured_seconds": float(sum(seconds for _, seconds in costs)),
        }

    def _path(self, name: str, step: int) -> Path:
        assert self.folder is not None, "bind comes first"
        return self.folder / f"{name.replace(':', '.')}-{step:08d}.npz"

    def _take(self, step: int, together: Sequence[str], micro_tokens: int) -> None:
        assert self.measure is not None
        names = sorted(set(together) - {GAPS})
        if names:
            ids = np.argsort(self.pieces.task_of, kind="stable")
            began = time.perf_counter()
            sums, counts = self.measure(self._student, names, self.pieces.of(ids, micro_tokens), self.pieces.tokens)
            seconds = time.perf_counter() - began
            for column, name in enumerate(names):
                score_n = np.zeros(len(ids))
                score_n[ids] = sums[:, column] / np.maximum(counts, 1)
                # One reading for all of them: its tokens count once.
                self._write(name, step, score_n, self.pieces.tokens if not column else 0, seconds / len(names))
        if GAPS in together:
            assert self.held_out is not None
            gaps, total, began = [], 0, time.perf_counter()
            for task in range(len(self.held_out.tasks)):
                mine = np.flatnonzero(self.held_out.task_of == task)
                length_n = self.held_out.parts[1][mine]
                mine = mine[: int(np.searchsorted(np.cumsum(length_n), _HELD_OUT_TOKENS)) + 1]
                tokens = int(self.held_out.parts[1][mine].sum())
                sums, counts = self.measure(self._student, ["gap"], self.held_out.of(mine, micro_tokens), tokens)
                gaps.append(float(sums.sum()) / max(int(counts.sum()), 1))
                total += tokens
            self._write(GAPS, step, np.array(gaps), total, time.perf_counter() - began)

    def _write(self, name: str, step: int, values: Floats, tokens: int, seconds: float) -> None:
        content = io.BytesIO()
        np.savez(content, values=values, cost=np.array([tokens, seconds]))
        try:
            write_bytes(self._path(name, step), content.getvalue())
        except OSError as error:
            raise fail(
                RunError,
                str(self._path(name, step)),
                f"what was measured could not be saved: {error.strerror or error}. The last checkpoint stands.",
                "Make room or give write access, then run the same command again: it continues from there.",
            ) from error

    def _read(self, name: str, step: int) -> tuple[Floats, tuple[float, float]] | None:
        try:
            with np.load(self._path(name, step), allow_pickle=False) as file:
                values, (tokens, seconds) = file["values"], file["cost"].tolist()
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
            return None
        return values, (tokens, seconds)
