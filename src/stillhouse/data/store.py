"""Arrays on disk that grow while they are written and are mapped, not read, afterwards."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from stillhouse.files import write_bytes

DOCUMENT = np.dtype(
    [
        ("key", "V16"),  # hash of the text
        ("share", "<u8"),  # hash of key and seed: its place in the order of documents, and its side
        ("start", "<i8"),  # of its positions in the arrays
        ("length", "<i8"),  # positions
        ("loss", "<i8"),  # positions that carry loss
        ("bytes", "<i8"),  # UTF-8 bytes of the labels that carry loss
        ("whole", "?"),  # never cut into pieces
        ("truth", "?"),  # its labels are known
        ("side", "u1"),
        ("task", "<u2"),  # number of its task
        ("weight", "<f4"),  # what it counts in the loss
        ("text", "<i8"),  # where its text begins in the texts
        ("text_bytes", "<i8"),
    ]
)
"""One row a document."""

TRAIN, VALIDATION, TEST = range(3)
"""Sides of a corpus."""

COLUMNS: dict[str, np.dtype[Any]] = {
    "inputs": np.dtype("<i4"),
    "labels": np.dtype("<i4"),
    "bytes": np.dtype("<u4"),
    "documents": DOCUMENT,
    "texts": np.dtype("u1"),
}
"""Array → what it holds: inputs, labels and bytes have one entry a position, documents after one another as they came; ``texts``
the UTF-8 bytes of all documents as they were tokenised; ``documents`` is in the order of sides and shares."""


class Column:
    """A one-dimensional .npy file that is appended to; memory does not grow with it."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.length = 0
        self._file = path.open("wb")
        self._file.write(self._header())

    def _header(self) -> bytes:
        header = io.BytesIO()
        content = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(header, content)
        return header.getvalue()

    def append(self, values: npt.NDArray[Any]) -> None:
        """Add values at the end."""
        assert values.dtype == self.dtype and values.ndim == 1, (values.dtype, values.shape)
        self._file.write(values.tobytes())
        self.length += len(values)

    def close(self) -> None:
        """Write the length into the header, for which numpy leaves room."""
        old, new = self._file.tell(), self._header()
        self._file.seek(0)
        self._file.write(new)
        assert old == len(new) + self.length * self.dtype.itemsize
        self._file.close()

    def __enter__(self) -> Column:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()


class Seen:
    """Hashes of 128 bits that were met before, in a third of the memory of a set of Python: 23 to 46 bytes each."""

    _FULL = 0.7

    def __init__(self) -> None:
        self.count = 0
        self._cells = self._empty(1 << 10)
        self._zero = False  # 0 and 0, which would be a free place

    @staticmethod
    def _empty(size: int) -> memoryview[int]:
        """Twice as many numbers as there are places; 0 and 0 where a place is free."""
        return memoryview(bytearray(16 * size)).cast("Q")

    def add(self, key: bytes) -> bool:
        """Take note of a hash.

        Returns:
            whether it is new.
        """
        if self.count >= self._FULL * len(self._cells) / 2:
            old, self._cells = self._cells, self._empty(len(self._cells))
            for i in range(0, len(old), 2):
                if old[i] or old[i + 1]:
                    self._put(old[i], old[i + 1])
        low, high = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
        if low or high:
            new = self._put(low, high)
        else:
            new, self._zero = not self._zero, True
        self.count += new
        return new

    def _put(self, low: int, high: int) -> bool:
        cells = self._cells
        places = len(cells) // 2
        place = low % places
        while cells[2 * place] or cells[2 * place + 1]:
            if cells[2 * place] == low and cells[2 * place + 1] == high:
                return False
            place = (place + 1) % places
        cells[2 * place], cells[2 * place + 1] = low, high
        return True


def write_array(path: Path, values: npt.NDArray[Any]) -> None:
    """Write a whole .npy file, or leave the old one as it was; a matrix column by column, so that one can be mapped alone."""
    content = io.BytesIO()
    np.save(content, np.asfortranarray(values), allow_pickle=False)
    write_bytes(path, content.getvalue())


def partitions(numbers_D: npt.NDArray[np.uint64], most: int = 1 << 20) -> Iterator[npt.NDArray[np.int64]]:
    """Rows of numbers that are as good as random, in parts of about ``most``, part by part in the order of the numbers.

    What is sorted a part at a time needs the memory of a part.
    """
    bits = max(0, (len(numbers_D) // most).bit_length())
    if not bits:
        yield np.arange(len(numbers_D))
        return
    top_D = (numbers_D >> np.uint64(64 - min(bits, 8))).astype(np.uint8)
    for part in range(1 << min(bits, 8)):
        yield np.flatnonzero(top_D == part)


def below(shares_D: npt.NDArray[np.uint64], validation: float) -> npt.NDArray[np.bool_]:
    """Which documents' numbers say that they are held out.

    Args:
        shares_D: of each document a number that is as good as random.
        validation: the share to be held out.
    """
    return shares_D < np.uint64(min(int(validation * 2.0**64), 2**64 - 1))


def sides(
    shares_D: npt.NDArray[np.uint64], tasks_D: npt.NDArray[np.integer[Any]], validation: float
) -> npt.NDArray[np.bool_]:
    """Which documents are held out: those whose number says so; of each task at least one, and never all.

    The one document of a task that has no other is learned from, if any other document is held out.

    Args:
        shares_D: of each document a number that is as good as random.
        tasks_D: of each document the number of its task.
        validation: the share to be held out.
    """
    out_D = below(shares_D, validation)
    for task in np.unique(tasks_D):
        mine = np.flatnonzero(tasks_D == task)
        if not out_D[mine].any():
            out_D[mine[np.argmin(shares_D[mine])]] = True
        if out_D[mine].all():
            out_D[mine[np.argmax(shares_D[mine])]] = False
    if len(out_D) and not out_D.any():
        out_D[np.argmin(shares_D)] = True
    return out_D


def column(folder: Path, name: str, writable: bool = False) -> np.memmap[Any, np.dtype[Any]]:
    """One of the arrays, mapped."""
    array = np.load(folder / f"{name}.npy", mmap_mode="r+" if writable else "r", allow_pickle=False)
    if not isinstance(array, np.memmap):
        raise ValueError(f"{name}.npy is no array")
    if array.dtype != COLUMNS[name]:
        raise ValueError(f"{name}.npy holds {array.dtype}, not {COLUMNS[name]}")
    return array
