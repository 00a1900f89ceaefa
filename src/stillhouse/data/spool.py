"""Documents on disk between reading and tokenising, in the order they came: what filters go through again and again.

In shards of some thousand documents, each written whole or not at all. Memory holds one shard, whatever the number of
documents; texts lie in files of JSON lines, which any process can read from any document on.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from stillhouse.data.render import UNKNOWN, Rendered
from stillhouse.data.store import TRAIN, Column, below, sides, write_array
from stillhouse.files import read_json, write_bytes, write_json

SHARD_DOCUMENTS = 16384
SHARD_BYTES = 16 << 20
_OPEN = 64
"""Files of shards that are kept open, for single documents."""

_ROW = np.dtype([("hash", "<u8"), ("task", "<u2"), ("side", "u1"), ("truth", "?")])
"""Of each document a number that is as good as random, its task, the side its source is for, whether its labels are known."""

_ENCODER = json.JSONEncoder(separators=(",", ":"))
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
        self._open: dict[int, tuple[npt.NDArray[np.int64], BinaryIO]] = {}
        self._last: tuple[tuple[int, bytes], list[Rendered]] | None = None

    @property
    def complete(self) -> bool:
        """Whether all of it is there."""
        return (self.folder / "spool.json").is_file() and (self.folder / "rows.npy").is_file()

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
    def rows(self) -> npt.NDArray[np.void]:
        """What is known of each document, as ``_ROW``; mapped."""
        found: npt.NDArray[np.void] = np.load(self.folder / "rows.npy", mmap_mode="r", allow_pickle=False)
        return found

    @property
    def hashes(self) -> npt.NDArray[np.uint64]:
        """A number of each document, as good as random, that decides whether it is held out where a share is."""
        return np.asarray(self.rows["hash"])

    @cached_property
    def stays(self) -> npt.NDArray[np.bool_]:
        """Which documents are of files of held-out texts: they stay as they are."""
        return np.asarray(self.rows["side"] != TRAIN)

    @cached_property
    def held_out(self) -> npt.NDArray[np.bool_]:
        """Which documents are held out: those of such files; without one for validation also a share of those with labels."""
        out_D, mine = self.stays.copy(), self._shared
        if len(mine):
            out_D[mine] = sides(self.hashes[mine], self.rows["task"][mine], self.facts["validation"])
        return out_D

    @cached_property
    def moved(self) -> npt.NDArray[np.uint64]:
        """Hashes of the documents that are on the other side than their hash says, so that no side is empty."""
        mine = self._shared
        hashes_D = self.hashes[mine]
        changed_D = self.held_out[mine] != below(hashes_D, self.facts["validation"] or 0.0)
        return np.asarray(hashes_D[changed_D], dtype=np.uint64)

    @property
    def _shared(self) -> npt.NDArray[np.int64]:
        """The documents of which a share is held out: none where files are held out for validation."""
        mine_D = ~self.stays & self.rows["truth"] if self.facts["validation"] is not None else np.zeros(len(self), bool)
        return np.flatnonzero(mine_D)

    def read(self, shard: int, rows: npt.NDArray[np.int64]) -> list[Read]:
        """Documents of a shard.

        Args:
            shard: its number.
            rows: which of its documents, ascending.
        """
        lines = (self.folder / f"{shard:06}.jsonl").read_bytes().split(b"\n")
        # one list for the parser, which is several times as fast as line by line
        wanted = lines[:-1] if len(rows) == len(lines) - 1 else [lines[row] for row in rows.tolist()]
        return [_decoded(content) for content in json.loads(b"[" + b",".join(wanted) + b"]")]

    def rendered(self, shard: int, rows: npt.NDArray[np.int64]) -> list[Rendered]:
        """As ``read``, without where they came from; the same list again if the same is asked for again."""
        asked = shard, rows.tobytes()
        if self._last is None or self._last[0] != asked:
            self._last = None  # the old ones are let go before others come
            self._last = asked, [each.rendered for each in self.read(shard, rows)]
        return self._last[1]

    def document(self, number: int) -> Read:
        """One document, by its number among all."""
        shard = bisect_right(self.borders, number) - 1
        if shard not in self._open:
            starts = np.load(self.folder / f"{shard:06}.npy", mmap_mode="r", allow_pickle=False)
            self._open[shard] = starts, (self.folder / f"{shard:06}.jsonl").open("rb")
            if len(self._open) > _OPEN:
                self._open.pop(next(iter(self._open)))[1].close()
        starts, file = self._open[shard]
        file.seek(int(starts[number - self.borders[shard]]))
        return _decoded(json.loads(file.readline()))

    def write(self, documents: Iterable[tuple[str, Rendered, int, int]], facts: dict[str, Any]) -> None:
        """Write all documents, each with its hash.

        Args:
            documents: where from, what the format made of it, the side its source is for, its hash.
            facts: to be told with them; ``validation`` is the share to hold out, None where there are files for it. Looked
                at only once all documents were taken.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lines: list[bytes] = []
        size, shards = 0, list[int]()
        own: list[tuple[int, int, int, bool]] = []
        rows = Column(self.folder / "rows.npy.tmp", _ROW)

        def close() -> None:
            nonlocal lines, own, size
            name = f"{len(shards):06}"
            starts = np.fromiter(accumulate(map(len, lines[:-1]), initial=0), np.int64, len(lines))
            write_array(self.folder / f"{name}.npy", starts)
            write_bytes(self.folder / f"{name}.jsonl", b"".join(lines))
            rows.append(np.array(own, _ROW))
            shards.append(len(lines))
            lines, own, size = [], [], 0

        with rows:
            for where, rendered, side, number in documents:
                line = _encoded(where, rendered)
                lines.append(line)
                own.append((number, rendered.task, side, rendered.label != UNKNOWN))
                size += len(line)
                if len(lines) >= SHARD_DOCUMENTS or size >= SHARD_BYTES:
                    close()
            if lines:
                close()
        (self.folder / "rows.npy.tmp").replace(self.folder / "rows.npy")
        write_json(self.folder / "spool.json", {"shards": shards, **facts})


def _encoded(where: str, rendered: Rendered) -> bytes:
    """A line, of what differs from the defaults."""
    content: dict[str, Any] = {"where": where}
    for name, value in vars(rendered).items():
        if name not in _DEFAULTS or value != _DEFAULTS[name]:
            content[name] = value
    # ASCII: half of a surrogate pair, which is no UTF-8, comes back as it was
    return _ENCODER.encode(content).encode("ascii") + b"\n"


def _decoded(content: dict[str, Any]) -> Read:
    where = content.pop("where")
    if "loss_spans" in content:
        content["loss_spans"] = [tuple(span) for span in content["loss_spans"]]
    return Read(where, Rendered(**content))


def walk(spool: Spool, kept: npt.NDArray[np.bool_]) -> Iterator[Read]:
    """The documents that are kept, in order."""
    for shard, (start, stop) in enumerate(zip(spool.borders, spool.borders[1:], strict=False)):
        rows = np.flatnonzero(kept[start:stop])
        if len(rows):
            yield from spool.read(shard, rows)
