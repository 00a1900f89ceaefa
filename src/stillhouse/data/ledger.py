"""Rows that only ever grow in number, a batch at a time, and of which a crash loses nothing but the batch under way.

A folder of two files. ``rows.jsonl`` holds the rows, one JSON object a line, nothing else: any reader of JSON lines can use
it. ``batches.jsonl`` says after each batch how far the rows reach and what their checksum is. A batch counts once its line
there is whole; whatever lies behind it in either file, at whichever byte the process was killed, is cut off and written again.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillhouse.errors import RunError, fail

Row = dict[str, Any]


@dataclass(frozen=True)
class Batch:
    """Rows that were written together.

    Args:
        key: what they were made of.
        start: their first byte.
        stop: the byte after their last.
        crc: of their bytes.
        counts: what there is to say of them.
    """

    key: str
    start: int
    stop: int
    crc: int
    counts: dict[str, int]


class Ledger:
    """Batches of rows in a folder, read again from the first one, then written on.

    Args:
        folder: where; made if it is not there.

    Raises:
        RunError: the folder cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows, self._list = folder / "rows.jsonl", folder / "batches.jsonl"
        self._batches: list[Batch] = []
        self._next = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._batches, told = self._whole()
            for path, size in ((self.rows, self._end), (self._list, told)):
                with path.open("ab") as file:
                    file.truncate(size)
        except OSError as error:
            raise self._unusable(error) from None

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def counts(self) -> dict[str, int]:
        """The sums of what there is to say of all batches."""
        total: dict[str, int] = {}
        for batch in self._batches:
            for name, count in batch.counts.items():
                total[name] = total.get(name, 0) + count
        return total

    def next(self, key: str) -> list[Row] | None:
        """The rows of the next batch; None if there is none yet, and it is to be added.

        Args:
            key: what it must have been made of.

        Raises:
            RunError: it was made of something else, or cannot be read.
        """
        if self._next == len(self._batches):
            return None
        batch = self._batches[self._next]
        if batch.key != key:
            what = f"batch {self._next + 1} of its rows was made of other prompts than are asked for now"
            raise fail(RunError, str(self.folder), what, "Give another folder, or delete this one.")
        self._next += 1
        try:
            with self.rows.open("rb") as file:
                file.seek(batch.start)
                content = file.read(batch.stop - batch.start)
            return [json.loads(line) for line in content.splitlines()]
        except (OSError, ValueError) as error:
            raise self._unusable(error) from None

    def add(self, key: str, rows: Sequence[Row], counts: dict[str, int]) -> None:
        """Add a batch; it is on the disk when this returns.

        Raises:
            RunError: it cannot be written; what was there stays.
        """
        assert self._next == len(self._batches), "a batch is added behind the last one"
        content = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
        batch = Batch(key, self._end, self._end + len(content), zlib.crc32(content), counts)
        line = json.dumps({"key": key, "stop": batch.stop, "crc": batch.crc, "counts": counts}) + "\n"
        try:
            for path, part in ((self.rows, content), (self._list, line.encode())):
                with path.open("ab") as file:
                    file.write(part)
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            raise self._unusable(error) from None
        self._batches.append(batch)
        self._next += 1

    @property
    def _end(self) -> int:
        return self._batches[-1].stop if self._batches else 0

    def _whole(self) -> tuple[list[Batch], int]:
        """The batches up to the first that is not as it was written, and how many bytes tell of them."""
        found: list[Batch] = []
        told = end = 0
        if not (self.rows.is_file() and self._list.is_file()):
            return found, told
        with self._list.open("rb") as lines, self.rows.open("rb") as rows:
            for line in lines:
                try:
                    about = json.loads(line)
                    batch = Batch(str(about["key"]), end, int(about["stop"]), int(about["crc"]), dict(about["counts"]))
                except (ValueError, KeyError, TypeError):
                    break
                content = rows.read(max(batch.stop - end, 0))
                if not line.endswith(b"\n") or len(content) != batch.stop - end or zlib.crc32(content) != batch.crc:
                    break
                found.append(batch)
                told, end = told + len(line), batch.stop
        return found, told

    def _unusable(self, error: Exception) -> RunError:
        why = getattr(error, "strerror", None) or error
        way_out = "Make room or give write access, then run the same command again: it goes on from there."
        return fail(RunError, str(self.folder), f"cannot be used: {why}; {len(self)} batches of rows are safe", way_out)
