"""The numbers of every step and validation, one JSON object a line."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stillhouse.errors import RunError, fail
from stillhouse.files import sync_folder, write_text


class Metrics:
    """``metrics.jsonl``: a line a step and a line a validation, each once however often the run was interrupted."""

    def __init__(self, path: Path, step: int, main: bool) -> None:
        self._file = None
        self.past: list[dict[str, Any]] = []
        """What was written before, of the steps that are taken."""
        if not main:
            return
        try:
            if path.exists():  # cut off what an interrupted run wrote after its last checkpoint
                kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
                write_text(path, "".join(f"{line}\n" for line in kept))
                self.past = [json.loads(line) for line in kept]
            self._file = path.open("a", encoding="utf-8")
            sync_folder(path.parent)
        except OSError as error:
            raise _unwritable(path, error) from error

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line.

        Raises:
            RunError: it could not be written.
        """
        if self._file is not None:
            try:
                self._file.write(json.dumps(line, allow_nan=False) + "\n")
                self._file.flush()
            except OSError as error:
                raise _unwritable(Path(self._file.name), error) from error

    def sync(self) -> None:
        """Make what was written durable; before a checkpoint, which takes it for granted."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """No more lines."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()


def _unwritable(path: Path, error: OSError) -> Exception:
    return fail(
        RunError,
        str(path),
        f"cannot be written: {error.strerror}. The last checkpoint stands.",
        "Make room or give write access, then run the same command again: it continues from there.",
    )


def _step_of(line: str) -> float:
    """The step of a line; infinity for a line that was cut short."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
