"""Documents on disk between reading and tokenising, in the order they came: what filters go through again and again.

In shards of some thousand documents, each written whole or not at all. Memory holds one shard, whatever the number of
documents; texts lie in files of JSON lines, which any process can read from any document on.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, fields
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stillhouse.data.render import Rendered
from stillhouse.data.store import sides, write_array
from stillhouse.files import read_json, write_bytes, write_json

SHARD_DOCUMENTS = 4096
SHARD_BYTES = 16 << 20

_DEFAULTS = {f.name: f.default for f in fields(Rendered) if f.default is not MISSING}


class Read(NamedTuple):
    """A document as it was rendered.

    Args:
        where: its source and the number of its record.
        rendered: what the format made of it.
    """

    where: str
    rendered: Rendered


class Spool:
    """Documents in a folder, once they are all written.

    Args:
        folder: where ``write`` has put them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: tuple[int, npt.NDArray[np.int64]] | None = None

    @property
    def complete(self) -> bool:
        """Whether all of it is there."""
        return (self.folder / "spool.json").is_file()

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What was told when it was completed."""
        return dict(read_json(self.folder / "spool.json", {}))

    @cached_property
    def borders(self) -> list[int]:
        """Where each shard begins, in documents, and the end."""
        return list(accumulate(self.facts["shards"], initial=0))

    @property
    def shards(self) -> int:
        """How many shards."""
        return len(self.borders) - 1

    def __len__(self) -> int:
        """How many documents."""
        return self.borders[-1]

    @cached_property
    def hashes(self) -> npt.NDArray[np.uint64]:
        """A number of each document, as good as random, that decides whether it is held out; mapped."""
        found: npt.NDArray[np.uint64] = np.load(self.folder / "hashes.npy", mmap_mode="r", allow_pickle=False)
        return found

    @cached_property
    def held_out(self) -> npt.NDArray[np.bool_]:
        """Which documents are held out for validation."""
        tasks_D = np.load(self.folder / "tasks.npy", mmap_mode="r", allow_pickle=False)
        return sides(self.hashes, tasks_D, self.facts["validation"])

    def read(self, shard: int, rows: Sequence[int]) -> list[Read]:
        """Documents of a shard.

        Args:
            shard: its number.
            rows: which of its documents, ascending.
        """
        wanted, found = set(rows), []
        with (self.folder / f"{shard:06}.jsonl").open("rb") as file:
            for number, line in enumerate(file):
                if number in wanted:
                    found.append(_decoded(line))
        return found

    def document(self, number: int) -> Read:
        """One document, by its number among all."""
        shard = bisect_right(self.borders, number) - 1
        if self._open is None or self._open[0] != shard:
            self._open = shard, np.load(self.folder / f"{shard:06}.npy", mmap_mode="r", allow_pickle=False)
        with (self.folder / f"{shard:06}.jsonl").open("rb") as file:
            file.seek(int(self._open[1][number - self.borders[shard]]))
            return _decoded(file.readline())

    def write(self, documents: Iterable[tuple[str, Rendered, int]], facts: dict[str, Any]) -> None:
        """Write all documents, each with its hash.

        Args:
            documents: where from, what the format made of it, its hash.
            facts: to be told with them; looked at only once all documents were taken.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lines: list[bytes] = []
        size, shards = 0, list[int]()
        hashes: list[npt.NDArray[np.uint64]] = []
        tasks: list[npt.NDArray[np.uint16]] = []
        own: list[tuple[int, int]] = []

        def close() -> None:
            nonlocal lines, own, size
            name = f"{len(shards):06}"
            starts = np.fromiter(accumulate(map(len, lines[:-1]), initial=0), np.int64, len(lines))
            write_array(self.folder / f"{name}.npy", starts)
            write_bytes(self.folder / f"{name}.jsonl", b"".join(lines))
            hashes.append(np.array([number for number, _ in own], dtype=np.uint64))
            tasks.append(np.array([task for _, task in own], dtype=np.uint16))
            shards.append(len(lines))
            lines, own, size = [], [], 0

        for where, rendered, number in documents:
            line = _encoded(where, rendered)
            lines.append(line)
            own.append((number, rendered.task))
            size += len(line)
            if len(lines) >= SHARD_DOCUMENTS or size >= SHARD_BYTES:
                close()
        if lines:
            close()
        write_array(self.folder / "hashes.npy", np.concatenate([np.zeros(0, np.uint64), *hashes]))
        write_array(self.folder / "tasks.npy", np.concatenate([np.zeros(0, np.uint16), *tasks]))
        write_json(self.folder / "spool.json", {"shards": shards, **facts})


def _encoded(where: str, rendered: Rendered) -> bytes:
    """A line, of what differs from the defaults."""
    content: dict[str, Any] = {"where": where}
    for name, value in vars(rendered).items():
        if name not in _DEFAULTS or value != _DEFAULTS[name]:
            content[name] = value
    # ASCII: half of a surrogate pair, which is no UTF-8, comes back as it was
    return json.dumps(content, separators=(",", ":")).encode("ascii") + b"\n"


def _decoded(line: bytes) -> Read:
    content = json.loads(line.decode("ascii"))
    where = content.pop("where")
    if content.get("loss_spans") is not None:
        content["loss_spans"] = [tuple(span) for span in content["loss_spans"]]
    return Read(where, Rendered(**content))


def walk(spool: Spool, kept: npt.NDArray[np.bool_]) -> Iterator[Read]:
    """The documents that are kept, in order."""
    for shard, (start, stop) in enumerate(zip(spool.borders, spool.borders[1:], strict=False)):
        rows = np.flatnonzero(kept[start:stop]).tolist()
        if rows:
            yield from spool.read(shard, rows)
