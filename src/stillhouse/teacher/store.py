"""The teacher's signals on disk: written once, read by any run that learns from the same teacher. See docs/store.md.

A store is a folder: ``manifest.json`` says what it holds, and ``shards/`` holds Parquet files that are never changed. A
shard's name is the hash of its content, so it is its own checksum, several machines can write into one folder, and what an
interruption leaves behind is never taken for a shard. One row is one piece of an example with the signals of its positions.
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import os
import tempfile
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from stillhouse.errors import RunError, fail
from stillhouse.files import read_json, sha256_file, sync_folder, write_bytes
from stillhouse.teacher.codec import Bytes, Codec, Columns, codec
from stillhouse.types import Batch, Head, Signal

FORMAT = 1
"""Version of what lies in a store."""

SHARD_TOKENS = 1 << 16
SHARD_SECONDS = 60.0
"""When a shard is written: what an interruption can cost."""

_LEFTOVER_SECONDS = 3600.0
_Ints = npt.NDArray[np.int64]
_ROWS = {"key": pa.string(), "offset": pa.int32(), "length": pa.int32(), "count": pa.int32()}


@dataclass(frozen=True)
class Piece:
    """A run of an example's tokens with the signals of those positions that carry loss.

    Args:
        key: of the example (``Batch.keys``).
        offset: token of the example that it begins with.
        inputs: its tokens; int32.
        selected: which of its positions have a signal; bool.
        columns: the signals, as the codec writes them: [selected, bytes of a position].
    """

    key: str
    offset: int
    inputs: npt.NDArray[np.int32]
    selected: npt.NDArray[np.bool_]
    columns: Columns


@dataclass(frozen=True)
class _Place:
    """Where a piece lies: in which shard, and which of its rows it is."""

    offset: int
    length: int
    shard: int
    row: int


@dataclass(frozen=True)
class _Text:
    """What the pieces of a shard are, without their signals."""

    inputs: npt.NDArray[np.int32]
    borders: _Ints
    selected: npt.NDArray[np.bool_]
    starts: _Ints


@dataclass
class _Shard:
    """One Parquet file.

    Args:
        path: where it lies.
        lengths: tokens of each of its pieces.
        counts: positions with a signal, of each.
        start: of its signals in the memory of the store, in positions.
        text: once it was read.
        ready: whether its signals are in the memory of the store.
    """

    path: Path
    lengths: _Ints
    counts: _Ints
    start: int
    text: _Text | None = None
    ready: bool = False
    columns: dict[str, Bytes] = field(default_factory=dict)

    @property
    def positions(self) -> int:
        """How many positions have a signal."""
        return int(self.counts.sum())


class Store:
    """A store that is there.

    What was read of a shard is kept, decompressed, in one temporary file without a name (in ``$TMPDIR``), which the
    operating system keeps in memory as far as there is room, and drops with the process.

    Args:
        path: the folder.

    Raises:
        RunError: there is no store, or one that cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest = _manifest(self.path)
        self.codec: Codec = codec(self.manifest["signal"], self.manifest["outcomes"])
        self.head = _load_head(self.path, self.manifest["head"]) if self.manifest["head"] else None
        self.dropped: dict[Path, str] = {}
        self._shards: list[_Shard] = []
        self._index: dict[str, list[_Place]] = {}
        self._open()

    @property
    def positions(self) -> int:
        """How many positions have a signal."""
        return sum(shard.positions for shard in self._shards)

    @property
    def bytes(self) -> int:
        """What the shards take on disk."""
        return sum(shard.path.stat().st_size for shard in self._shards)

    def signal(self, batch: Batch) -> Signal:
        """The signals of a batch's positions, wherever its runs begin and end in their examples.

        Raises:
            RunError: the store has none for some of them; names the first such example.
        """
        N = len(batch.select_N)
        columns = {name: np.empty((N, width), np.uint8) for name, width in self.codec.widths.items()}
        shard_N, row_N = self._find(batch)
        missing = np.flatnonzero(shard_N < 0)
        if len(missing):
            d = int(batch.document_N[missing[0]])
            at = batch.offsets_D[d] + int(batch.select_N[missing[0]]) - batch.borders_D1[d]
            broken = f"; {len(self.dropped)} of its shards are broken" if self.dropped else ""
            what = f"has no signal for {len(missing)} of {N} positions, the first of them token {at} of example"
            raise fail(
                RunError, str(self.path), f"{what} {batch.keys[d]}{broken}",
                "Label what is missing: stillhouse label <this recipe>",
            )  # fmt: skip
        for number in np.unique(shard_N).tolist():
            here = np.flatnonzero(shard_N == number)
            for name, stored in self._read(number).items():
                columns[name][here] = stored[row_N[here]]
        device = batch.input_ids_P.device
        head = self.head if self.head is None else _to(self.head, device)
        return self.codec.decode(columns, device, head)

    def covers(self, batch: Batch) -> list[bool]:
        """Whether each of the batch's D documents is there as a piece of its own, with a signal for all its positions."""
        inputs, select = batch.input_ids_P.cpu().numpy(), batch.select_N.cpu().numpy()
        found = []
        for d, (key, offset) in enumerate(zip(batch.keys, batch.offsets_D, strict=True)):
            start, stop = batch.borders_D1[d : d + 2]
            wanted = select[(select >= start) & (select < stop)] - start
            found.append(
                any(
                    place.offset == offset
                    and place.length == stop - start
                    and np.array_equal(self._inputs(place), inputs[start:stop])
                    and bool(self._selected(place)[wanted].all())
                    for place in self._index.get(key, ())
                )
            )
        return found

    def pieces(self) -> Iterator[tuple[str, int]]:
        """Key and offset of every piece."""
        return ((key, place.offset) for key, places in self._index.items() for place in places)

    def drop_broken(self) -> None:
        """Set broken shards aside, under another name, so that what they held can be labelled again."""
        for path in self.dropped:
            path.rename(path.with_suffix(".broken"))

    # -- opening --------------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        paths = sorted((self.path / "shards").glob("*.parquet"))
        with ThreadPoolExecutor() as pool:  # hashing lets other threads work
            broken = list(pool.map(_broken, paths))
        start = 0
        own = _identity(self.manifest).encode()
        expected, block = _schema(self.codec.widths), int(self.manifest["block"])
        for path, why in zip(paths, broken, strict=True):
            if why is None:
                try:
                    schema = pq.read_schema(path)
                    if (schema.metadata or {}).get(b"stillhouse") != own:
                        self.dropped[path] = "is a shard of another store"
                        continue
                    if not schema.equals(expected):
                        raise ValueError("its columns are of other types")
                    rows = pq.read_table(path, columns=list(_ROWS))
                    if any(column.null_count for column in rows.columns):
                        raise ValueError("some of its rows are empty")
                    keys, offsets, lengths, counts = (rows[name].to_pylist() for name in _ROWS)
                    if not all(0 <= n <= size <= block and size > 0 for n, size in zip(counts, lengths, strict=True)):
                        raise ValueError("its rows have lengths that cannot be")
                except (pa.ArrowException, OSError, KeyError, ValueError) as error:
                    why = f"is not a shard of this format ({error})"
            if why is not None:
                self.dropped[path] = why
                continue
            shard = _Shard(path, np.array(lengths, np.int64), np.array(counts, np.int64), start)
            for row, (key, offset, length) in enumerate(zip(keys, offsets, lengths, strict=True)):
                self._index.setdefault(key, []).append(_Place(offset, length, len(self._shards), row))
            self._shards.append(shard)
            start += shard.positions
        self._memory = _Memory(start * sum(self.codec.widths.values()))

    # -- looking up -----------------------------------------------------------------------------------------------------

    def _find(self, batch: Batch) -> tuple[_Ints, _Ints]:
        """Of each position its shard, −1 where there is none, and its row there."""
        N = len(batch.select_N)
        shard_N, row_N = np.full(N, -1), np.zeros(N, np.int64)
        inputs, select = batch.input_ids_P.cpu().numpy(), batch.select_N.cpu().numpy()
        document = batch.document_N.cpu().numpy()
        for d, (key, offset) in enumerate(zip(batch.keys, batch.offsets_D, strict=True)):
            start, stop = batch.borders_D1[d : d + 2]
            here = np.flatnonzero(document == d)
            for place in self._index.get(key, ()):
                if place.offset >= offset + stop - start or place.offset + place.length <= offset:
                    continue
                local = select[here] - start + offset - place.offset
                inside = (local >= 0) & (local < place.length) & (shard_N[here] < 0)
                which, local = here[inside], local[inside]
                selected = self._selected(place)
                # the tokens are compared too: other tokens under the same key are another example, or none at all
                same = selected[local] & (self._inputs(place)[local] == inputs[select[which]])
                which, local = which[same], local[same]
                shard_N[which] = place.shard
                row_N[which] = self._text(place.shard).starts[place.row] + np.cumsum(selected)[local] - 1
        return shard_N, row_N

    def _inputs(self, place: _Place) -> npt.NDArray[np.int32]:
        text = self._text(place.shard)
        return text.inputs[text.borders[place.row] : text.borders[place.row + 1]]

    def _selected(self, place: _Place) -> npt.NDArray[np.bool_]:
        text = self._text(place.shard)
        return text.selected[text.borders[place.row] : text.borders[place.row + 1]]

    def _text(self, number: int) -> _Text:
        shard = self._shards[number]
        if shard.text is None:
            try:
                table = pq.read_table(shard.path, columns=["inputs", "selected"])
                inputs = table["inputs"].combine_chunks().flatten().to_numpy().astype(np.int32)
                masks = table["selected"].to_pylist()
                selected = np.concatenate(
                    [
                        np.unpackbits(np.frombuffer(mask, np.uint8), count=int(length))
                        for mask, length in zip(masks, shard.lengths, strict=True)
                    ]
                ).astype(np.bool_)
            except (pa.ArrowException, OSError, KeyError, ValueError) as error:
                raise self._changed(shard, error) from None
            borders = np.concatenate([[0], np.cumsum(shard.lengths)])
            starts = np.cumsum(shard.counts) - shard.counts
            if (
                len(inputs) != borders[-1]
                or np.add.reduceat(selected.astype(np.int64), borders[:-1]).tolist() != shard.counts.tolist()
            ):
                raise self._changed(shard, "its columns do not fit each other")
            shard.text = _Text(inputs, borders, selected, starts)
        return shard.text

    def _read(self, number: int) -> dict[str, Bytes]:
        """The signals of a shard: column → [positions, bytes]."""
        shard = self._shards[number]
        if not shard.columns:
            widths = self.codec.widths
            at = shard.start * sum(widths.values())
            for name, width in widths.items():
                size = shard.positions * width
                if not shard.ready:
                    try:
                        values = pq.read_table(shard.path, columns=[name])[name].combine_chunks()
                        offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset :][: len(values) + 1]
                    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
                        raise self._changed(shard, error) from None
                    if not np.array_equal(np.diff(offsets), shard.counts * width):
                        raise self._changed(shard, f"its column '{name}' has another length than its rows say")
                    self._memory.write(at, memoryview(values.buffers()[2])[int(offsets[0]) : int(offsets[-1])])
                shard.columns[name] = self._memory.view(at, size).reshape(shard.positions, width)
                at += size
            shard.ready = True
        return shard.columns

    def _changed(self, shard: _Shard, error: object) -> RunError:
        what = f"cannot be read, though it was whole when the store was opened ({error})"
        return fail(RunError, str(shard.path), what, "Start again; label again if that does not help.")


class _Memory:
    """One temporary file without a name, mapped, that is filled in parts."""

    def __init__(self, size: int) -> None:
        handle, name = tempfile.mkstemp(prefix="stillhouse-store-")
        Path(name).unlink()
        os.ftruncate(handle, max(size, 1))
        self._handle = handle
        self._map = mmap.mmap(handle, max(size, 1), prot=mmap.PROT_READ)
        self._close = weakref.finalize(self, os.close, handle)

    def write(self, at: int, content: memoryview) -> None:
        """Fill a part. Written, not stored through the map: a full disk is then an error and not the end of the process."""
        try:
            while len(content):
                done = os.pwrite(self._handle, content, at)
                content, at = content[done:], at + done
        except OSError as error:
            what = f"cannot hold the decompressed signals: {error.strerror}"
            raise fail(RunError, tempfile.gettempdir(), what, "Set TMPDIR to a folder with room.") from None

    def view(self, at: int, size: int) -> Bytes:
        """A part, as bytes that cannot be changed."""
        return np.frombuffer(self._map, np.uint8, count=size, offset=at)


def _broken(path: Path) -> str | None:
    """What is wrong with a shard, if anything: its name is the hash of its content."""
    try:
        found = sha256_file(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if found == path.stem else "is broken: its content is not the one that its name is the checksum of"


# -- writing ----------------------------------------------------------------------------------------------------------


class Writer:
    """Collects pieces and writes them as shards.

    Args:
        path: the store's folder, with its manifest.

    Raises:
        RunError: there is no store.
    """

    def __init__(self, path: Path) -> None:
        self._folder = path / "shards"
        self._manifest = _manifest(path)
        self._folder.mkdir(parents=True, exist_ok=True)
        for leftover in self._folder.glob(".*.tmp"):  # of a killed process, on whichever machine
            if time.time() - leftover.stat().st_mtime > _LEFTOVER_SECONDS:
                leftover.unlink(missing_ok=True)
        self._pieces: list[Piece] = []
        self._tokens = 0
        self._began = time.monotonic()

    def add(self, piece: Piece) -> None:
        """Take a piece; it is safe when the shard is written."""
        self._pieces.append(piece)
        self._tokens += len(piece.inputs)
        if self._tokens >= SHARD_TOKENS or time.monotonic() - self._began >= SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what was collected as a shard."""
        if self._pieces:
            content = shard_bytes(self._pieces, self._manifest)
            try:
                write_bytes(self._folder / f"{hashlib.sha256(content).hexdigest()}.parquet", content)
                sync_folder(self._folder)
            except OSError as error:
                what, way_out = f"cannot be written: {error.strerror}", "Make room, then label again: it goes on."
                raise fail(RunError, str(self._folder), what, way_out) from None
        self._pieces, self._tokens, self._began = [], 0, time.monotonic()


def pieces_of(batch: Batch, signal: Signal, codec: Codec, there: Sequence[bool] | None = None) -> Iterator[Piece]:
    """The pieces of a batch with what the teacher says of them.

    Args:
        batch: on the CPU.
        signal: dense, of its positions.
        codec: the kind of signals.
        there: which of the batch's documents are left out, as the store has them.
    """
    columns = codec.encode(signal, batch)
    inputs = batch.input_ids_P.numpy().astype(np.int32)
    document_N = batch.document_N.numpy()
    for d, (key, offset) in enumerate(zip(batch.keys, batch.offsets_D, strict=True)):
        if there is not None and there[d]:
            continue
        start, stop = batch.borders_D1[d : d + 2]
        here = document_N == d
        selected = np.zeros(stop - start, np.bool_)
        selected[batch.select_N.numpy()[here] - start] = True
        yield Piece(key, offset, inputs[start:stop], selected, {name: c[here] for name, c in columns.items()})


def shard_bytes(pieces: list[Piece], manifest: Mapping[str, Any]) -> bytes:
    """A shard's content: the same pieces give the same bytes."""
    widths = codec(manifest["signal"], manifest["outcomes"]).widths
    content = {
        "key": [p.key for p in pieces],
        "offset": [p.offset for p in pieces],
        "length": [len(p.inputs) for p in pieces],
        "count": [int(p.selected.sum()) for p in pieces],
        "inputs": [p.inputs for p in pieces],
        "selected": [np.packbits(p.selected).tobytes() for p in pieces],
        **{name: [p.columns[name].tobytes() for p in pieces] for name in widths},
    }
    table = pa.table(content, schema=_schema(widths).with_metadata({"stillhouse": _identity(manifest)}))
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", compression_level=3, use_dictionary=False, write_statistics=False)
    return sink.getvalue()


def _schema(columns: Iterable[str]) -> pa.Schema:
    """The columns of a shard: what the pieces are, and the codec's."""
    texts = {"inputs": pa.list_(pa.int32()), "selected": pa.binary()}
    return pa.schema({**_ROWS, **texts, **dict.fromkeys(columns, pa.binary())})


def create(path: Path, manifest: Mapping[str, Any], head: Head | None = None) -> None:
    """Make a store, or find that the one there holds the same kind of signals of the same teacher.

    Args:
        path: the folder.
        manifest: from ``describe``.
        head: the teacher's, where the kind needs it.

    Raises:
        RunError: there is another store, or the folder cannot be written.
    """
    content = dict(manifest) | {"head": None}
    try:
        path.mkdir(parents=True, exist_ok=True)
        if head is not None:
            tensors = {"weight": head.weight_VH} | ({} if head.bias_V is None else {"bias": head.bias_V})
            data = save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
            content["head"] = {
                "sha256": hashlib.sha256(data).hexdigest(), "scale": head.scale, "softcap": head.softcap
            }  # fmt: skip
        if not _write_new(path / "manifest.json", content | {"sha256": _identity(content)}):
            refuse_foreign(path, _manifest(path), content)
        if head is not None and not _is_head(path, content["head"]):
            write_bytes(path / "head.safetensors", data)
    except OSError as error:
        raise fail(RunError, str(path), f"cannot be written: {error.strerror}", "Set teacher.path.") from None


def describe(
    settings: Mapping[str, Any], *, teacher: str, tokenizer: str, outcomes: int, block: int, arithmetic: str
) -> dict[str, Any]:
    """A manifest: all that the signals of an example depend on.

    Args:
        settings: of the codec.
        teacher: fingerprint of its weights.
        tokenizer: fingerprint of its tokenizer.
        outcomes: V.
        block: tokens of the longest piece, which is what the teacher may see before a position.
        arithmetic: type the teacher computed in.
    """
    return {
        "format": FORMAT, "signal": dict(settings), "teacher": teacher, "tokenizer": tokenizer, "outcomes": outcomes,
        "block": block, "arithmetic": arithmetic,
    }  # fmt: skip


def refuse_foreign(path: Path, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse a store whose manifest differs in anything that is wanted of it.

    Raises:
        RunError: names what differs.
    """
    different = [
        f"{_NAMES[name]} is {_short(there.get(name))}, not {_short(value)}"
        for name, value in wanted.items()
        if there.get(name) != value
    ]
    if different:
        raise fail(
            RunError, str(path), f"is a store of other signals: {'; '.join(different)}",
            "Give these their own folder (teacher.path=…), or set the recipe to what the store holds.",
        )  # fmt: skip


_NAMES = {
    "format": "its version",
    "signal": "the kind of signal",
    "teacher": "the teacher (a hash of its weights)",
    "tokenizer": "the tokenizer (a hash)",
    "outcomes": "the number of outcomes",
    "block": "data.block",
    "arithmetic": "the arithmetic (teacher.dtype)",
    "head": "the teacher's head",
}


def _short(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:
        return f"{value[:12]}…"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_short(each)}" for name, each in value.items()) + "}"
    return str(value)


def _write_new(path: Path, content: Mapping[str, Any]) -> bool:
    """Write a JSON file unless there is one; of several processes exactly one does."""
    if path.exists():
        return False
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")
    write_bytes(temporary, (json.dumps(content, indent=2) + "\n").encode())
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def _identity(manifest: Mapping[str, Any]) -> str:
    """A hash of a manifest, which every shard of the store carries."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _manifest(path: Path) -> dict[str, Any]:
    file = path / "manifest.json"
    try:
        found = read_json(file, None)
        if found is None:
            way_out = "Make it: stillhouse label <this recipe>"
            raise fail(RunError, str(path), "there is no store of signals (no manifest.json)", way_out)
        if not isinstance(found, dict) or found.get("format") != FORMAT or set(_NAMES) - set(found):
            raise ValueError(f"not version {FORMAT} of the format")
        if found.pop("sha256", None) != _identity(found):
            raise ValueError("its checksum is another")
        codec(found["signal"], int(found["outcomes"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise fail(
            RunError, str(file), f"is not the manifest of a store that can be read ({error})",
            "Bring the file back, or give another folder (teacher.path=…) and label again.",
        ) from None  # fmt: skip
    return found


def _is_head(path: Path, about: Mapping[str, Any]) -> bool:
    file = path / "head.safetensors"
    return file.is_file() and sha256_file(file) == about["sha256"]


def _load_head(path: Path, about: Mapping[str, Any]) -> Head:
    file = path / "head.safetensors"
    try:
        if not _is_head(path, about):
            raise ValueError("its checksum is not the manifest's")
        tensors: dict[str, Tensor] = load_tensors(file.read_bytes())
        return Head(tensors["weight"], tensors.get("bias"), about["scale"], about["softcap"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        way_out = "Label again: it is written anew."
        raise fail(RunError, str(file), f"is missing or broken ({error})", way_out) from None


def _to(head: Head, device: torch.device) -> Head:
    bias_V = None if head.bias_V is None else head.bias_V.to(device)
    return Head(head.weight_VH.to(device), bias_V, head.scale, head.softcap)
